"""
What the demonstration keeps on disk, so that a second run finds the same CA,
the same Mac and the same database.
"""

from __future__ import annotations

import os
import plistlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final
from uuid import uuid4

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from nanomdm.sim.ca import DeviceIdentity, PrivateKey, ThrowawayCA
from nanomdm.sim.device import SimulatedDevice

_COMMANDS: Final[dict[str, dict[str, Any]]] = {
    "DeviceInformation": {"Queries": ["DeviceName", "OSVersion", "SerialNumber"]},
    "InstalledApplicationList": {},
    "ProfileList": {},
    "SecurityInfo": {},
}

_LEAST_VALIDITY: Final = timedelta(days=1)


class DemoDirectory:
    """
    The directory and its files.

    @ivar path: the directory, absolute.
    @ivar ca: the CA that issued the Mac's identity.
    @ivar mac: the simulated Mac.
    """

    def __init__(self, path: Path) -> None:
        """
        Create what is missing.

        @param path: the directory; when it does not exist, nobody but its
            owner may enter it.
        @raise OSError: the directory can not be used.
        @raise ValueError: one of its files is damaged.
        """
        self.path = path.absolute()
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.ca = ThrowawayCA.load_or_create(self.path)
        identity = self._identity()
        seed = identity.certificate.fingerprint(SHA256())
        self.mac = SimulatedDevice.mac(identity, Random(seed))
        self._uuids: dict[str, str] = {}
        for request_type in _COMMANDS:
            self._write_command(request_type)

    @property
    def ca_file(self) -> Path:
        """
        PEM of the CA.
        """
        return self.path / "ca.pem"

    @property
    def database(self) -> Path:
        """
        The server's SQLite database.
        """
        return self.path / "nanomdm.db"

    @property
    def log(self) -> Path:
        """
        The server's log.
        """
        return self.path / "nanomdm.log"

    @property
    def request_types(self) -> list[str]:
        """
        The commands of which there is a file.
        """
        return list(_COMMANDS)

    def command_file(self, request_type: str) -> Path:
        """
        A file with a command that is ready to be queued.
        """
        return self.path / f"{request_type}.plist"

    def command_answered(self, command_uuid: str) -> None:
        """
        Give a command file a new UUID if its present one was used, so that it
        can be queued once more.
        """
        for request_type, uuid in self._uuids.items():
            if uuid == command_uuid:
                self._write_command(request_type)
                break

    def _write_command(self, request_type: str) -> None:
        uuid = str(uuid4())
        content = {"RequestType": request_type, **_COMMANDS[request_type]}
        body = plistlib.dumps({"Command": content, "CommandUUID": uuid})
        self.command_file(request_type).write_bytes(body)
        self._uuids[request_type] = uuid

    def _identity(self) -> DeviceIdentity:
        """
        The Mac's identity from an earlier run if the CA still stands behind
        it, else a new one.
        """
        file = self.path / "mac.pem"
        if file.exists():
            identity = _load_identity(file)
            if _is_usable(identity, self.ca):
                return identity
        identity = self.ca.issue()
        _write_identity(file, identity)
        return identity


def _is_usable(identity: DeviceIdentity, ca: ThrowawayCA) -> bool:
    try:
        identity.certificate.verify_directly_issued_by(ca.certificate)
    except (ValueError, InvalidSignature):
        return False
    return identity.certificate.not_valid_after_utc > datetime.now(UTC) + _LEAST_VALIDITY


def _load_identity(file: Path) -> DeviceIdentity:
    data = file.read_bytes()
    key = load_pem_private_key(data, None)
    if not isinstance(key, PrivateKey):
        raise ValueError(f"{file} holds a key that is neither RSA nor EC")
    return DeviceIdentity(key, x509.load_pem_x509_certificate(data))


def _write_identity(file: Path, identity: DeviceIdentity) -> None:
    key = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    unfinished = file.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(key + identity.pem)
    unfinished.replace(file)
