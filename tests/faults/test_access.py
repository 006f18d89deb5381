"""
Who may do what: every operation of the OpenAPI document, asked for with every kind of
credential, and headers by which nobody becomes somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from signal import SIGTERM

from nanomdm.sim.ca import DeviceIdentity, ThrowawayCA
from tests import samples
from tests.faults.process_case import (
    CERTIFICATE,
    Header,
    ProcessCase,
    basic,
    shown,
    signed,
)
from tests.http.api.test_openapi import operations
from tests.http.case import CHECKIN, KEY, RESULT, ca, device
from tests.http.raw_client import Received
from tests.web import WebServer, listen

#: Roles and keys, by the keys' names.
KEYS = {
    "reader": ("read", "read-key"),
    "helpdesk": ("enqueue", "enqueue-key"),
    "chief": ("admin", "admin-key"),
}

#: Credentials of operators, in the order of the columns below.  A device is no operator.
OPERATORS: tuple[list[Header], ...] = (
    [],
    basic("reader", "wrong"),
    basic("nobody", "read-key"),
    basic("reader", "read-key"),
    basic("helpdesk", "enqueue-key"),
    basic("chief", "admin-key"),
    basic("nanomdm", KEY),
)

COMMAND = samples.command("C1")
MIGRATED = samples.authenticate("M1")
AGAIN = b'{"all": true}'
FORM = b"serial=1"

#: What each operation for operators answers.  What is right but for the credential is
#: answered 200, or 4xx or 5xx of its own: nobody is enrolled as X, no command is called
#: X, and there is no push certificate.
#: operationId: request, and the statuses for:
#: nobody, a wrong key, an unknown user, and the roles read, enqueue, admin, and --api.
MATRIX: dict[str, tuple[str, str, bytes, tuple[int, ...]]] = {
    "getVersion": ("GET", "/version", b"", (200, 200, 200, 200, 200, 200, 200)),
    "getHealth": ("GET", "/healthz", b"", (200, 200, 200, 200, 200, 200, 200)),
    "getReadiness": ("GET", "/readyz", b"", (200, 200, 200, 200, 200, 200, 200)),
    "getOpenAPI": ("GET", "/v1/openapi.yaml", b"", (200, 200, 200, 200, 200, 200, 200)),
    "getMetrics": ("GET", "/metrics", b"", (401, 401, 401, 200, 200, 200, 200)),
    "listEnrollments": ("GET", "/v1/enrollments", b"", (401, 401, 401, 200, 200, 200, 200)),
    "getEnrollment": ("GET", "/v1/enrollments/D1", b"", (401, 401, 401, 200, 200, 200, 200)),
    "deleteEnrollment": ("DELETE", "/v1/enrollments/X", b"", (401, 401, 401, 403, 403, 404, 404)),
    "listQueue": ("GET", "/v1/enrollments/D1/queue", b"", (401, 401, 401, 200, 200, 200, 200)),
    "clearQueue": ("DELETE", "/v1/enrollments/D1/queue", b"", (401, 401, 401, 403, 200, 200, 200)),
    "cancelCommand": (
        *("DELETE", "/v1/enrollments/D1/queue/X", b""),
        (401, 401, 401, 403, 404, 404, 404),
    ),
    "changeCommand": (
        *("PATCH", "/v1/enrollments/D1/queue/X", b'{"priority": 1}'),
        (401, 401, 401, 403, 404, 404, 404),
    ),
    "listResults": ("GET", "/v1/enrollments/D1/results", b"", (401, 401, 401, 200, 200, 200, 200)),
    "getResult": ("GET", "/v1/enrollments/D1/results/X", b"", (401, 401, 401, 404, 404, 404, 404)),
    "getBootstrapToken": (
        *("GET", "/v1/enrollments/D1/bootstraptoken", b""),
        (401, 401, 401, 403, 403, 200, 200),
    ),
    "getUnlockToken": (
        *("GET", "/v1/enrollments/D1/unlocktoken", b""),
        (401, 401, 401, 403, 403, 200, 200),
    ),
    "getCommand": ("GET", "/v1/commands/X", b"", (401, 401, 401, 404, 404, 404, 404)),
    "enqueue": ("PUT", "/v1/enqueue/D1?nopush=1", COMMAND, (401, 401, 401, 403, 200, 200, 200)),
    "enqueueByPost": (
        *("POST", "/v1/enqueue/D1?nopush=1", COMMAND),
        (401, 401, 401, 403, 200, 200, 200),
    ),
    "push": ("GET", "/v1/push/D1", b"", (401, 401, 401, 403, 500, 500, 500)),
    "pushByPut": ("PUT", "/v1/push/D1", b"", (401, 401, 401, 403, 500, 500, 500)),
    "getPushCertificate": ("GET", "/v1/pushcert?topic=X", b"", (401, 401, 401, 404, 404, 404, 404)),
    "putPushCertificate": ("PUT", "/v1/pushcert", b"X", (401, 401, 401, 403, 403, 400, 400)),
    "escrowKeyUnlock": ("POST", "/v1/escrowkeyunlock", FORM, (401, 401, 401, 403, 403, 400, 400)),
    "listFailedEvents": ("GET", "/v1/webhook/failed", b"", (401, 401, 401, 200, 200, 200, 200)),
    "retryEvents": ("POST", "/v1/webhook/retry", AGAIN, (401, 401, 401, 403, 403, 200, 200)),
    "migrate": ("PUT", "/migration", MIGRATED, (401, 401, 401, 403, 403, 200, 200)),
    "migrateByPost": ("POST", "/migration", MIGRATED, (401, 401, 401, 403, 403, 200, 200)),
}

#: The operations for devices, of the other matrix.
FOR_DEVICES = {"mdm", "checkIn", "proxy"}

REPORT = samples.report("Idle", udid="D1")
TOKEN_UPDATE = samples.token_update("D1", UnlockToken=b"unlock")
AUTHENTICATE = samples.authenticate("D9")

#: What a device asks for: method, target, type and body.
Message = tuple[str, str, str, bytes]
MESSAGES: dict[str, Message] = {
    "proxy": ("GET", "/authproxy/x", RESULT, b""),
    "report": ("PUT", "/mdm", RESULT, REPORT),
    "check-in": ("PUT", "/mdm", CHECKIN, TOKEN_UPDATE),
    "enrolling": ("PUT", "/mdm", CHECKIN, AUTHENTICATE),
    "report to /checkin": ("PUT", "/checkin", RESULT, REPORT),
    "check-in to /checkin": ("PUT", "/checkin", CHECKIN, TOKEN_UPDATE),
    "enrolling at /checkin": ("PUT", "/checkin", CHECKIN, AUTHENTICATE),
}

#: What devices are answered, who speak for D1 or, enrolling, for D9.  The certificates
#: are: none; none but the operators' key; of another CA; expired; of D2, which is enrolled;
#: of nobody, with which one can enroll; the former one of D1, which has enrolled with
#: another since; and the present one of D1.  Who speaks for somebody else can not be
#: seen behind /authproxy: the certificate of D2 is that of D2.
ROWS: dict[str, dict[str, tuple[int, ...]]] = {
    "one endpoint": {
        "proxy": (400, 400, 400, 400, 200, 400, 400, 200),
        "report": (400, 400, 400, 400, 400, 400, 400, 200),
        "check-in": (400, 400, 400, 400, 400, 400, 400, 200),
        "enrolling": (400, 400, 400, 400, 400, 200, 400, 400),
        "report to /checkin": (404, 404, 404, 404, 404, 404, 404, 404),
        "check-in to /checkin": (404, 404, 404, 404, 404, 404, 404, 404),
        "enrolling at /checkin": (404, 404, 404, 404, 404, 404, 404, 404),
    },
    "--checkin": {
        "proxy": (400, 400, 400, 400, 200, 400, 400, 200),
        "report": (400, 400, 400, 400, 400, 400, 400, 200),
        "check-in": (400, 400, 400, 400, 400, 400, 400, 400),
        "enrolling": (400, 400, 400, 400, 400, 400, 400, 400),
        "report to /checkin": (400, 400, 400, 400, 400, 400, 400, 400),
        "check-in to /checkin": (400, 400, 400, 400, 400, 400, 400, 200),
        "enrolling at /checkin": (400, 400, 400, 400, 400, 200, 400, 400),
    },
}

#: Headers by which clients might want to be somebody else, or elsewhere.
SPOOFED: tuple[Header, ...] = (
    ("X-Enrollment-ID", "D2"),
    ("x_enrollment_id", "D2"),
    ("X-Enrollment-Type", "User"),
    ("X-Enrollment-ParentID", "D2"),
    ("X-Forwarded-For", "192.0.2.1"),
    ("X-Forwarded-Proto", "ftp"),
    ("X-Forwarded-Host", "spoofed.example.com"),
    ("X-Real-IP", "192.0.2.1"),
    ("True-Client-IP", "192.0.2.1"),
    ("Forwarded", "for=192.0.2.1;host=spoofed.example.com"),
    ("Via", "1.1 spoofed"),
    ("X-Trace-ID", "spoofed"),
    ("X-HTTP-Method-Override", "DELETE"),
    ("X-Original-URL", "/metrics"),
    ("X-Rewrite-URL", "/metrics"),
    ("Connection", "X-Enrollment-ID, X-Trace-ID, Host, Authorization, Mdm-Signature"),
    ("Connection", f"Content-Length, Content-Type, X-Hop, {CERTIFICATE}"),
    ("X-Hop", "1"),
    ("Keep-Alive", "timeout=1"),
    ("Proxy-Authorization", "Basic x"),
    ("Proxy", "http://192.0.2.1"),
    ("TE", "trailers"),
    ("Upgrade", "websocket"),
)

_TOO_LITTLE = (
    rb'^{\n\t"(command_|push_)?error": '
    rb'"the key \w+ has the role (read|enqueue), this takes (enqueue|admin)"\n}\n$'
)

Prover = Callable[[DeviceIdentity, bytes], list[Header]]


@cache
def certificates() -> tuple[DeviceIdentity, ...]:
    """
    Of another CA, expired, of D2, of nobody, the former of D1, the present of D1.
    """
    key, now = device().key, datetime.now(UTC)
    days = {"not_before": now - timedelta(days=9), "not_after": now - timedelta(days=2)}
    trusted = [ca().issue(key=key) for _ in range(4)]
    return (ThrowawayCA.create("Other CA").issue(key=key), ca().issue(key=key, **days), *trusted)


class AccessCase(ProcessCase):
    """
    A test case with a daemon that has everything.
    """

    async def serve(self, *options: str, prove: Prover = signed, checkin: str = "/mdm") -> None:
        """
        Start it, and let D1 and D2 enroll, D1 twice.
        """
        self.web = WebServer()
        daemon = self.start(
            *("--api-key-file", self.key_file(KEYS), "--api-secrets=1", "--migration"),
            *("--auth-proxy-url", f"http://127.0.0.1:{listen(self, self.web)}/base"),
            *("--superseded-identity-grace=0", "--repush=0", *options),
        )
        self.port = await daemon.listening
        self.daemon = daemon
        second, _, first, renewed = certificates()[2:]
        for udid, identity in (("D2", second), ("D1", first), ("D1", renewed)):
            for body in (
                samples.authenticate(udid),
                samples.token_update(udid, UnlockToken=b"unlock"),
                samples.checkin("SetBootstrapToken", udid, BootstrapToken=b"bootstrap"),
            ):
                headers = [("Content-Type", CHECKIN), *prove(identity, body)]
                answer = await self.ask("PUT", checkin, body, headers, identity)
                self.assertEqual(answer.code, 200)


class OperatorTests(AccessCase):
    """
    The operators' API.
    """

    def test_everyOperation(self) -> None:
        """
        Nothing of the document is left out.
        """
        documented = {operation["operationId"]: path for path, _, operation in operations()}
        self.assertEqual(set(MATRIX) | FOR_DEVICES, set(documented))
        asked = {message[1].partition("/x")[0] for message in MESSAGES.values()}
        self.assertEqual(asked, {documented[one].partition("/{")[0] for one in FOR_DEVICES})
        for path, method, operation in operations():
            if operation["operationId"] in MATRIX:
                verb, target, _, _ = MATRIX[operation["operationId"]]
                template = re.sub(r"{\w+}", "[^/]+", path)
                self.assertEqual(
                    (verb, bool(re.fullmatch(template, target.partition("?")[0]))),
                    (method, True),
                    operation["operationId"],
                )

    async def test_matrix(self) -> None:
        """
        A device's certificate changes nothing.
        """
        await self.serve()
        present = certificates()[-1]
        for operation, (method, target, body, expected) in MATRIX.items():
            for also in ([], signed(present, body)):
                answers = [
                    await self.ask(method, target, body, [*also, *credential, FORM_TYPE])
                    for credential in OPERATORS
                ]
                self.assertEqual(tuple(one.code for one in answers), expected, operation)
                for answer in answers:
                    self.assertRefusal(answer)
        self.assertNotIn(b"unexpected error", self.daemon.output)

    def assertRefusal(self, answer: Received) -> None:
        """
        Who is refused is told how to come in, and nothing else.
        """
        if answer.code == 401:
            self.assertEqual(answer.body, b"Unauthorized\n")
            self.assertEqual(answer.values(b"WWW-Authenticate"), [b'Basic realm="nanomdm"'])
        elif answer.code == 403:
            self.assertRegex(answer.body, _TOO_LITTLE)


FORM_TYPE: Header = ("Content-Type", "application/x-www-form-urlencoded")


class DeviceCase(AccessCase):
    """
    A test case about what devices talk to.
    """

    async def assertRows(self, name: str, prove: Prover) -> None:
        """
        Each cell of a matrix, and what comes with it.
        """
        for message, expected in ROWS[name].items():
            method, target, content_type, body = MESSAGES[message]
            proofs = [([], None), (basic("nanomdm", KEY), None)]
            proofs += [(prove(identity, body), identity) for identity in certificates()]
            statuses = []
            for proof, identity in proofs:
                headers = [("Content-Type", content_type), *proof]
                answer = await self.ask(method, target, body, headers, identity)
                statuses.append(answer.code)
                if answer.code == 400:
                    self.assertIn(answer.body, (b"Bad Request\n", b"Unauthorized\n"))
            self.assertEqual(tuple(statuses), expected, (name, message))
        known = [request.header("X-Enrollment-ID") for request in self.web.asked]
        self.assertEqual(known, ["D2", "D1"])
        await self.assertNeverUnauthorized(prove)

    async def assertNeverUnauthorized(self, prove: Prover) -> None:
        """
        With no method and no credential is it 401 or 403: a device that gets this may
        take itself for unenrolled.
        """
        other = certificates()[0]
        wrong = [([], None), (basic("reader", "wrong"), None), (basic("reader", "read-key"), None)]
        wrong += [([(CERTIFICATE, "x"), ("Mdm-Signature", "x")], None)]
        wrong += [(prove(other, b""), other)]
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "X"):
            for target in ("/mdm", "/mdm/x", "/checkin", "/checkin/", "/authproxy", "/authproxy/x"):
                for headers, identity in wrong:
                    code = (await self.ask(method, target, b"", headers, identity)).code
                    self.assertIn(code, (400, 404), (method, target))


class DeviceTests(DeviceCase):
    """
    Devices that sign, and those behind a proxy.
    """

    async def test_signature(self) -> None:
        await self.serve()
        await self.assertRows("one endpoint", signed)

    async def test_header(self) -> None:
        """
        With C{--cert-header}, signatures are worth nothing.
        """
        await self.serve("--cert-header", CERTIFICATE, prove=shown)
        await self.assertRows("one endpoint", shown)
        for method, target, content_type, body in MESSAGES.values():
            headers = [("Content-Type", content_type), *signed(certificates()[-1], body)]
            answer = await self.ask(method, target, body, headers)
            self.assertEqual(answer.code, 404 if target == "/checkin" else 400)

    async def test_checkin(self) -> None:
        await self.serve("--checkin", checkin="/checkin")
        await self.assertRows("--checkin", signed)


class SpoofingTests(AccessCase):
    """
    Headers that change nothing.
    """

    async def twice(self, *request: object, headers: list[Header]) -> tuple[Received, Received]:
        """
        Ask without the spoofed headers and with them.

        @return: both answers, which are the same but for the time.
        """
        plain = await self.ask(*request, headers=headers)
        spoofed = await self.ask(*request, headers=[*SPOOFED, *headers])
        for answer in (plain, spoofed):
            answer.headers[:] = [one for one in answer.headers if one[0] != b"date"]
        self.assertEqual(plain, spoofed)
        return plain, spoofed

    async def test_answers(self) -> None:
        await self.serve()
        present = certificates()[-1]
        operator = basic("reader", "read-key")
        await self.twice("GET", "/version", headers=[])
        await self.twice("GET", "/v1/enrollments", headers=[])
        await self.twice("GET", "/v1/enrollments/D1/bootstraptoken", headers=operator)
        await self.twice("GET", "/v1/enrollments/nobody", headers=operator)
        device_headers = [("Content-Type", RESULT), *signed(present, REPORT)]
        await self.twice("PUT", "/mdm", REPORT, headers=device_headers)
        await self.twice("PUT", "/mdm", REPORT, headers=signed(certificates()[2], REPORT))
        await self.twice("GET", "/authproxy/x", headers=signed(present, b""))
        ended = await self.daemon.signal(SIGTERM)
        self.assertEqual(ended, -SIGTERM)
        lines = [line for line in self.daemon.output.splitlines() if b'msg="request"' in line]
        self.assertEqual(len(lines), 9 + 2 * 7)
        for line in lines:
            self.assertIn(b" ip=127.0.0.1", line)
        self.assertNotIn(b"192.0.2.1", self.daemon.output)
        self.assertNotIn(b"spoofed", self.daemon.output)

    async def test_proxied(self) -> None:
        """
        The server behind C{/authproxy} hears who it is from this server only, and gets
        nothing of the connection to it.  What proxies in front have said of the client
        goes there as it came, as this client is trusted to be one.
        """
        await self.serve()
        await self.twice("GET", "/authproxy/x", headers=signed(certificates()[-1], b""))
        plain, spoofed = (
            {name.lower(): values for name, values in asked.headers.getAllRawHeaders()}
            for asked in self.web.asked
        )
        self.assertNotEqual(plain.pop(b"x-trace-id"), spoofed.pop(b"x-trace-id"))
        self.assertEqual(plain[b"x-enrollment-id"], [b"D1"])
        passed = {name: spoofed.pop(name) for name in list(spoofed) if name not in plain}
        self.assertEqual(plain, spoofed)
        self.assertEqual(
            set(passed),
            {
                *(b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-real-ip"),
                *(b"true-client-ip", b"forwarded", b"via", b"x-http-method-override"),
                *(b"x-original-url", b"x-rewrite-url"),
            },
        )
