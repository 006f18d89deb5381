"""
Simulated Macs and iPads and their users, without I/O.
"""

from __future__ import annotations

from random import Random
from typing import Final
from uuid import UUID

from attrs import define

from nanomdm.sim.answers import Dictionary, Inventory
from nanomdm.sim.ca import DeviceIdentity
from nanomdm.sim.channel import Channel
from nanomdm.sim.hardware import IPAD, MAC, Hardware

DEFAULT_TOPIC: Final = "com.apple.mgmt.External.6b2d3b1c-53a4-4b0e-9a55-2f0b7d1c8e10"

#: The C{UserID} of whoever is logged in on a Shared iPad.
SHARED_IPAD_USER_ID: Final = "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"

_TOKEN_SIZE: Final = 32
_UNLOCK_TOKEN_SIZE: Final = 1200

# Serial numbers avoid vowels and what looks like a digit.
_SERIAL_ALPHABET: Final = "CDFGHJKLMNPQRTVWXY0123456789"


@define(kw_only=True, eq=False)
class SimulatedDevice(Channel):
    """
    A Mac or an iPad: the device channel.

    @ivar identity: what signs the requests.
    @ivar hardware: the kind of device.
    @ivar device_name: the name its owner gave it.
    @ivar serial_number: L{None} for a user enrollment, which hides it.
    @ivar unlock_token: iPads send one.
    @ivar next_identity: the identity that a renewal brings; L{None} keeps the
        present one.
    """

    identity: DeviceIdentity
    hardware: Hardware
    device_name: str
    serial_number: str | None
    unlock_token: bytes | None
    next_identity: DeviceIdentity | None = None

    @classmethod
    def mac(
        cls,
        identity: DeviceIdentity,
        random: Random | None = None,
        *,
        topic: str = DEFAULT_TOPIC,
    ) -> SimulatedDevice:
        """
        A Mac.

        @param random: where identifiers and tokens come from; the same seed
            makes the same device.
        @param topic: the push topic.
        """
        random = random or Random()
        return _device(MAC, identity, random, {"UDID": _uuid(random)}, topic)

    @classmethod
    def ipad(
        cls,
        identity: DeviceIdentity,
        random: Random | None = None,
        *,
        topic: str = DEFAULT_TOPIC,
    ) -> SimulatedDevice:
        """
        An iPad; the parameters are those of L{mac}.
        """
        random = random or Random()
        udid = f"00008027-{random.getrandbits(64):016X}"
        return _device(IPAD, identity, random, {"UDID": udid}, topic)

    @classmethod
    def user_enrolled(
        cls,
        identity: DeviceIdentity,
        random: Random | None = None,
        *,
        topic: str = DEFAULT_TOPIC,
    ) -> SimulatedDevice:
        """
        An iPad that belongs to its user (BYOD): a user enrollment has an
        C{EnrollmentID} and tells neither C{UDID} nor serial number.  The
        parameters are those of L{mac}.
        """
        random = random or Random()
        return _device(IPAD, identity, random, {"EnrollmentID": _uuid(random)}, topic)

    def user(
        self, user_id: str, short_name: str, long_name: str, random: Random | None = None
    ) -> SimulatedUser:
        """
        The channel of a user of this device; C{EnrollmentUserID} takes the
        place of C{UserID} on a user enrollment.

        @param user_id: the user's id, a UUID.
        @param short_name: the login name.
        @param long_name: the full name.
        @param random: where push magic and token come from.
        """
        key = "UserID" if "UDID" in self.keys else "EnrollmentUserID"
        keys = {key: user_id, "UserLongName": long_name, "UserShortName": short_name}
        return _user(self, keys, user_id, random or Random())

    def shared_ipad_user(
        self, short_name: str, long_name: str, random: Random | None = None
    ) -> SimulatedUser:
        """
        The channel of whoever is logged in on this Shared iPad: the server
        tells its users apart by their short names.

        @param short_name: the Managed Apple Account.
        @param long_name: the full name.
        @param random: where push magic and token come from.
        """
        keys = {
            "UserID": SHARED_IPAD_USER_ID,
            "UserLongName": long_name,
            "UserShortName": short_name,
        }
        return _user(self, keys, short_name, random or Random())

    @property
    def renewal_due(self) -> bool:
        """
        A new enrollment profile arrived: call L{renew}, and send the
        enrollment messages before the command's report.
        """
        return self.inventory.renewal_due

    def renew(self) -> None:
        """
        Take over the identity that came with the new enrollment profile.
        """
        self.inventory.renewal_due = False
        if self.next_identity is not None:
            self.identity, self.next_identity = self.next_identity, None
            self.inventory.certificates[0] = self.identity.der

    def enrollment_messages(self) -> list[bytes]:
        """
        C{Authenticate} and C{TokenUpdate}.
        """
        return [self.authenticate(), self.token_update()]

    def authenticate(self) -> bytes:
        """
        C{Authenticate}.
        """
        hardware = self.hardware
        content = {
            "BuildVersion": hardware.build_version,
            "OSVersion": hardware.os_version,
            "ProductName": hardware.model,
            "Topic": self.topic,
        }
        if self.serial_number is not None:
            content["SerialNumber"] = self.serial_number
        if hardware.is_mac:
            content["DeviceName"] = self.device_name
            content["Model"] = hardware.model
            content["ModelName"] = hardware.model_name
        return self._check_in("Authenticate", **content)

    def token_update(self) -> bytes:
        """
        C{TokenUpdate}, with C{UnlockToken} on devices that have one.
        """
        content: Dictionary = {
            "AwaitingConfiguration": False,
            "PushMagic": self.push_magic,
            "Token": self.token,
            "Topic": self.topic,
        }
        if self.unlock_token is not None:
            content["UnlockToken"] = self.unlock_token
        return self._check_in("TokenUpdate", **content)

    def set_bootstrap_token(self, token: bytes) -> bytes:
        """
        C{SetBootstrapToken}.

        @param token: the token to escrow; empty to have it deleted.
        """
        content = {"AwaitingConfiguration": False, "BootstrapToken": token}
        return self._check_in("SetBootstrapToken", **content)

    def get_bootstrap_token(self) -> bytes:
        """
        C{GetBootstrapToken}.
        """
        return self._check_in("GetBootstrapToken", AwaitingConfiguration=False)


