"""
Tests for L{nanomdm.sim.fleet_members}.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.sim import fleet_members
from nanomdm.sim.ca import PrivateKey, ThrowawayCA
from nanomdm.sim.device import DEFAULT_TOPIC
from nanomdm.sim.fleet_members import FleetMembers, FleetPlan, WrongFleet


def new_key() -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


class MembersTests(SynchronousTestCase):
    """
    Made and kept.
    """

    def setUp(self) -> None:
        # Others take long.
        self.patch(fleet_members, "new_rsa_key", new_key)
        self.ca = ThrowawayCA.create(key=new_key())
        self.directory = Path(self.mktemp()) / "state"

    def plan(self, **changes: Any) -> FleetPlan:
        return FleetPlan(**{"count": 3, "kind": "mac", "topic": DEFAULT_TOPIC, **changes})

    def made(self, **changes: Any) -> FleetMembers:
        members = FleetMembers.new(self.plan(**changes), self.ca)
        made = list(members.make())
        self.assertEqual(made, members.active)
        return members

    def load(self, ca: ThrowawayCA | None = None, **changes: Any) -> FleetMembers:
        return FleetMembers.load(self.directory, self.plan(**changes), ca or self.ca)

    def identities(self, members: FleetMembers) -> list[object]:
        return [
            (one.device.keys, one.device.token, one.device.push_magic, one.device.identity.der)
            for one in members.active
        ]

    def test_differ(self) -> None:
        """
        Each has an id, a token and a certificate of its own, but few keys are made.
        """
        members = self.made(count=10)
        for values in zip(*self.identities(members), strict=True):
            self.assertEqual(len(set(map(str, values))), 10)
        keys = {one.device.identity.key.private_numbers().private_value for one in members.all}
        self.assertEqual(len(keys), 4)
        others = self.made(count=10)
        self.assertNotEqual(members.all[0].device.keys, others.all[0].device.keys)

    def test_kinds(self) -> None:
        for kind, keys in (("mac", ["UDID"]), ("ipad", ["UDID"]), ("byod", ["EnrollmentID"])):
            [one] = self.made(kind=kind, count=1).all
            self.assertEqual(list(one.device.keys), keys)
            self.assertEqual(one.device.hardware.is_mac, kind == "mac")
        mixed = self.made(kind="mixed", topic="com.apple.mgmt.a").all
        self.assertEqual([one.device.hardware.name for one in mixed], ["Mac", "iPad", "iPad"])
        self.assertEqual({one.device.topic for one in mixed}, {"com.apple.mgmt.a"})

    def test_kept(self) -> None:
        members = self.made()
        members.all[1].enrolled = True
        members.save(self.directory)
        self.assertEqual(stat.S_IMODE(self.directory.stat().st_mode), 0o700)
        [file] = self.directory.iterdir()
        self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600)
        again = self.load()
        self.assertEqual(list(again.make()), [])
        self.assertEqual(self.identities(again), self.identities(members))
        self.assertEqual([one.enrolled for one in again.all], [False, True, False])

    def test_more(self) -> None:
        members = self.made()
        members.save(self.directory)
        again = self.load(count=5)
        self.assertEqual(len(list(again.make())), 2)
        self.assertEqual(self.identities(again)[:3], self.identities(members))
        self.assertEqual(len(again.active), 5)

    def test_fewer(self) -> None:
        """
        The others are not lost.
        """
        members = self.made()
        members.save(self.directory)
        again = self.load(count=1)
        self.assertEqual(list(again.make()), [])
        self.assertEqual(len(again.active), 1)
        again.save(self.directory)
        self.assertEqual(self.identities(self.load()), self.identities(members))

    def test_nothingKept(self) -> None:
        self.assertEqual(self.load().all, [])

    def test_others(self) -> None:
        """
        Nothing is mixed up.
        """
        self.made().save(self.directory)
        other = ThrowawayCA.create(key=new_key())
        for words, given in (
            ("is of mac devices", {"kind": "ipad"}),
            ("is of mac devices", {"topic": "com.apple.mgmt.other"}),
            ("another CA", {"ca": other}),
        ):
            with self.assertRaisesRegex(WrongFleet, words):
                self.load(**given)

    def test_damaged(self) -> None:
        self.made().save(self.directory)
        [file] = self.directory.iterdir()
        content = json.loads(file.read_bytes())
        for damaged in (
            "",
            "[]",
            json.dumps({**content, "keys": ["x"]}),
            json.dumps({**content, "devices": [{}]}),
        ):
            file.write_text(damaged)
            with self.assertRaisesRegex(WrongFleet, "can not be read"):
                self.load()
