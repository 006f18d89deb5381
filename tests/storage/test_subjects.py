"""
Tests for L{nanomdm.storage.subjects}.
"""

from __future__ import annotations

from datetime import UTC, datetime

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.command import installs_mdm_profile, parse_command, parse_report
from nanomdm.mdm.event import Event
from nanomdm.storage.associations import AssociateCall, Pair
from nanomdm.storage.commands import EnqueueCall
from nanomdm.storage.enrollments import AuthenticateCall
from nanomdm.storage.subjects import devices_of
from nanomdm.storage.tokens import BootstrapToken
from tests import samples


class SubjectTests(SynchronousTestCase):
    """
    Whom calls are about.
    """

    def test_devices(self) -> None:
        """
        Users are their devices.
        """
        update = parse_checkin(samples.token_update("D1", UserID="U1", UserShortName="x"))
        authenticate = parse_checkin(samples.authenticate("D1"))
        event = Event("1", "mdm.Any", datetime.now(UTC), update.enrollment, b"")
        for argument in (
            "D1",
            "D1:U1",
            update,
            authenticate,
            event,
            (update, event),
            ("D1", event),
            update.enrollment,
            parse_report(samples.report("Idle", None, "D1")),
            BootstrapToken("D1", None),
            AuthenticateCall(authenticate, "", installs_mdm_profile),
            AssociateCall(Pair("D1", "hash"), False, 0, None),
            EnqueueCall(parse_command(samples.command("C1")), ["D1:U1", "D1"]),
        ):
            self.assertEqual(devices_of(argument), {"D1"}, argument)

    def test_many(self) -> None:
        call = EnqueueCall(parse_command(samples.command("C1")), ["D1:U1", "D2"])
        self.assertEqual(devices_of(call), {"D1", "D2"})

    def test_unknown(self) -> None:
        for argument in (None, ("topic", "certificate", "key"), ("D1", "C1"), ["D1"], 1):
            self.assertIsNone(devices_of(argument), argument)
