"""
Many simulated devices, quickly: their certificates differ, but they share a few
keys, since making keys is what takes long.
"""

from __future__ import annotations

import plistlib
from collections.abc import Callable, Iterable
from pathlib import Path

from attrs import frozen

from nanomdm.sim.ca import DeviceIdentity, ThrowawayCA, new_rsa_key
from nanomdm.sim.signing import sign_like_device

CHECKIN = "application/x-apple-aspen-mdm-checkin"
RESULT = "application/x-apple-aspen-mdm"
TOPIC = "com.apple.mgmt.External.bench"
_KEYS = 8


@frozen
class BenchDevice:
    """
    A device that can sign and be enrolled.
    """

    udid: str
    identity: DeviceIdentity

    def enrollment(self) -> list[bytes]:
        """
        The requests that enroll it.
        """
        push = {"Topic": TOPIC, "PushMagic": "magic", "Token": self.udid.encode()}
        return [
            self.request({"MessageType": "Authenticate", "Topic": TOPIC}, CHECKIN),
            self.request({"MessageType": "TokenUpdate", **push}, CHECKIN),
        ]

    def idle(self) -> bytes:
        """
        The request of a device that has nothing to report.
        """
        return self.request({"Status": "Idle"}, RESULT)

    def answer(self, uuid: str) -> bytes:
        """
        The request that reports a command as done.
        """
        return self.request({"Status": "Acknowledged", "CommandUUID": uuid}, RESULT)

    def request(self, message: dict[str, object], content_type: str) -> bytes:
        """
        A message as the bytes that go over the wire, signed as real devices do.
        """
        body = plistlib.dumps({**message, "UDID": self.udid})
        signature = sign_like_device(self.identity, body).decode()
        head = (
            "PUT /mdm HTTP/1.1",
            "Host: localhost",
            f"Content-Type: {content_type}",
            f"Mdm-Signature: {signature}",
            f"Content-Length: {len(body)}",
        )
        return ("\r\n".join(head) + "\r\n\r\n").encode() + body


def make_devices(ca: ThrowawayCA, count: int) -> list[BenchDevice]:
    """
    @return: C{count} devices that C{ca} vouches for.
    """
    keys = [new_rsa_key() for _ in range(min(_KEYS, count))]
    return [
        BenchDevice(f"BENCH-{number:06}", ca.issue(key=keys[number % len(keys)]))
        for number in range(count)
    ]


def write_requests(
    path: Path, devices: Iterable[BenchDevice], make: Callable[[BenchDevice], bytes]
) -> None:
    """
    Write each device's request for the load generator: a line with its size,
    then its bytes.
    """
    with path.open("wb") as file:
        for device in devices:
            request = make(device)
            file.write(b"%d\n%s" % (len(request), request))
