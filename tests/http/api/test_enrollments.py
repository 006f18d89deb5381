"""
C{/v1/enrollments}, over HTTP.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.logger import capturedLogs
from twisted.python.threadable import isInIOThread

from nanomdm.errors import MessageError, StorageUnavailable, Unknown
from nanomdm.http.api import enrollments
from nanomdm.interfaces import DeadToken, EnrollmentFilter, Listing, Page
from tests import samples
from tests.http.api.fakes import NOW, SECONDS, ScriptedCase, facts
from tests.http.case import ca, device

_DAY = 86400.0


class ListTests(ScriptedCase):
    """
    C{GET /v1/enrollments}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.store.answers["list_enrollments"] = Listing([facts()])

    async def filtered(self, query: str) -> EnrollmentFilter:
        """
        @return: what the storage is asked for.
        """
        self.store.asked.clear()
        answer = await self.api("GET", f"/v1/enrollments?{query}")
        self.assertEqual(answer.code, 200, answer.body)
        [(_, which, page)] = self.store.asked
        self.assertEqual(page, Page(100))
        return which

    async def test_list(self) -> None:
        answer = await self.api("GET", "/v1/enrollments")
        self.assertOK(
            answer,
            b'{\n\t"enrollments": [\n\t\t{\n\t\t\t"id": "D1",\n\t\t\t"type": "Device",\n'
            b'\t\t\t"serial_number": "C02D1",\n\t\t\t"topic": "%s",\n\t\t\t"enabled": true,\n'
            b'\t\t\t"token_update_tally": 1,\n\t\t\t"last_seen_at": "2026-11-20T09:59:00Z",\n'
            b'\t\t\t"enrolled_at": "2026-11-19T10:00:00Z",\n\t\t\t"bootstrap_token": false,\n'
            b'\t\t\t"unlock_token": false,\n\t\t\t"push_token": {\n\t\t\t\t"state": "valid"\n'
            b'\t\t\t},\n\t\t\t"queue_length": 0\n\t\t}\n\t]\n}\n' % samples.TOPIC.encode(),
        )
        self.assertEqual(answer.header("Content-Type"), "application/json")
        self.assertEqual(self.store.asked, [("list_enrollments", EnrollmentFilter(), Page(100))])

    async def test_nothing(self) -> None:
        self.store.answers["list_enrollments"] = Listing([])
        answer = await self.api("GET", "/v1/enrollments")
        self.assertOK(answer, b'{\n\t"enrollments": []\n}\n')

    async def test_pages(self) -> None:
        self.store.answers["list_enrollments"] = Listing([facts()], "next/ +\u00e4")
        answer = await self.api("GET", "/v1/enrollments?limit=1")
        self.assertEqual(answer.json["next_cursor"], "next/ +\u00e4")
        await self.api("GET", "/v1/enrollments?limit=1000&cursor=next/%20%2B%C3%A4")
        pages = [page for _, _, page in self.store.asked]
        self.assertEqual(pages, [Page(1), Page(1000, "next/ +\u00e4")])

    async def test_badPages(self) -> None:
        for query, reason in (
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=x", "limit"),
            ("limit=-1", "limit"),
            ("limit=%D9%A1", "limit"),
            ("cursor=%FF", "cursor"),
            ("cursor=%00", "cursor"),
        ):
            await self.assertBad("GET", f"/v1/enrollments?{query}", reason)
        self.store.answers["list_enrollments"] = MessageError("the cursor is none")
        answer = await self.api("GET", "/v1/enrollments?cursor=x")
        self.assertEqual((answer.code, answer.json), (400, {"error": "the cursor is none"}))

    async def test_filters(self) -> None:
        for query, expected in (
            ("serial=C02%2FX", {"serial": "C02/X"}),
            ("id=D1:jo%40example.com", {"id": "D1:jo@example.com"}),
            ("type=User%20Enrollment+(Device)", {"type": "User Enrollment (Device)"}),
            ("enabled=1", {"enabled": True}),
            ("enabled=TRUE", {"enabled": True}),
            ("enabled=0", {"enabled": False}),
            ("enabled=false", {"enabled": False}),
            (f"topic={samples.TOPIC}", {"topic": samples.TOPIC}),
            ("user=%C3%A4", {"user": "\u00e4"}),
            ("pending=1", {"pending": True}),
            ("pending=0", {}),
            ("seen_before=30d", {"seen_before": 30 * _DAY}),
            ("seen_after=1h30m", {"seen_after": 5400.0}),
            ("seen_after=0", {"seen_after": 0.0}),
            (
                "serial=S&enabled=0&pending=true&user=u",
                {"serial": "S", "enabled": False, "pending": True, "user": "u"},
            ),
        ):
            self.assertEqual(await self.filtered(query), EnrollmentFilter(**expected), query)

    async def test_times(self) -> None:
        for text, seconds in (
            ("2026-11-20T09:00:00Z", 3600.0),
            ("2026-11-20t09:00:00.5z", 3599.5),
            ("2026-11-20T09:00:00.1234567890123Z", 3599.876544),
            ("2026-11-20T09:00:00%2B01:00", 7200.0),
            # As whoever forgets to escape it sends it.
            ("2026-11-20T09:00:00+01:00", 7200.0),
            ("2026-11-20T09:00:00-00:30", 1800.0),
            ("2026-11-20", 36000.0),
            ("2026-11-19", 36000.0 + _DAY),
            ("90m", 5400.0),
            ("45s", 45.0),
            # What is far away is as far as any database can go.
            ("2026-11-20T10:00:01Z", -1.0),
            ("9999-12-31T23:59:59-23:59", -_DAY),
            ("1969-12-31", SECONDS),
            ("0001-01-01T00:00:00%2B23:59", SECONDS),
            ("36500d", SECONDS),
        ):
            for name in ("seen_before", "seen_after"):
                which = await self.filtered(f"{name}={text}")
                self.assertEqual(which, EnrollmentFilter(**{name: seconds}), text)

    async def test_badFilters(self) -> None:
        for query, reason in (
            ("type=device", "type is none of Device, User, Shared iPad, "),
            ("enabled=yes", "enabled is none of 1, true, 0, false"),
            ("pending=2", "pending is none of "),
            ("serial=%FF", "serial: not UTF-8"),
            ("user=%00", "user: there is a NUL"),
        ):
            await self.assertBad("GET", f"/v1/enrollments?{query}", reason)

    async def test_badTimes(self) -> None:
        for text in (
            *("nan", "inf", "-1", "1", "1e9", "-30d", "30 d", "36501d", "x" * 5000),
            *("2026", "2026-11", "2026-11-31", "2026-13-01", "0000-01-01", "10000-01-01"),
            *("2026-11-20T10:00", "2026-11-20T10:00:00", "2026-11-20T25:00:00Z"),
            *("2026-11-20%2009:00:00Z", "2026-11-20T09:00:00%2B24:00", "2026-11-20Z"),
            *("2026-11-20T09:00:00%2B0100", "%D9%A2026-11-20"),
        ):
            await self.assertBad("GET", f"/v1/enrollments?seen_before={text}", "seen_before: ")
        await self.assertBad("GET", "/v1/enrollments?seen_after=x", "seen_after: ")

    async def test_slips(self) -> None:
        """
        A filter with a slip of the pen is not taken for none.
        """
        for query, reason in (
            ("seriel=S", "unknown parameter 'seriel' in the query; known: limit, cursor, serial"),
            ("Serial=S", "unknown parameter 'Serial'"),
            ("serial=S&x=1", "unknown parameter 'x'"),
            ("=S", "unknown parameter ''"),
            ("%FF=1", "unknown parameter '\ufffd'"),
            ("purge=1", "unknown parameter 'purge'"),
            ("x", "unknown parameter 'x'"),
            ("serial", "serial has no value"),
            ("serial=", "serial has no value"),
            ("serial=S&serial", "serial has no value"),
            ("serial=S&serial=S", "serial is there twice"),
            ("enabled=1;enabled=0", "enabled is there twice"),
        ):
            await self.assertBad("GET", f"/v1/enrollments?{query}", reason)
        self.assertEqual((await self.api("GET", "/v1/enrollments?&serial=S&")).code, 200)

    async def test_large(self) -> None:
        """
        A page with many certificates and messages is not read on the reactor's thread.
        """
        threads = []

        def noting(work: Any, *arguments: Any) -> Any:
            threads.append(isInIOThread())
            return work(*arguments)

        self.patch(enrollments, "described", partial(noting, enrollments.described))
        message = samples.captured("Authenticate.1.plist").decode()
        pem = device(1).pem.decode()
        many = [facts(f"D{one}", authenticate=message, identity_pem=pem) for one in range(1000)]
        self.store.answers["list_enrollments"] = Listing(many, "more")
        answer = await self.api("GET", "/v1/enrollments?limit=1000")
        shown = answer.json["enrollments"]
        self.assertEqual([one["id"] for one in shown], [one.id for one in many])
        self.assertEqual(set(threads), {False})
        self.store.answers["list_enrollments"] = Listing(many[:1])
        await self.api("GET", "/v1/enrollments")
        self.assertEqual(threads[-1], True)

    async def test_trouble(self) -> None:
        self.store.answers["list_enrollments"] = StorageUnavailable("database: secret")
        answer = await self.api("GET", "/v1/enrollments")
        self.assertEqual((answer.code, answer.json), (503, {"error": "storage unavailable"}))
        self.assertEqual(answer.header("Retry-After"), "1")


