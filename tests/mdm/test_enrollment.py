"""
Tests for L{nanomdm.mdm.enrollment}.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import MessageError
from nanomdm.mdm.enrollment import (
    MAX_ID,
    SHARED_IPAD_USER_ID,
    Enrollment,
    EnrollmentType,
    enrollment_of,
)


class TypeTests(SynchronousTestCase):
    """
    Which keys make which enrollment.
    """

    def resolved(self, expected: Enrollment, device_id: str, **message: Any) -> None:
        """
        Assert what a message's enrollment and its device are.
        """
        enrollment = enrollment_of(message)
        self.assertEqual(enrollment, expected)
        self.assertEqual(enrollment.device_id, device_id)
        self.assertEqual(enrollment.is_user_channel, enrollment.id != device_id)

    def test_names(self) -> None:
        """
        The texts are stored and sent, so they are NanoMDM's.
        """
        self.assertEqual(
            [type.value for type in EnrollmentType],
            ["Device", "User", "Shared iPad", "User Enrollment (Device)", "User Enrollment"],
        )

    def test_device(self) -> None:
        self.resolved(Enrollment("D1", EnrollmentType.DEVICE), "D1", UDID="D1")

    def test_user(self) -> None:
        self.resolved(Enrollment("D1:U1", EnrollmentType.USER, "D1"), "D1", UDID="D1", UserID="U1")

    def test_sharedIPad(self) -> None:
        self.resolved(
            Enrollment("D1:jo@example.com", EnrollmentType.SHARED_IPAD, "D1"),
            "D1",
            UDID="D1",
            UserID="FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            UserShortName="jo@example.com",
        )

    def test_userEnrollmentDevice(self) -> None:
        self.resolved(
            Enrollment("E1", EnrollmentType.USER_ENROLLMENT_DEVICE), "E1", EnrollmentID="E1"
        )

    def test_userEnrollment(self) -> None:
        self.resolved(
            Enrollment("E1:V1", EnrollmentType.USER_ENROLLMENT, "E1"),
            "E1",
            EnrollmentID="E1",
            EnrollmentUserID="V1",
        )

    def test_udidGoesFirst(self) -> None:
        self.resolved(
            Enrollment("D1", EnrollmentType.DEVICE),
            "D1",
            UDID="D1",
            EnrollmentID="E1",
            EnrollmentUserID="V1",
        )

    def test_keysOfTheOtherKindAreIgnored(self) -> None:
        self.resolved(
            Enrollment("E1", EnrollmentType.USER_ENROLLMENT_DEVICE),
            "E1",
            EnrollmentID="E1",
            UserID="U1",
            UserShortName="jo",
        )

    def test_emptyCountsAsAbsent(self) -> None:
        self.resolved(Enrollment("D1", EnrollmentType.DEVICE), "D1", UDID="D1", UserID="")
        self.resolved(
            Enrollment("E1", EnrollmentType.USER_ENROLLMENT_DEVICE),
            "E1",
            UDID="",
            EnrollmentID="E1",
            EnrollmentUserID="",
        )

    def test_shortNameMattersToSharedIPadsOnly(self) -> None:
        self.resolved(
            Enrollment("D1:U1", EnrollmentType.USER, "D1"),
            "D1",
            UDID="D1",
            UserID="U1",
            UserShortName="jo",
        )
        self.resolved(Enrollment("D1", EnrollmentType.DEVICE), "D1", UDID="D1", UserShortName="jo")

    def test_userIdWithColon(self) -> None:
        """
        Still unambiguous, since a device's id has none.
        """
        self.resolved(
            Enrollment("D1:a:b", EnrollmentType.USER, "D1"), "D1", UDID="D1", UserID="a:b"
        )


class RefusalTests(SynchronousTestCase):
    """
    Ids that are missing or can not be stored.
    """

    def refused(self, because: str, **message: Any) -> None:
        """
        Assert that a message has no enrollment, and why.
        """
        error = self.assertRaises(MessageError, enrollment_of, message)
        self.assertIn(because, str(error))
        self.assertLess(len(str(error)), 200)

    def test_noId(self) -> None:
        self.refused("neither UDID nor EnrollmentID")
        self.refused("neither UDID nor EnrollmentID", UDID="", EnrollmentID="")
        self.refused("neither UDID nor EnrollmentID", UserID="U1", EnrollmentUserID="V1")

    def test_colon(self) -> None:
        """
        A device must not name itself like a user channel of another one.
        """
        for device_id in ("D1:U1", ":", "D1:", ":U1"):
            self.refused("colon", UDID=device_id)
            self.refused("colon", UDID=device_id, UserID="U1")
            self.refused("colon", UDID=device_id, UserID=SHARED_IPAD_USER_ID, UserShortName="jo")
            self.refused("colon", EnrollmentID=device_id)
            self.refused("colon", EnrollmentID=device_id, EnrollmentUserID="V1")

    def test_sharedIPadWithoutShortName(self) -> None:
        self.refused("UserShortName is missing", UDID="D1", UserID=SHARED_IPAD_USER_ID)
        self.refused(
            "UserShortName is missing", UDID="D1", UserID=SHARED_IPAD_USER_ID, UserShortName=""
        )

    def test_wrongTypes(self) -> None:
        for wrong in (1, True, 1.5, b"D1", ["D1"], {"UDID": "D1"}):
            self.refused("UDID is not a string", UDID=wrong)
            self.refused("UDID is not a string", UDID=wrong, EnrollmentID="E1")
            self.refused("UserID is not a string", UDID="D1", UserID=wrong)
            self.refused("EnrollmentID is not a string", EnrollmentID=wrong)
            self.refused(
                "EnrollmentUserID is not a string", EnrollmentID="E1", EnrollmentUserID=wrong
            )
            self.refused(
                "UserShortName is not a string",
                UDID="D1",
                UserID=SHARED_IPAD_USER_ID,
                UserShortName=wrong,
            )

    def test_deviceIdLength(self) -> None:
        # In characters, as the column counts them.
        longest = "é" * MAX_ID
        self.assertEqual(enrollment_of({"UDID": longest}).id, longest)
        self.assertEqual(enrollment_of({"EnrollmentID": longest}).id, longest)
        self.refused("UDID is longer than 255", UDID=longest + "x")
        self.refused("EnrollmentID is longer than 255", EnrollmentID=longest + "x")

    def test_userIdLength(self) -> None:
        """
        The whole id has to fit.
        """
        device_id, longest = "d" * 100, "u" * (MAX_ID - 101)
        for keys in (
            {"UDID": device_id, "UserID": longest},
            {"UDID": device_id, "UserID": SHARED_IPAD_USER_ID, "UserShortName": longest},
            {"EnrollmentID": device_id, "EnrollmentUserID": longest},
        ):
            self.assertEqual(enrollment_of(keys).id, f"{device_id}:{longest}")
            last = list(keys)[-1]
            self.refused("enrollment id is longer than 255", **{**keys, last: longest + "x"})
            self.refused(f"{last} is longer than 255", **{**keys, last: "x" * (MAX_ID + 1)})
