"""
Parts that are made of settings alone, or nearly so.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from nanomdm.config import Settings
from nanomdm.crypto.chain import ChainVerifier, load_certificates
from nanomdm.crypto.cms import SignatureVerifier
from nanomdm.http.identity import (
    HeaderIdentity,
    IdentitySource,
    SignatureIdentity,
    TLSIdentity,
)
from nanomdm.http.offload import Offloader
from nanomdm.interfaces import ITokenHandler
from nanomdm.metrics.certificates import CertificateMetrics
from nanomdm.outbound import OutboundClient
from nanomdm.service.declarative import DeclarativeManagementClient
from nanomdm.service.tokens import HTTPTokenHandler, read_token


def token_handlers(settings: Settings, http: OutboundClient) -> list[ITokenHandler]:
    """
    @return: who answers C{GetToken}.
    @raise ConfigError: a file can not be used.
    """
    handlers: list[ITokenHandler] = [read_token(file) for file in settings.token]
    if settings.token_url is not None:
        handlers.append(HTTPTokenHandler(http, settings.token_url))
    return handlers


def declarative(settings: Settings, http: OutboundClient) -> DeclarativeManagementClient | None:
    """
    @return: who answers C{DeclarativeManagement}, if anybody.
    """
    if settings.dm is None:
        return None
    send, receive = (
        None if key is None else key.encode()
        for key in (settings.dm_send_hmac_key, settings.dm_recv_hmac_key)
    )
    return DeclarativeManagementClient(http, settings.dm, send, receive)


def identities(
    settings: Settings, offloader: Offloader, metrics: CertificateMetrics
) -> IdentitySource:
    """
    @param metrics: told of the CAs.
    @return: finds out who sent a request.
    @raise ConfigError: a file can not be used.
    """
    roots = certificates(settings.ca, "--ca")
    intermediates = certificates(settings.intermediate, "--intermediate")
    metrics.add_authorities("ca", roots)
    metrics.add_authorities("intermediate", intermediates)
    chains = ChainVerifier(roots, intermediates, expired_grace_days=settings.expired_identity_grace)
    if settings.cert_header is not None:
        return HeaderIdentity(settings.cert_header, chains, settings.trusted_proxies)
    if settings.tls_client_ca is not None:
        return TLSIdentity(chains)
    return SignatureIdentity(SignatureVerifier(), chains, offloader)


def certificates(path: Path | None, option: str) -> list[x509.Certificate]:
    """
    @param path: what an option names; L{None} for none.
    @raise ConfigError: it can not be used.
    """
    return [] if path is None else load_certificates(path, option)