class ShowTests(ScriptedCase):
    """
    C{GET /v1/enrollments/<id>}.
    """

    async def show(self, path: str = "D1", **more: Any) -> Any:
        """
        @return: an enrollment of which the storage knows so much.
        """
        self.store.answers["enrollment"] = facts(**more)
        answer = await self.api("GET", f"/v1/enrollments/{path}")
        self.assertEqual(answer.code, 200)
        return answer.json

    async def test_device(self) -> None:
        message = samples.authenticate(
            Model="Z1",
            ModelName="iPad",
            ProductName="iPad14,1",
            OSVersion="26.1",
            BuildVersion="23B1",
            DeviceName="Jo\u2019s <iPad>",
        ).decode()
        identity = device(1)
        end = identity.certificate.not_valid_after_utc
        serial = f"{identity.certificate.serial_number:x}"
        shown = await self.show(
            children=["D1:a", "D1:b"],
            enabled=False,
            token_update_tally=3,
            identity_pem=identity.pem.decode(),
            authenticate=message,
            bootstrap_token=True,
            dead=DeadToken(410, "Unregistered"),
            queue_length=7,
        )
        self.assertEqual(
            shown,
            {
                "id": "D1",
                "type": "Device",
                "user_channels": ["D1:a", "D1:b"],
                "serial_number": "C02D1",
                "topic": samples.TOPIC,
                "enabled": False,
                "token_update_tally": 3,
                "last_seen_at": "2026-11-20T09:59:00Z",
                "enrolled_at": "2026-11-19T10:00:00Z",
                "identity_certificate": {
                    "serial_number": serial.zfill(len(serial) + len(serial) % 2),
                    "not_after": f"{end:%Y-%m-%dT%H:%M:%SZ}",
                    "sha256": identity.certificate.fingerprint(SHA256()).hex(),
                },
                "bootstrap_token": True,
                "unlock_token": False,
                "push_token": {"state": "dead", "status": 410, "reason": "Unregistered"},
                "model": "Z1",
                "model_name": "iPad",
                "product_name": "iPad14,1",
                "os_version": "26.1",
                "build_version": "23B1",
                "device_name": "Jo\u2019s <iPad>",
                "queue_length": 7,
            },
        )
        self.assertEqual(self.store.asked, [("enrollment", "D1")])

    async def test_userChannel(self) -> None:
        """
        It shows what its device is, but the certificate and the tokens are the device's.
        """
        shown = await self.show(
            id="D1:jo",
            type="User",
            device_id="D1",
            serial_number="C02D1",
            user_short_name="jo",
            user_long_name="Jo Doe",
            identity_pem=device(1).pem.decode(),
            authenticate=samples.authenticate(Model="Z1", OSVersion="26.1").decode(),
            bootstrap_token=True,
            unlock_token=True,
        )
        self.assertEqual(
            shown,
            {
                "id": "D1:jo",
                "type": "User",
                "parent_id": "D1",
                "serial_number": "C02D1",
                "user_short_name": "jo",
                "user_long_name": "Jo Doe",
                "topic": samples.TOPIC,
                "enabled": True,
                "token_update_tally": 1,
                "last_seen_at": "2026-11-20T09:59:00Z",
                "enrolled_at": "2026-11-19T10:00:00Z",
                "push_token": {"state": "valid"},
                "model": "Z1",
                "os_version": "26.1",
                "queue_length": 0,
            },
        )

    async def test_certificate(self) -> None:
        topic = "com.apple.mgmt.x"
        push = ca().issue_push(topic, key=ca().key, not_before=NOW, not_after=NOW)
        shown = await self.show(identity_pem=push.pem.decode() + device(1).pem.decode())
        certificate = shown["identity_certificate"]
        self.assertIn(f"UID={topic}", certificate["subject"])
        self.assertEqual(certificate["not_after"], "2026-11-20T10:00:00Z")
        self.assertEqual(certificate["serial_number"], certificate["serial_number"].lower())

    async def test_serialNumber(self) -> None:
        """
        It has whole bytes, as other tools show them.
        """
        builder = x509.CertificateBuilder(
            x509.Name([]), x509.Name([]), ca().key.public_key(), 0xABC, NOW, NOW
        )
        pem = builder.sign(ca().key, SHA256()).public_bytes(Encoding.PEM).decode()
        shown = await self.show(identity_pem=pem)
        self.assertEqual(shown["identity_certificate"]["serial_number"], "0abc")

    async def test_unreadableCertificate(self) -> None:
        """
        Another server may have stored anything.
        """
        pem = device(1).pem.decode()
        for odd in ("x", pem[:200], pem.replace("MII", "MIJ"), pem * 100, "\ud800"):
            shown = await self.show(identity_pem=odd)
            self.assertEqual(list(shown["identity_certificate"]), ["error"], odd)
            self.assertTrue(shown["identity_certificate"]["error"])
        self.assertNotIn("identity_certificate", await self.show(identity_pem=""))

    async def test_unreadableMessage(self) -> None:
        bare = await self.show()
        for odd in (
            *("", "x", "bplist00", "\ud800", "<?xml version='1.0'?><plist><dict>"),
            samples.plist(Model=1, OSVersion=["26"], DeviceName={}, ProductName="").decode(),
        ):
            self.assertEqual(await self.show(authenticate=odd), bare, odd)

    async def test_capturedMessages(self) -> None:
        for name in ("Authenticate.1.plist", "Authenticate.2.plist"):
            shown = await self.show(authenticate=samples.captured(name).decode())
            self.assertIn("os_version", shown)

    async def test_ids(self) -> None:
        """
        An id is one segment of the path.
        """
        for path, id in (
            ("D1:jo@example.com", "D1:jo@example.com"),
            ("D1%3Ajo%40example.com", "D1:jo@example.com"),
            ("D1:a%2Fb%2F..%2Fc", "D1:a/b/../c"),
            ("D1:a+b%20c", "D1:a+b c"),
            ("D1:%C3%A4%E2%82%AC", "D1:\u00e4\u20ac"),
            ("%C3%A4" * 255, "\u00e4" * 255),
        ):
            self.store.asked.clear()
            await self.show(path)
            self.assertEqual(self.store.asked, [("enrollment", id)])

    async def test_badIds(self) -> None:
        await self.assertBad("GET", "/v1/enrollments/%FF", "id: not UTF-8")
        await self.assertBad("GET", "/v1/enrollments/D1%00", "id: there is a NUL")
        await self.assertBad("GET", "/v1/enrollments/" + "x" * 256, "id has more than 255")
        await self.assertBad("GET", "/v1/enrollments/D1?x=1", "unknown parameter 'x'")
        await self.assertBad("GET", "/v1/enrollments/D1?purge=1", "unknown parameter 'purge'")

    async def test_unknown(self) -> None:
        self.store.answers["enrollment"] = Unknown("there is no enrollment nobody")
        with capturedLogs() as events:
            answer = await self.api("GET", "/v1/enrollments/nobody")
        self.assertEqual(answer.code, 404)
        self.assertEqual(answer.json, {"error": "there is no enrollment nobody"})
        [event] = [one for one in events if one["log_format"] == "request"]
        self.assertEqual((event["id"], event["operator"]), ("nobody", "nanomdm"))
        self.assertEqual(event["error"], "there is no enrollment nobody")

    async def test_pathsThatLeadNowhere(self) -> None:
        for path in (
            *("/", "/D1/", "/D1//queue", "//queue", "/D1/queue/", "/D1/queue/C1/", "/D1/x"),
            *("/D1/queue/C1/x", "/D1/results/", "/D1/results/C1/", "/D1/results/C1/x"),
            *("/D1/bootstraptoken/", "/D1/unlocktoken/x", "/D1/a/b/c/d/e/f/g/h", "/" * 30),
        ):
            answer = await self.api("GET", f"/v1/enrollments{path}")
            self.assertEqual((answer.code, answer.body), (404, b"404 page not found\n"), path)
        self.assertEqual(self.store.asked, [])


