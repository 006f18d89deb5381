"""
Where everything is put together: from settings to a running daemon.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from pathlib import Path
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
from nanomdm.daemon import Daemon
from nanomdm.errors import ConfigError
from nanomdm.http.api import BasicAuth, EnqueueEndpoint, VersionEndpoint
from nanomdm.http.device import DeviceEndpoint
from nanomdm.http.endpoint import Folder
from nanomdm.http.identity import HeaderIdentity, IdentitySource, SignatureIdentity
from nanomdm.http.offload import Offloader
from nanomdm.http.site import Site
from nanomdm.interfaces import IStorage
from nanomdm.listen import endpoint_description
from nanomdm.service.association import CertificateAssociation
from nanomdm.service.core import MDMService
from nanomdm.service.enqueue import CommandEnqueuer, UnavailablePusher
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
    offloader = Offloader(reactor, reactor.getThreadPool())
    _log.info("starting", **_summary(settings))
    storage = open_storage(settings.storages, reactor)
    root = Folder()
    root.putChild(b"version", VersionEndpoint())
    if not settings.disable_mdm:
        _add_device_endpoints(root, settings, storage, offloader, reactor)
    if settings.api is not None:
        _add_api(root, BasicAuth(settings.api), storage, offloader)
    endpoint = serverFromString(reactor, endpoint_description(settings.listen))
    site = Site(root, reactor, settings.max_body_size)
    return Daemon(reactor, endpoint, settings.listen, site, storage)


def _summary(settings: Settings) -> dict[str, str | bool]:
    """
    What the log says of the settings at the start.
    """
    identity = f"header {settings.cert_header}" if settings.cert_header else "Mdm-Signature"
    return {
        "version": __version__,
        "storage": ", ".join(f"{one.kind} {one.shown}" for one in settings.storages),
        "identity": "none, devices are not served" if settings.disable_mdm else identity,
        "api": settings.api is not None,
    }


def _add_device_endpoints(
    root: Resource, settings: Settings, storage: IStorage, offloader: Offloader, reactor: Any
) -> None:
    service = MDMService(
        storage,
        CertificateAssociation(
            storage,
            reactor.seconds,
            retro=settings.retro,
            superseded_grace=settings.superseded_identity_grace,
        ),
        zero_length_challenge=settings.ua_zl_dc,
    )
    identities = _identities(settings, offloader)
    mdm = DeviceEndpoint(service, identities, offloader, checkins=not settings.checkin)
    root.putChild(b"mdm", mdm)
    if settings.checkin:
        checkin = DeviceEndpoint(service, identities, offloader, reports=False)
        root.putChild(b"checkin", checkin)


def _identities(settings: Settings, offloader: Offloader) -> IdentitySource:
    chains = ChainVerifier(
        _certificates(settings.ca, "--ca"),
        _certificates(settings.intermediate, "--intermediate"),
        expired_grace_days=settings.expired_identity_grace,
    )
    if settings.cert_header is not None:
        return HeaderIdentity(settings.cert_header, chains)
    return SignatureIdentity(SignatureVerifier(), chains, offloader)


def _certificates(path: Path | None, option: str) -> list[x509.Certificate]:
    return [] if path is None else load_certificates(path, option)


def _add_api(root: Resource, auth: BasicAuth, storage: IStorage, offloader: Offloader) -> None:
    enqueuer = CommandEnqueuer(storage, UnavailablePusher())
    v1 = Folder()
    v1.putChild(b"enqueue", EnqueueEndpoint(auth, enqueuer, offloader))
    root.putChild(b"v1", v1)
