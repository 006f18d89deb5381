"""
Where everything is put together: from settings to a running daemon.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

from twisted.application.service import IService
from twisted.internet.endpoints import serverFromString
from twisted.logger import Logger
from twisted.web.resource import Resource

from nanomdm import __version__
from nanomdm.assembly import certificates, declarative, identities, token_handlers
from nanomdm.config import Options, Settings, refuse
from nanomdm.crypto.pushcert import PushCertificate
from nanomdm.daemon import Daemon, Job
from nanomdm.errors import ConfigError
from nanomdm.http.api.guard import VersionEndpoint
from nanomdm.http.api.keys import APIKeys, read_api_keys
from nanomdm.http.api.migration import MigrationEndpoint
from nanomdm.http.api.parts import APIParts
from nanomdm.http.api.tree import api_tree
from nanomdm.http.authproxy import AuthProxyEndpoint
from nanomdm.http.device import DeviceEndpoint
from nanomdm.http.dump import DumpedEndpoint
from nanomdm.http.endpoint import Endpoint, Folder
from nanomdm.http.offload import Offloader
from nanomdm.http.site import Site
from nanomdm.http.tls import ServerTLS, TLSEndpoint, TLSFiles
from nanomdm.interfaces import IPusher, IStorage
from nanomdm.listen import endpoint_description, speaks_tls
from nanomdm.metrics.registry import Metrics
from nanomdm.monitoring import Monitoring
from nanomdm.outbound import OutboundClient, open_client
from nanomdm.output import standard_output
from nanomdm.push.address import ProxyURL, proxy_to_use
from nanomdm.push.endpoint import APNsConnector
from nanomdm.push.expiry import ExpiryWatch
from nanomdm.push.repush import Repusher
from nanomdm.push.service import PushService
from nanomdm.reload import Reloader, Source
from nanomdm.service.association import CertificateAssociation
from nanomdm.service.backlog import BacklogWatch
from nanomdm.service.core import MDMService
from nanomdm.service.escrow import EscrowKeyUnlocker
from nanomdm.service.events import EventSource
from nanomdm.service.receiver import Receiver
from nanomdm.service.webhook import Webhook
from nanomdm.storage.factory import open_storage
from nanomdm.systemd import ServiceManager

__all__ = ["Options", "makeService"]

_log: Final = Logger(namespace="nanomdm")


def makeService(options: Options) -> IService:
    """
    Build the daemon for C{twistd nanomdm}.

    @param options: parsed by C{twistd}.
    @raise SystemExit: something that the settings name can not be used; one
        line on standard error says what.
    """
    from twisted.internet import reactor

    reactor.callWhenRunning(_settle)
    try:
        daemon = build(options.settings, reactor)
        hand_over(options.settings, options.parent or {})
        if options.settings.dump:
            _dump(reactor)
        return daemon
    except ConfigError as error:
        refuse(error)


def hand_over(settings: Settings, twistd: Mapping[str, Any]) -> None:
    """
    Give database files to the user that the process is about to become: they were
    opened before twistd goes from root to C{--uid} and C{--gid}.

    @param twistd: twistd's own options.
    @raise ConfigError: that is not possible.
    """
    ids = [-1 if twistd.get(name) is None else twistd[name] for name in ("uid", "gid")]
    if ids == [-1, -1]:
        return
    for storage in settings.storages:
        if isinstance(storage.dsn, Path):
            try:
                os.chown(storage.dsn, *ids)
            except OSError as error:
                raise ConfigError(f"--uid: {storage.dsn}: {error.strerror}") from None


def _dump(reactor: Any) -> None:
    """
    Let nobody wait for who reads standard output, up to the last line of the log.
    """
    _log.warn("--dump shows secrets: tokens, push magic and passwords go to standard output")
    output = standard_output()
    reactor.callWhenRunning(output.start)
    reactor.addSystemEventTrigger("after", "shutdown", output.stop)


def _settle() -> None:
    """
    What was loaded stays: otherwise each full garbage collection goes through all of
    it, and every device waits for 20 to 30 ms.
    """
    gc.collect()
    gc.freeze()


def build(settings: Settings, reactor: Any) -> Daemon:
    """
    @param settings: what the daemon is to be.
    @param reactor: the reactor, handed on to everything that needs one.
    @raise ConfigError: a file that the settings name can not be used.
    """
    proxy = proxy_to_use(settings.apns_proxy, os.environ, settings.apns_url)
    _log.info("starting", **_summary(settings, proxy))
    manager = ServiceManager(
        reactor, os.environ, f"Serves at {settings.listen}", _monotonic_microseconds
    )
    reloader = Reloader(reactor, reactor.getThreadPool(), manager.reloading, manager.ready)
    tls = _tls(settings)
    trust = certificates(settings.apns_ca, "--apns-ca")
    metrics = Metrics(reactor)
    metrics.certificates.add_authorities("apns-ca", trust)
    storage = open_storage(settings.storages, reactor, metrics.storage)
    pusher = PushService(
        storage,
        APNsConnector(reactor, settings.apns_url, trust, proxy),
        reactor,
        expiration=settings.push_expiration,
        connections=settings.apns_connections,
        schedule=settings.repush > 0,
        metrics=metrics.pushes,
    )
    jobs: list[Job] = [ExpiryWatch(storage, reactor, _now)]
    if settings.repush:
        jobs.append(Repusher(storage, pusher, reactor, settings.repush, SystemRandom()))
    endpoint = serverFromString(reactor, endpoint_description(settings.listen))
    if tls is not None:
        endpoint = TLSEndpoint(endpoint, tls, reactor)
        reloader.add(tls.source)
        metrics.certificates.watch_server(tls.not_after)
    webhook = _webhook(settings, storage, reactor, metrics)
    if webhook is not None:
        jobs.append(BacklogWatch(storage, reactor))
    http = open_client(reactor)
    keys = _api_keys(settings, reloader)
    root = _root(settings, keys, storage, pusher, http, webhook, metrics, reactor)
    monitoring = Monitoring(metrics, storage, reactor, webhook is not None)
    monitoring.add_probes(root)
    if settings.metrics_listen is None and settings.has_api:
        monitoring.add_guarded(root, keys)
    site = Site(root, reactor, settings.max_body_size, metrics=metrics.http)
    metrics.http.watch(site)
    jobs.append(monitoring.numbers)
    # Last, since it says that everything else has started.
    jobs.append(manager)
    return Daemon(
        reactor,
        endpoint,
        settings.listen,
        site,
        storage,
        pusher,
        http,
        jobs,
        settings.cert_header,
        webhook,
        reloader,
        monitoring.readiness,
        None if settings.metrics_listen is None else monitoring.listener(settings.metrics_listen),
    )


def _tls(settings: Settings) -> ServerTLS | None:
    if settings.tls_cert is None:
        return None
    files = TLSFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    return ServerTLS(files, _now)


def _webhook(
    settings: Settings, storage: IStorage, reactor: Any, metrics: Metrics
) -> Webhook | None:
    if settings.webhook_url is None:
        return None
    key = settings.webhook_hmac_key
    trust = certificates(settings.webhook_ca, "--webhook-ca")
    metrics.certificates.add_authorities("webhook-ca", trust)
    receiver = Receiver(
        # Its own, since it trusts others and ends before the storage.
        open_client(reactor, trust),
        settings.webhook_url,
        None if key is None else key.encode(),
        Offloader(reactor, reactor.getThreadPool()).run,
    )
    return Webhook(
        storage,
        receiver,
        reactor,
        SystemRandom(),
        concurrency=settings.webhook_concurrency,
        max_age=settings.webhook_max_age,
        metrics=metrics.webhook,
    )


def _summary(settings: Settings, proxy: ProxyURL | None) -> dict[str, str | bool]:
    """
    What the log says of the settings at the start.
    """
    identity = "Mdm-Signature"
    if settings.disable_mdm:
        identity = "none, devices are not served"
    elif settings.cert_header is not None:
        identity = f"header {settings.cert_header}"
    elif settings.tls_client_ca is not None:
        identity = "TLS session"
    return {
        "version": __version__,
        "storage": ", ".join(f"{one.kind} {one.shown}" for one in settings.storages),
        "tls": settings.tls_cert is not None or speaks_tls(settings.listen),
        "identity": identity,
        "api": settings.has_api,
        "apns": settings.apns_url.host_and_port,
        "proxy": "none" if proxy is None else proxy.host_and_port,
    }


def _now() -> datetime:
    return datetime.now(UTC)


def _monotonic_microseconds() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def _root(
    settings: Settings,
    keys: APIKeys,
    storage: IStorage,
    pusher: IPusher,
    http: OutboundClient,
    webhook: Webhook | None,
    metrics: Metrics,
    reactor: Any,
) -> Resource:
    offloader = Offloader(reactor, reactor.getThreadPool())
    root = Folder()
    root.putChild(b"version", VersionEndpoint())
    forget = None
    if not settings.disable_mdm:
        events = None if webhook is None else EventSource(webhook.wake, _now, settings.webhook_idle)
        association = _association(settings, storage, reactor)
        forget = association.forget
        _add_device_endpoints(
            root, settings, storage, http, events, offloader, metrics, association
        )
    if settings.has_api:
        parts = APIParts(
            keys,
            storage,
            pusher,
            offloader,
            _unlocker(settings, storage, reactor),
            None if webhook is None else webhook.wake,
            _now,
            settings.api_secrets,
            forget,
        )
        root.putChild(b"v1", api_tree(parts))
        if settings.migration:
            root.putChild(b"migration", MigrationEndpoint(keys, storage, offloader))
    return root


def _api_keys(settings: Settings, reloader: Reloader) -> APIKeys:
    keys = APIKeys(settings.api)
    if settings.api_key_file is not None:
        listed = Source("API keys", partial(read_api_keys, settings.api_key_file), keys.replace)
        listed.take(listed.read())
        reloader.add(listed)
    return keys


def _association(settings: Settings, storage: IStorage, reactor: Any) -> CertificateAssociation:
    return CertificateAssociation(
        storage,
        reactor.seconds,
        retro=settings.retro,
        superseded_grace=settings.superseded_identity_grace,
    )


def _add_device_endpoints(
    root: Resource,
    settings: Settings,
    storage: IStorage,
    http: OutboundClient,
    events: EventSource | None,
    offloader: Offloader,
    metrics: Metrics,
    association: CertificateAssociation,
) -> None:
    service = MDMService(
        storage,
        association,
        zero_length_challenge=settings.ua_zl_dc,
        token_handlers=token_handlers(settings, http),
        declarative=declarative(settings, http),
        events=events,
        metrics=metrics.devices,
    )
    source = identities(settings, offloader, metrics.certificates)
    mdm = DeviceEndpoint(service, source, offloader, checkins=not settings.checkin)
    root.putChild(b"mdm", _dumped(mdm, settings))
    if settings.checkin:
        checkin = DeviceEndpoint(service, source, offloader, reports=False)
        root.putChild(b"checkin", _dumped(checkin, settings))
    if settings.auth_proxy_url is not None:
        url, header = settings.auth_proxy_url, settings.cert_header
        proxy = AuthProxyEndpoint(source, association, http, url, header)
        root.putChild(b"authproxy", proxy)


def _dumped(endpoint: DeviceEndpoint, settings: Settings) -> Endpoint:
    return DumpedEndpoint(endpoint, standard_output().show, _now) if settings.dump else endpoint


def _unlocker(settings: Settings, storage: IStorage, reactor: Any) -> EscrowKeyUnlocker:
    ca = certificates(settings.escrow_key_unlock_ca, "--escrow-key-unlock-ca")

    def open_as(certificate: PushCertificate) -> OutboundClient:
        return open_client(reactor, ca, certificate=certificate)

    return EscrowKeyUnlocker(storage, open_as, settings.escrow_key_unlock_url)