@define(kw_only=True, eq=False)
class SimulatedUser(Channel):
    """
    The channel of a user of a device.

    @ivar device: the device, whose identity signs for its users too.
    """

    device: SimulatedDevice

    @property
    def identity(self) -> DeviceIdentity:
        """
        The device's identity.
        """
        return self.device.identity

    def enrollment_messages(self) -> list[bytes]:
        """
        C{TokenUpdate} alone: a user channel has no C{Authenticate}.
        """
        return [self.token_update()]

    def token_update(self) -> bytes:
        """
        C{TokenUpdate} of the user channel.
        """
        return self._check_in(
            "TokenUpdate", PushMagic=self.push_magic, Token=self.token, Topic=self.topic
        )

    def user_authenticate(self, digest_response: str | None = None) -> bytes:
        """
        C{UserAuthenticate}.

        @param digest_response: C{DigestResponse} in the second message of the
            exchange, L{None} in the first.
        """
        extra = {} if digest_response is None else {"DigestResponse": digest_response}
        return self._check_in("UserAuthenticate", **extra)

    def _identification(self) -> Dictionary:
        return {**self.keys, "NotOnConsole": False}


def _device(
    hardware: Hardware, identity: DeviceIdentity, random: Random, keys: dict[str, str], topic: str
) -> SimulatedDevice:
    device = SimulatedDevice(
        enrollment_id=next(iter(keys.values())),
        keys=keys,
        topic=topic,
        push_magic=_uuid(random),
        token=random.randbytes(_TOKEN_SIZE),
        inventory=Inventory(
            information={}, security=dict(hardware.security), certificates=[identity.der]
        ),
        names_request_type=hardware.is_mac,
        identity=identity,
        hardware=hardware,
        device_name=f"{hardware.name} {random.randrange(10_000):04}",
        serial_number=_serial_number(hardware, random) if "UDID" in keys else None,
        unlock_token=None if hardware.is_mac else random.randbytes(_UNLOCK_TOKEN_SIZE),
    )
    device.inventory.information.update(_information(device, random))
    return device


def _user(
    device: SimulatedDevice, keys: dict[str, str], own_id: str, random: Random
) -> SimulatedUser:
    return SimulatedUser(
        enrollment_id=f"{device.enrollment_id}:{own_id}",
        keys={**device.keys, **keys},
        topic=device.topic,
        push_magic=_uuid(random),
        token=random.randbytes(_TOKEN_SIZE),
        inventory=Inventory(
            information=device.inventory.information,
            security=device.inventory.security,
            certificates=device.inventory.certificates,
            app_count=device.inventory.app_count,
        ),
        names_request_type=device.names_request_type,
        device=device,
    )


def _information(device: SimulatedDevice, random: Random) -> Dictionary:
    hardware = device.hardware
    host_name = device.device_name.lower().replace(" ", "-")
    information = {
        "AvailableDeviceCapacity": 173.5,
        "BatteryLevel": random.randrange(20, 100) / 100,
        "BuildVersion": hardware.build_version,
        "DeviceCapacity": 245.1,
        "DeviceName": device.device_name,
        "HostName": f"{host_name}.example.com",
        "IsSupervised": True,
        "Model": hardware.model,
        "ModelName": hardware.model_name,
        "OSVersion": hardware.os_version,
        "ProductName": hardware.model,
        "WiFiMAC": ":".join(f"{octet:02x}" for octet in random.randbytes(6)),
    }
    if device.serial_number is not None:
        information.update(SerialNumber=device.serial_number, UDID=device.enrollment_id)
    return information


def _uuid(random: Random) -> str:
    return str(UUID(int=random.getrandbits(128), version=4)).upper()


def _serial_number(hardware: Hardware, random: Random) -> str:
    return hardware.serial_prefix + "".join(random.choices(_SERIAL_ALPHABET, k=9))
