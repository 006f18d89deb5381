"""
The devices of a fleet: made, and kept in a file for the next run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

from attrs import define, frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from nanomdm.errors import NanoMDMError
from nanomdm.private import private_directory, replace
from nanomdm.sim.ca import DeviceIdentity, PrivateKey, ThrowawayCA, new_rsa_key
from nanomdm.sim.device import SimulatedDevice
from nanomdm.sim.fleet import Member

#: Keys that all devices of a fleet share: each has a certificate of its own, but making
#: a key takes long.
_KEYS: Final = 4

#: What each kind of device is made by.
_MADE_BY: Final[Mapping[str, Callable[..., SimulatedDevice]]] = {
    "mac": SimulatedDevice.mac,
    "ipad": SimulatedDevice.ipad,
    "byod": SimulatedDevice.user_enrolled,
}

#: The kinds of fleets: of one kind of device, or of all by turns.
MIXED: Final = "mixed"
KINDS: Final = (*_MADE_BY, MIXED)


class WrongFleet(NanoMDMError):
    """
    What is kept belongs to something else.
    """


@frozen(kw_only=True)
class FleetPlan:
    """
    What the devices are.

    @ivar count: how many.
    @ivar kind: one of L{KINDS}.
    @ivar topic: the push topic of all of them.
    """

    count: int
    kind: str
    topic: str


@define
class FleetMembers:
    """
    The devices.

    @ivar plan: what they are.
    @ivar ca: issues their identities.
    @ivar seed: where all that is random about them comes from.
    @ivar keys: which they share.
    @ivar all: those that are made, or are kept from an earlier run.
    """

    plan: FleetPlan
    ca: ThrowawayCA
    seed: str
    keys: Sequence[PrivateKey]
    all: list[Member]

    @classmethod
    def new(cls, plan: FleetPlan, ca: ThrowawayCA) -> FleetMembers:
        """
        A fleet of which no device is made yet.
        """
        return cls(plan, ca, os.urandom(16).hex(), [new_rsa_key() for _ in range(_KEYS)], [])

    @property
    def active(self) -> list[Member]:
        """
        As many as there are to be.
        """
        return self.all[: self.plan.count]

    def make(self) -> Iterator[Member]:
        """
        Make those that are missing, one after the other.
        """
        while len(self.all) < self.plan.count:
            key = self.keys[len(self.all) % len(self.keys)]
            self._add(self.ca.issue(key=key))
            yield self.all[-1]

    def _add(self, identity: DeviceIdentity) -> Member:
        number = len(self.all)
        kinds = list(_MADE_BY) if self.plan.kind == MIXED else [self.plan.kind]
        made_by = _MADE_BY[kinds[number % len(kinds)]]
        random = Random(f"{self.seed} {number}")
        self.all.append(Member(made_by(identity, random, topic=self.plan.topic)))
        return self.all[-1]

    def save(self, directory: Path) -> None:
        """
        Keep them.

        @raise OSError: the directory can not be written to.
        """
        content = {
            "kind": self.plan.kind,
            "topic": self.plan.topic,
            "seed": self.seed,
            "keys": [
                DeviceIdentity(key, self.ca.certificate).key_pem.decode() for key in self.keys
            ],
            "devices": [
                {"certificate": one.device.identity.pem.decode(), "enrolled": one.enrolled}
                for one in self.all
            ],
        }
        private_directory(directory)
        replace(_file(directory), json.dumps(content, indent=1).encode())

    @classmethod
    def load(cls, directory: Path, plan: FleetPlan, ca: ThrowawayCA) -> FleetMembers:
        """
        The kept ones; a new fleet if there are none.

        @raise OSError: the file can not be read.
        @raise WrongFleet: it is damaged, or of other devices, or of another CA.
        """
        file = _file(directory)
        if not file.exists():
            return cls.new(plan, ca)
        try:
            return cls._read(json.loads(file.read_bytes()), plan, ca)
        except WrongFleet as error:
            raise WrongFleet(f"{file}: {error}") from None
        except (ValueError, LookupError, TypeError) as error:
            raise WrongFleet(f"{file}: can not be read: {error}") from None

    @classmethod
    def _read(cls, content: Any, plan: FleetPlan, ca: ThrowawayCA) -> FleetMembers:
        if (content["kind"], content["topic"]) != (plan.kind, plan.topic):
            raise WrongFleet(f"is of {content['kind']} devices with topic {content['topic']}")
        keys = [_key(pem) for pem in content["keys"]]
        fleet = cls(plan, ca, content["seed"], keys, [])
        for number, one in enumerate(content["devices"]):
            certificate = x509.load_pem_x509_certificate(one["certificate"].encode())
            if number == 0:
                _check_issuer(certificate, ca)
            identity = DeviceIdentity(keys[number % len(keys)], certificate)
            fleet._add(identity).enrolled = one["enrolled"]
        return fleet


def _file(directory: Path) -> Path:
    return directory / "fleet.json"


def _key(pem: str) -> PrivateKey:
    key = load_pem_private_key(pem.encode(), None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, PrivateKey):
        raise ValueError("a key is neither RSA nor EC")
    return key


def _check_issuer(certificate: x509.Certificate, ca: ThrowawayCA) -> None:
    try:
        certificate.verify_directly_issued_by(ca.certificate)
    except (ValueError, InvalidSignature):
        raise WrongFleet("its devices are of another CA") from None
