"""
The parts of a server, made from its settings.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

from attrs import frozen
from cryptography import x509
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger

from nanomdm.config import Settings
from nanomdm.crypto.chain import load_certificates
from nanomdm.crypto.secretkeys import Keyring, read_secret_keys
from nanomdm.crypto.vault import Vault
from nanomdm.daemon import Job
from nanomdm.http.api.keys import APIKeys, read_api_keys
from nanomdm.http.offload import Offloader
from nanomdm.http.tls import ServerTLS, TLSEndpoint, TLSFiles
from nanomdm.interfaces import IStorage
from nanomdm.keyfiles import others_can_read
from nanomdm.listen import endpoint_description
from nanomdm.metrics.registry import Metrics
from nanomdm.outbound import OutboundClient, open_client
from nanomdm.push.address import ProxyURL
from nanomdm.push.endpoint import APNsConnector
from nanomdm.push.expiry import ExpiryWatch
from nanomdm.push.repush import Repusher
from nanomdm.push.service import PushService
from nanomdm.reload import Reloader, Source
from nanomdm.service.backlog import BacklogWatch
from nanomdm.service.receiver import Receiver
from nanomdm.service.secrets import SecretsWatch
from nanomdm.service.webhook import Webhook

_log: Final = Logger(namespace="nanomdm")


@frozen
class Basis:
    """
    What most parts of a server need.

    @ivar reactor: handed on to everything that needs one.
    @ivar http: sends requests to other servers.
    """

    settings: Settings
    reactor: Any
    metrics: Metrics
    vault: Vault
    storage: IStorage
    http: OutboundClient
    offloader: Offloader


def utc_now() -> datetime:
    """
    @return: the time of day, with its zone.
    """
    return datetime.now(UTC)


def certificates(path: Path | None, option: str) -> list[x509.Certificate]:
    """
    @param path: what an option names; L{None} for none.
    @raise ConfigError: it can not be used.
    """
    return [] if path is None else load_certificates(path, option)


def main_endpoint(
    settings: Settings, reactor: Any, metrics: Metrics, reloader: Reloader
) -> IStreamServerEndpoint:
    """
    @param metrics: told when the server's certificate ends.
    @param reloader: reads its files again.
    @return: where C{--listen} says, with TLS if the server is to speak it.
    @raise ConfigError: a file can not be used.
    """
    description = endpoint_description(settings.listen)
    endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
    if settings.tls_cert is None:
        return endpoint
    files = TLSFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    tls = ServerTLS(files, utc_now)
    reloader.add(tls.source)
    metrics.certificates.watch_server(tls.not_after)
    return TLSEndpoint(endpoint, tls, reactor)


def apns_connector(
    settings: Settings, reactor: Any, metrics: Metrics, proxy: ProxyURL | None
) -> APNsConnector:
    """
    @param metrics: told of the CAs.
    @param proxy: on the way to APNs.
    @raise ConfigError: a file can not be used.
    """
    trust = certificates(settings.apns_ca, "--apns-ca")
    metrics.certificates.add_authorities("apns-ca", trust)
    return APNsConnector(reactor, settings.apns_url, trust, proxy)


def push_service(basis: Basis, connector: APNsConnector) -> PushService:
    """
    @return: pushes to what the storage has.
    """
    settings = basis.settings
    return PushService(
        basis.storage,
        connector,
        basis.reactor,
        expiration=settings.push_expiration,
        connections=settings.apns_connections,
        schedule=settings.repush > 0,
        metrics=basis.metrics.pushes,
    )


def webhook_delivery(basis: Basis) -> Webhook | None:
    """
    @return: delivers events, if anybody is to get them.
    @raise ConfigError: a file can not be used.
    """
    settings = basis.settings
    if settings.webhook_url is None:
        return None
    key = settings.webhook_hmac_key
    trust = certificates(settings.webhook_ca, "--webhook-ca")
    basis.metrics.certificates.add_authorities("webhook-ca", trust)
    receiver = Receiver(
        # Its own, since it trusts others and ends before the storage.
        open_client(basis.reactor, trust),
        settings.webhook_url,
        None if key is None else key.encode(),
        basis.offloader.run,
    )
    return Webhook(
        basis.storage,
        receiver,
        basis.reactor,
        SystemRandom(),
        concurrency=settings.webhook_concurrency,
        max_age=settings.webhook_max_age,
        metrics=basis.metrics.webhook,
    )


def storage_jobs(basis: Basis, pusher: PushService) -> list[Job]:
    """
    @return: what is done of its own accord about what the storage has.
    """
    settings, storage, reactor = basis.settings, basis.storage, basis.reactor
    jobs: list[Job] = [
        ExpiryWatch(storage, reactor, utc_now),
        SecretsWatch(storage, basis.vault, reactor, basis.metrics.secrets),
    ]
    if settings.repush:
        jobs.append(Repusher(storage, pusher, reactor, settings.repush, SystemRandom()))
    if settings.webhook_url is not None:
        jobs.append(BacklogWatch(storage, reactor))
    return jobs


def api_keys(settings: Settings, reloader: Reloader) -> APIKeys:
    """
    @param reloader: reads their file again.
    @raise ConfigError: it can not be used.
    """
    keys = APIKeys(settings.api)
    if settings.api_key_file is not None:
        listed = Source("API keys", partial(read_api_keys, settings.api_key_file), keys.replace)
        listed.take(listed.read())
        reloader.add(listed)
    return keys


def vault_of_secrets(settings: Settings, reloader: Reloader) -> Vault:
    """
    @param reloader: reads the file of its keys again.
    @raise ConfigError: that can not be used.
    """
    vault = Vault()

    def use(keyring: Keyring) -> None:
        vault.use(keyring)
        old = ", ".join(id for id in keyring.keys if id != vault.current)
        _log.info("secret keys", encrypts=vault.current or "none", decrypt=old or "none")

    def take(found: tuple[Keyring, bool]) -> None:
        keyring, exposed = found
        use(keyring)
        if exposed:
            text = "others than its owner can read --secret-key-file"
            _log.warn(text, file=str(settings.secret_key_file), do="chmod go-rwx")

    if settings.secret_keys is not None:
        use(settings.secret_keys)
    if settings.secret_key_file is not None:
        listed = Source("secret keys", partial(_secret_keys, settings.secret_key_file), take)
        listed.take(listed.read())
        reloader.add(listed)
    return vault


def _secret_keys(path: Path) -> tuple[Keyring, bool]:
    """
    @return: the keys, and whether others than the file's owner can read them.  Blocks.
    """
    return read_secret_keys(path), others_can_read(path)
