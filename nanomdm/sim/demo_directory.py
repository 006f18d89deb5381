"""
What the demonstration keeps on disk, so that a second run finds the same CA,
the same Mac and the same database.
"""

from __future__ import annotations

import plistlib
from pathlib import Path
from random import Random
from typing import Any, Final
from uuid import uuid4

from cryptography.hazmat.primitives.hashes import SHA256

from nanomdm.private import private_directory, replace
from nanomdm.sim.ca import ThrowawayCA
from nanomdm.sim.device import SimulatedDevice
from nanomdm.sim.kept import kept_identity, kept_push_certificate, push_certificate_file

_COMMANDS: Final[dict[str, dict[str, Any]]] = {
    "DeviceInformation": {"Queries": ["DeviceName", "OSVersion", "SerialNumber"]},
    "InstalledApplicationList": {},
    "ProfileList": {},
    "SecurityInfo": {},
}


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
        private_directory(self.path)
        self.ca = ThrowawayCA.load_or_create(self.path)
        identity = kept_identity(self.path / "mac.pem", self.ca, self.ca.issue)
        seed = identity.certificate.fingerprint(SHA256())
        self.mac = SimulatedDevice.mac(identity, Random(seed))
        kept_push_certificate(self.path, self.ca, self.mac.topic)
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
    def push_certificate_file(self) -> Path:
        """
        PEM of the push certificate for the Mac's topic, and its key.
        """
        return push_certificate_file(self.path, self.mac.topic)

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
        replace(self.command_file(request_type), body)
        self._uuids[request_type] = uuid