class EndTests(ScriptedCase):
    """
    C{DELETE /v1/enrollments/<id>}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.store.answers["disable_enrollment"] = None
        self.store.answers["purge_enrollment"] = ["D1", "D1:jo"]

    async def test_disabled(self) -> None:
        for query in ("", "?purge=0", "?purge=false"):
            self.store.asked.clear()
            with capturedLogs() as events:
                answer = await self.api("DELETE", f"/v1/enrollments/D1{query}")
            self.assertOK(answer, b'{\n\t"id": "D1",\n\t"disabled": true\n}\n')
            self.assertEqual(self.store.asked, [("disable_enrollment", "D1")])
            [event] = [one for one in events if one["log_format"] == "enrollment disabled"]
            self.assertEqual((event["operator"], event["id"]), ("nanomdm", "D1"))
        self.assertEqual(self.forgotten, [])

    async def test_purged(self) -> None:
        with capturedLogs() as events:
            answer = await self.api("DELETE", "/v1/enrollments/D1?purge=1")
        self.assertEqual(answer.json, {"id": "D1", "purged": ["D1", "D1:jo"]})
        self.assertEqual(answer.code, 200)
        self.assertEqual(self.store.asked, [("purge_enrollment", "D1")])
        self.assertEqual(self.forgotten, ["D1", "D1:jo"])
        [event] = [one for one in events if one["log_format"] == "enrollment purged"]
        self.assertEqual((event["operator"], event["id"], event["count"]), ("nanomdm", "D1", 2))

    async def test_refused(self) -> None:
        for query, reason in (
            ("purge=yes", "purge is none of"),
            ("purge=", "purge has no value"),
            ("purge", "purge has no value"),
            ("Purge=1", "unknown parameter 'Purge'"),
            ("purge=1&purge=0", "purge is there twice"),
        ):
            await self.assertBad("DELETE", f"/v1/enrollments/D1?{query}", reason)
        for call in ("disable_enrollment", "purge_enrollment"):
            self.store.answers[call] = Unknown("there is no such enrollment")
        for query in ("", "?purge=1"):
            with capturedLogs() as events:
                answer = await self.api("DELETE", f"/v1/enrollments/D1{query}")
            self.assertEqual(answer.code, 404)
            self.assertEqual(answer.json, {"error": "there is no such enrollment"})
            texts = [one["log_format"] for one in events]
            self.assertNotIn("enrollment disabled", texts)
            self.assertNotIn("enrollment purged", texts)
        self.assertEqual(self.forgotten, [])

    async def test_operatorsOnly(self) -> None:
        for path in ("", "/D1"):
            answer = await self.request("GET", f"/v1/enrollments{path}")
            self.assertEqual(answer.code, 401)
        for path, methods, allow in (
            ("", ("DELETE", "POST", "PUT", "HEAD"), "GET"),
            ("/D1", ("POST", "PUT", "PATCH", "HEAD"), "DELETE, GET"),
        ):
            for method in methods:
                answer = await self.api(method, f"/v1/enrollments{path}")
                self.assertEqual((answer.code, answer.header("Allow")), (405, allow))
        self.assertEqual(self.store.asked, [])
