"""
Where everything is put together: from settings to a running daemon.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from twisted.application.service import IService
from twisted.logger import Logger
from twisted.web.resource import Resource

from nanomdm import __version__
from nanomdm.assembly import (
    Basis,
    api_keys,
    apns_connector,
    main_endpoint,
    push_service,
    storage_jobs,
    vault_of_secrets,
    webhook_delivery,
)
from nanomdm.config import Options, Settings, refuse
from nanomdm.crypto.vault import Vault
from nanomdm.daemon import Daemon, Parts
from nanomdm.errors import ConfigError
from nanomdm.hardening import harden
from nanomdm.http.api.keys import APIKeys
from nanomdm.http.offload import Offloader
from nanomdm.http.site import Site
from nanomdm.listen import speaks_tls
from nanomdm.listener import Listener
from nanomdm.metrics.registry import Metrics
from nanomdm.monitoring import Monitoring
from nanomdm.openfiles import Room, files_needed, raise_limit, room_for
from nanomdm.outbound import open_client
from nanomdm.output import standard_output
from nanomdm.push.address import ProxyURL, proxy_to_use
from nanomdm.reload import Reloader
from nanomdm.routes import main_tree
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

    harden(options.parent or {}, reactor)
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
    manager = _manager(settings, reactor)
    reloader = Reloader(reactor, reactor.getThreadPool(), manager.reloading, manager.ready)
    metrics = Metrics(reactor)
    endpoint = main_endpoint(settings, reactor, metrics, reloader)
    connector = apns_connector(settings, reactor, metrics, proxy)
    basis = _basis(settings, reactor, metrics, vault_of_secrets(settings, reloader))
    pusher = push_service(basis, connector)
    webhook = webhook_delivery(basis)
    keys = api_keys(settings, reloader)
    root = main_tree(basis, keys, pusher, None if webhook is None else webhook.wake)
    monitoring = Monitoring(metrics, basis.storage, reactor, webhook is not None)
    parts = Parts(
        main=Listener(f"--listen: {settings.listen}", endpoint, _site(basis, root)),
        metrics=_add_monitoring(settings, monitoring, root, keys),
        readiness=monitoring.readiness,
        storage=basis.storage,
        pusher=pusher,
        http=basis.http,
        offloader=basis.offloader,
        # The last says that all others have started.
        jobs=[*storage_jobs(basis, pusher), monitoring.numbers, manager],
        webhook=webhook,
        reloader=reloader,
        cert_header=settings.cert_header,
    )
    return Daemon(reactor, parts)


def _manager(settings: Settings, reactor: Any) -> ServiceManager:
    serving = f"Serves at {settings.listen}"
    return ServiceManager(reactor, os.environ, serving, _monotonic_microseconds)


def _monotonic_microseconds() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def _basis(settings: Settings, reactor: Any, metrics: Metrics, vault: Vault) -> Basis:
    storage = open_storage(settings.storages, reactor, metrics.storage, vault)
    http, offloader = open_client(reactor), Offloader(reactor)
    return Basis(settings, reactor, metrics, vault, storage, http, offloader)


def _site(basis: Basis, root: Resource) -> Site:
    metrics, settings = basis.metrics.http, basis.settings
    room = _room(settings.max_connections)
    site = Site(
        root,
        basis.reactor,
        settings.max_body_size,
        room.connections,
        metrics=metrics,
        max_refused=room.refused,
    )
    metrics.watch(site)
    return site


def _room(connections: int) -> Room:
    """
    @param connections: that are to be served at once.
    @return: how many can be.
    """
    wanted = files_needed(connections)
    files = raise_limit(wanted)
    room = room_for(connections, files)
    if room.connections < connections:
        _log.warn(
            "too few files can be open for --max-connections",
            files=files,
            needed=wanted,
            connections=room.connections,
            do="raise ulimit -n (systemd: LimitNOFILE)",
        )
    return room


def _add_monitoring(
    settings: Settings, monitoring: Monitoring, root: Resource, keys: APIKeys
) -> Listener | None:
    """
    @return: another place for it, if there is to be one.
    """
    monitoring.add_probes(root)
    if settings.metrics_listen is not None:
        return monitoring.listener(settings.metrics_listen)
    if settings.has_api:
        monitoring.add_guarded(root, keys)
    return None


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
