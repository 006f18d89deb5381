"""
What the main site serves, made from the settings.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.web.resource import Resource

from nanomdm.assembly import Basis, certificates, utc_now
from nanomdm.config import Settings
from nanomdm.crypto.chain import ChainVerifier
from nanomdm.crypto.cms import SignatureVerifier
from nanomdm.crypto.pushcert import PushCertificate
from nanomdm.http.api.guard import VersionEndpoint
from nanomdm.http.api.keys import APIKeys
from nanomdm.http.api.migration import MigrationEndpoint
from nanomdm.http.api.parts import APIParts
from nanomdm.http.api.tree import api_tree
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
from nanomdm.http.proxies import Networks
from nanomdm.interfaces import IPusher, ITokenHandler
from nanomdm.outbound import OutboundClient, open_client
from nanomdm.output import standard_output
from nanomdm.service.association import CertificateAssociation
from nanomdm.service.core import MDMService
from nanomdm.service.declarative import DeclarativeManagementClient
from nanomdm.service.escrow import EscrowKeyUnlocker
from nanomdm.service.events import EventSource
from nanomdm.service.tokens import HTTPTokenHandler, read_token


def main_tree(
    basis: Basis, keys: APIKeys, pusher: IPusher, wake: Callable[[], None] | None
) -> Folder:
    """
    @param wake: tells who delivers the webhook's events; L{None} without one.
    @return: the resource tree for devices and operators.
    @raise ConfigError: a file can not be used.
    """
    root = Folder()
    root.putChild(b"version", VersionEndpoint())
    forget = None if basis.settings.disable_mdm else _add_devices(basis, root, wake)
    if basis.settings.has_api:
        _add_api(basis, root, keys, pusher, wake, forget)
    return root


def _add_api(
    basis: Basis,
    root: Resource,
    keys: APIKeys,
    pusher: IPusher,
    wake: Callable[[], None] | None,
    forget: Callable[[str], None] | None,
) -> None:
    parts = APIParts(
        keys,
        basis.storage,
        pusher,
        basis.offloader,
        _unlocker(basis),
        wake,
        utc_now,
        basis.settings.api_secrets,
        forget,
    )
    root.putChild(b"v1", api_tree(parts))
    if basis.settings.migration:
        root.putChild(b"migration", MigrationEndpoint(keys, basis.storage, basis.offloader))


def _unlocker(basis: Basis) -> EscrowKeyUnlocker:
    settings = basis.settings
    ca = certificates(settings.escrow_key_unlock_ca, "--escrow-key-unlock-ca")

    def open_as(certificate: PushCertificate) -> OutboundClient:
        return open_client(basis.reactor, ca, certificate=certificate)

    return EscrowKeyUnlocker(basis.storage, open_as, settings.escrow_key_unlock_url)


def _add_devices(
    basis: Basis, root: Resource, wake: Callable[[], None] | None
) -> Callable[[str], None]:
    """
    @return: see L{APIParts.forget}.
    """
    settings, offloader = basis.settings, basis.offloader
    association = CertificateAssociation(
        basis.storage,
        basis.reactor.seconds,
        retro=settings.retro,
        superseded_grace=settings.superseded_identity_grace,
    )
    service = _mdm_service(basis, association, wake)
    source = _identities(basis)
    mdm = DeviceEndpoint(service, source, offloader, checkins=not settings.checkin)
    root.putChild(b"mdm", _dumped(mdm, settings))
    if settings.checkin:
        checkin = DeviceEndpoint(service, source, offloader, reports=False)
        root.putChild(b"checkin", _dumped(checkin, settings))
    if settings.auth_proxy_url is not None:
        url, header = settings.auth_proxy_url, settings.cert_header
        # Who speaks TLS with this server itself is the client.
        proxies = settings.trusted_proxies if settings.tls_client_ca is None else Networks(())
        proxy = AuthProxyEndpoint(source, association, basis.http, url, proxies, header)
        root.putChild(b"authproxy", proxy)
    return association.forget


def _dumped(endpoint: DeviceEndpoint, settings: Settings) -> Endpoint:
    return DumpedEndpoint(endpoint, standard_output().show, utc_now) if settings.dump else endpoint


def _mdm_service(
    basis: Basis, association: CertificateAssociation, wake: Callable[[], None] | None
) -> MDMService:
    settings = basis.settings
    return MDMService(
        basis.storage,
        association,
        zero_length_challenge=settings.ua_zl_dc,
        token_handlers=_token_handlers(basis),
        declarative=_declarative(basis),
        events=None if wake is None else EventSource(wake, utc_now, settings.webhook_idle),
        metrics=basis.metrics.devices,
    )


def _token_handlers(basis: Basis) -> list[ITokenHandler]:
    handlers: list[ITokenHandler] = [read_token(file) for file in basis.settings.token]
    if basis.settings.token_url is not None:
        handlers.append(HTTPTokenHandler(basis.http, basis.settings.token_url))
    return handlers


def _declarative(basis: Basis) -> DeclarativeManagementClient | None:
    settings = basis.settings
    if settings.dm is None:
        return None
    send, receive = (
        None if key is None else key.encode()
        for key in (settings.dm_send_hmac_key, settings.dm_recv_hmac_key)
    )
    return DeclarativeManagementClient(basis.http, settings.dm, send, receive)


def _identities(basis: Basis) -> IdentitySource:
    """
    @return: finds out who sent a request.
    """
    settings, metrics = basis.settings, basis.metrics.certificates
    roots = certificates(settings.ca, "--ca")
    intermediates = certificates(settings.intermediate, "--intermediate")
    metrics.add_authorities("ca", roots)
    metrics.add_authorities("intermediate", intermediates)
    chains = ChainVerifier(roots, intermediates, expired_grace_days=settings.expired_identity_grace)
    if settings.cert_header is not None:
        return HeaderIdentity(settings.cert_header, chains, settings.trusted_proxies)
    if settings.tls_client_ca is not None:
        return TLSIdentity(chains)
    return SignatureIdentity(SignatureVerifier(), chains, basis.offloader)
