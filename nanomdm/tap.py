"""
Where everything is put together: from settings to a running daemon.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

from cryptography import x509
from twisted.application.service import IService
from twisted.internet.endpoints import serverFromString
from twisted.logger import Logger
from twisted.web.resource import Resource

from nanomdm import __version__
from nanomdm.config import Options, Settings, refuse
from nanomdm.crypto.chain import ChainVerifier, load_certificates
from nanomdm.crypto.cms import SignatureVerifier
from nanomdm.crypto.pushcert import PushCertificate
from nanomdm.daemon import Daemon, Job
from nanomdm.errors import ConfigError
from nanomdm.http.api.guard import VersionEndpoint
from nanomdm.http.api.keys import APIKeys, read_api_keys
from nanomdm.http.api.migration import MigrationEndpoint
from nanomdm.http.api.tree import APIParts, api_tree
from nanomdm.http.authproxy import AuthProxyEndpoint
from nanomdm.http.device import DeviceEndpoint
from nanomdm.http.dump import DumpedEndpoint
from nanomdm.http.endpoint import Endpoint, Folder
from nanomdm.http.identity import (
    HeaderIdentity,
    IdentitySource,
    SignatureIdentity,
    TLSIdentity,
)
from nanomdm.http.offload import Offloader
from nanomdm.http.site import Site
from nanomdm.http.tls import ServerTLS, TLSEndpoint, TLSFiles
from nanomdm.interfaces import IPusher, IStorage, ITokenHandler
from nanomdm.listen import endpoint_description, speaks_tls
from nanomdm.outbound import OutboundClient, open_client
from nanomdm.output import standard_output
from nanomdm.push.address import ProxyURL, proxy_to_use
from nanomdm.push.endpoint import APNsConnector
from nanomdm.push.expiry import ExpiryWatch
from nanomdm.push.repush import Repusher
from nanomdm.push.service import PushService
from nanomdm.service.association import CertificateAssociation
from nanomdm.service.backlog import BacklogWatch
from nanomdm.service.core import MDMService
from nanomdm.service.declarative import DeclarativeManagementClient
from nanomdm.service.escrow import EscrowKeyUnlocker
from nanomdm.service.events import EventSource
from nanomdm.service.receiver import Receiver
from nanomdm.service.tokens import HTTPTokenHandler, read_token
from nanomdm.service.webhook import Webhook
from nanomdm.storage.factory import open_storage

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
    tls = _tls(settings, reactor)
    trust = _certificates(settings.apns_ca, "--apns-ca")
    storage = open_storage(settings.storages, reactor)
    pusher = PushService(
        storage,
        APNsConnector(reactor, settings.apns_url, trust, proxy),
        reactor,
        expiration=settings.push_expiration,
        connections=settings.apns_connections,
        schedule=settings.repush > 0,
    )
    jobs: list[Job] = [ExpiryWatch(storage, reactor, _now)]
    if settings.repush:
        jobs.append(Repusher(storage, pusher, reactor, settings.repush, SystemRandom()))
    endpoint = serverFromString(reactor, endpoint_description(settings.listen))
    if tls is not None:
        endpoint = TLSEndpoint(endpoint, tls, reactor)
        jobs.append(tls)
    webhook = _webhook(settings, storage, reactor)
    if webhook is not None:
        jobs.append(BacklogWatch(storage, reactor))
    http = open_client(reactor)
    root = _root(settings, storage, pusher, http, webhook, reactor)
    return Daemon(
        reactor,
        endpoint,
        settings.listen,
        Site(root, reactor, settings.max_body_size),
        storage,
        pusher,
        http,
        jobs,
        settings.cert_header,
        webhook,
    )


def _tls(settings: Settings, reactor: Any) -> ServerTLS | None:
    if settings.tls_cert is None:
        return None
    files = TLSFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    return ServerTLS(files, reactor, reactor.getThreadPool(), _now)


def _webhook(settings: Settings, storage: IStorage, reactor: Any) -> Webhook | None:
    if settings.webhook_url is None:
        return None
    key = settings.webhook_hmac_key
    receiver = Receiver(
        # Its own, since it trusts others and ends before the storage.
        open_client(reactor, _certificates(settings.webhook_ca, "--webhook-ca")),
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


def _root(
    settings: Settings,
    storage: IStorage,
    pusher: IPusher,
    http: OutboundClient,
    webhook: Webhook | None,
    reactor: Any,
) -> Resource:
    offloader = Offloader(reactor, reactor.getThreadPool())
    root = Folder()
    root.putChild(b"version", VersionEndpoint())
    if not settings.disable_mdm:
        events = None if webhook is None else EventSource(webhook.wake, _now, settings.webhook_idle)
        _add_device_endpoints(root, settings, storage, http, events, offloader, reactor)
    if settings.has_api:
        keys = _api_keys(settings)
        parts = APIParts(
            keys,
            storage,
            pusher,
            offloader,
            _unlocker(settings, storage, reactor),
            None if webhook is None else webhook.wake,
            _now,
            settings.api_secrets,
        )
        root.putChild(b"v1", api_tree(parts))
        if settings.migration:
            root.putChild(b"migration", MigrationEndpoint(keys, storage, offloader))
    return root


def _api_keys(settings: Settings) -> APIKeys:
    listed = () if settings.api_key_file is None else read_api_keys(settings.api_key_file)
    return APIKeys(settings.api, listed)


def _add_device_endpoints(
    root: Resource,
    settings: Settings,
    storage: IStorage,
    http: OutboundClient,
    events: EventSource | None,
    offloader: Offloader,
    reactor: Any,
) -> None:
    association = CertificateAssociation(
        storage,
        reactor.seconds,
        retro=settings.retro,
        superseded_grace=settings.superseded_identity_grace,
    )
    service = MDMService(
        storage,
        association,
        zero_length_challenge=settings.ua_zl_dc,
        token_handlers=_token_handlers(settings, http),
        declarative=_declarative(settings, http),
        events=events,
    )
    identities = _identities(settings, offloader)
    mdm = DeviceEndpoint(service, identities, offloader, checkins=not settings.checkin)
    root.putChild(b"mdm", _dumped(mdm, settings))
    if settings.checkin:
        checkin = DeviceEndpoint(service, identities, offloader, reports=False)
        root.putChild(b"checkin", _dumped(checkin, settings))
    if settings.auth_proxy_url is not None:
        url, header = settings.auth_proxy_url, settings.cert_header
        proxy = AuthProxyEndpoint(identities, association, http, url, header)
        root.putChild(b"authproxy", proxy)


def _dumped(endpoint: DeviceEndpoint, settings: Settings) -> Endpoint:
    return DumpedEndpoint(endpoint, standard_output().show, _now) if settings.dump else endpoint


def _token_handlers(settings: Settings, http: OutboundClient) -> list[ITokenHandler]:
    handlers: list[ITokenHandler] = [read_token(file) for file in settings.token]
    if settings.token_url is not None:
        handlers.append(HTTPTokenHandler(http, settings.token_url))
    return handlers


def _declarative(settings: Settings, http: OutboundClient) -> DeclarativeManagementClient | None:
    if settings.dm is None:
        return None
    send, receive = (
        None if key is None else key.encode()
        for key in (settings.dm_send_hmac_key, settings.dm_recv_hmac_key)
    )
    return DeclarativeManagementClient(http, settings.dm, send, receive)


def _identities(settings: Settings, offloader: Offloader) -> IdentitySource:
    chains = ChainVerifier(
        _certificates(settings.ca, "--ca"),
        _certificates(settings.intermediate, "--intermediate"),
        expired_grace_days=settings.expired_identity_grace,
    )
    if settings.cert_header is not None:
        return HeaderIdentity(settings.cert_header, chains, settings.trusted_proxies)
    if settings.tls_client_ca is not None:
        return TLSIdentity(chains)
    return SignatureIdentity(SignatureVerifier(), chains, offloader)


def _certificates(path: Path | None, option: str) -> list[x509.Certificate]:
    return [] if path is None else load_certificates(path, option)


def _unlocker(settings: Settings, storage: IStorage, reactor: Any) -> EscrowKeyUnlocker:
    ca = _certificates(settings.escrow_key_unlock_ca, "--escrow-key-unlock-ca")

    def open_as(certificate: PushCertificate) -> OutboundClient:
        return open_client(reactor, ca, certificate=certificate)

    return EscrowKeyUnlocker(storage, open_as, settings.escrow_key_unlock_url)
