"""
The worst that parsers get, sent to a daemon by a device that is enrolled and by an
operator: each is answered as it is to be, in less than a second of the processor's time,
and while the longest are being read others are served.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM
from typing import Final

from twisted.internet.defer import Deferred

from nanomdm.mdm.plist import MAX_DEPTH
from tests import samples
from tests.faults.process_case import Header, ProcessCase, basic, signed
from tests.faults.test_hostile import LAUGHS, LONG, document
from tests.http.case import CHECKIN, KEY, RESULT, device

#: Seconds of the processor that one request may take.
MOST: Final = 1.0

#: Seconds in which others are answered meanwhile, however busy the machine is.
PATIENCE: Final = 20.0

_TICKS: Final = os.sysconf("SC_CLK_TCK")

DECLARATION: Final = b'<?xml version="1.0"?>'
ENTITIES: Final = (
    b"<!ENTITY l0 'ha'>" + LAUGHS,
    b'<!ENTITY l9 SYSTEM "file:///etc/passwd">',
    b'<!ENTITY l9 SYSTEM "http://127.0.0.1:9/">',
    b'<!ENTITY % p SYSTEM "http://127.0.0.1:9/"> %p;',
    b"<!ENTITY l9 '" + b"a" * 1_000_000 + b"'>",
)


def inside(value: bytes) -> bytes:
    """
    @return: a property list of a good report, with something more in it.
    """
    good = samples.report("Idle")
    return good.replace(b"</dict>", b"<key>x</key>" + value + b"</dict>")


def broken() -> Iterator[tuple[str, bytes]]:
    """
    @return: what is no property list, or none that is taken.
    """
    for entity in ENTITIES:
        doctype = b"<!DOCTYPE plist [" + entity + b"]>"
        yield "entity", document(b"<string>&l9;</string>" * 1000, DECLARATION + doctype)
    yield "undefined entity", inside(b"<string>&nobody;</string>" * 1000)
    for digits in (5000, 1_000_000):
        yield "integer", inside(b"<integer>" + b"9" * digits + b"</integer>")
    yield "real", inside(b"<real>1e" + b"9" * 1_000_000 + b"x</real>")
    yield "date", inside(b"<date>" + b"9" * 1_000_000 + b"-01-01T00:00:00Z</date>")
    yield "depth", inside(b"<array>" * MAX_DEPTH + b"</array>" * MAX_DEPTH)
    yield "depth", inside(b"<array>" * 500_000)
    yield "depth", b"<plist>" + b"<dict><key>a</key>" * 200_000
    yield "name", b"<" + b"a" * 1_000_000
    yield "attributes", b"<plist " + b"".join(b'a%d="" ' % n for n in range(50_000)) + b">"
    yield "same key", inside(b"<true/><key>x</key><true/>")
    yield "same key", inside(b"<true/><key>Status</key><string>Acknowledged</string>")
    yield "same key", inside(b"<true/><key>UDID</key><string>D2</string>")
    yield "NUL", inside(b"<string>a\0b</string>")
    yield "NUL", inside(b"<string>&#0;</string>")
    yield "NUL", samples.report("Idle") + b"\0"
    yield "encoding", inside(b"<true/>").decode().encode("utf-16")
    for octets in (b"\xff", b"\xc0\xbc", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"):
        yield "UTF-8", inside(b"<string>" + octets + b"</string>")
    yield "binary", b"bplist00" + b"\xff" * 1000
    yield "two", samples.report("Idle") * 2
    yield "nothing", b""


#: Where a line's end would begin another header, or another line of the log.
CRLF: Final = "\r\nX-Injected: 1\r\n\r\n"


def injected() -> Iterator[tuple[str, bytes]]:
    """
    @return: a type and a message, which would put a line's end into a header.
    """
    yield RESULT, samples.report("Idle", udid=f"D1{CRLF}")
    yield RESULT, samples.report(f"Idle{CRLF}")
    yield RESULT, samples.report("Acknowledged", "C" * 128)
    yield CHECKIN, samples.token_update(UserID=f"U1{CRLF}", UserShortName="a")
    yield CHECKIN, samples.checkin("DeclarativeManagement", Endpoint=f"status{CRLF}")
    yield CHECKIN, samples.checkin("GetToken", TokenServiceType=f"com.apple.maid{CRLF}")
    yield CHECKIN, samples.checkin(f"TokenUpdate{CRLF}")


ESCAPED: Final = "%0d%0aX-Injected:%201%0d%0a%0d%0a"
_JSON: Final = "/v1/enrollments/D1/queue/C1"

#: What an operator sends: method, target and body.
OPERATED: Final[tuple[tuple[str, str, bytes], ...]] = (
    *(("PATCH", _JSON, b"[" * 1000), ("PATCH", _JSON, b'{"priority": ' + b"9" * 900 + b"}")),
    *(("PATCH", _JSON, b'{"priority": 1e999}'), ("PATCH", _JSON, b'{"priority": NaN}')),
    *(("PATCH", _JSON, b'{"priority": 1, "priority": 2}'), ("PATCH", _JSON, b'{"\xff": 1}')),
    *(("PATCH", _JSON, b'{"priority": "\0"}'), ("PATCH", _JSON, b"{" * 1_000_000)),
    ("PUT", "/v1/pushcert", b"-----BEGIN CERTIFICATE-----\n" * 30_000),
    ("PUT", "/v1/pushcert", b"-----BEGIN CERTIFICATE-----\n\0\xff-----END CERTIFICATE-----\n"),
    ("PUT", "/v1/pushcert", b"\0" * 5_000_000),
    ("GET", f"/v1/pushcert?topic={ESCAPED}", b""),
    ("GET", "/v1/pushcert?topic=%00%ff", b""),
    ("POST", "/v1/escrowkeyunlock", b"topic=a&" * 100_000),
    ("POST", "/v1/escrowkeyunlock", b"topic=%00&serial=%ff"),
    ("POST", "/v1/webhook/retry", b'{"all": true, "all": false}' + b"[" * 100_000),
    *(("GET", f"/v1/enrollments/{one}", b"") for one in (ESCAPED, "%00", "%ff", "a" * 900_000)),
    *(("DELETE", f"/v1/enrollments/D1/queue/{one}", b"") for one in (ESCAPED, "%00", "%ff")),
    *(("GET", f"/v1/commands/{one}", b"") for one in (ESCAPED, "%00", "%ff")),
    ("GET", f"/v1/enrollments?cursor={'A' * 100_000}", b""),
    ("GET", f"/v1/enrollments?limit={'9' * 100_000}", b""),
    ("GET", "/v1/enrollments?" + "a=1&" * 100_000, b""),
)


class HostileCase(ProcessCase):
    """
    A test case with a daemon that has an enrolled device, and is looked at closely.
    """

    async def serve(self, *options: str) -> None:
        """
        Start it.
        """
        self.daemon = self.start("--debug", "--migration", *options)
        self.port = await self.daemon.listening
        for number in (1, 2):
            await self.enroll(self.port, f"D{number}", number)
        await self.enqueue(self.port, "D1", "C1")

    def processor(self) -> float:
        """
        @return: seconds that the daemon has had of a processor.
        """
        stat = Path(f"/proc/{self.daemon.transport.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / _TICKS

    async def code(self, name: object, method: str, target: str, body: bytes, *more: Header) -> int:
        """
        @return: the status of the answer, which has no header that somebody put there.
        """
        before = self.processor()
        answer = await self.ask(method, target, body, more)
        self.assertLess(self.processor() - before, MOST, name)
        self.assertEqual(answer.values(b"X-Injected"), [], name)
        return answer.code

    async def idle(self, number: int) -> None:
        """
        A device is served.
        """
        body = samples.report("Idle", udid=f"D{number}")
        headers = [("Content-Type", RESULT), *signed(device(number), body)]
        self.assertEqual((await self.ask("PUT", "/mdm", body, headers)).code, 200)

    async def assertUnharmed(self) -> None:
        """
        Devices are served still, and nothing had not been thought of.
        """
        await self.idle(1)
        self.assertEqual(await self.daemon.signal(SIGTERM), -SIGTERM)
        for unexpected in (b"unexpected error", b"Unhandled", b"Traceback", b"level=critical"):
            self.assertNotIn(unexpected, self.daemon.output)
        for line in self.daemon.output.splitlines():
            self.assertTrue(line.startswith(b"ts="), line[:200])
        self.assertEqual(self.daemon.errors, b"")


class RequestTests(HostileCase):
    """
    One after the other.
    """

    async def test_device(self) -> None:
        """
        Whatever a device signs is refused with 400.
        """
        await self.serve("--dm=http://127.0.0.1:9/")
        for name, body in broken():
            for content_type in (RESULT, CHECKIN):
                proof = (("Content-Type", content_type), *signed(device(1), body))
                code = await self.code(name, "PUT", "/mdm", body, *proof)
                self.assertEqual(code, 400, (name, body[:200]))
        for content_type, body in injected():
            proof = (("Content-Type", content_type), *signed(device(1), body))
            self.assertEqual(await self.code(body, "PUT", "/mdm", body, *proof), 400)
        await self.assertUnharmed()

    async def test_unproven(self) -> None:
        """
        So is what nobody has signed, or many times, or with something else.
        """
        await self.serve()
        body = samples.report("Idle")
        [(name, right)] = signed(device(1), body)
        wrong = ("", "=", "A" * 900_000, right[:-4], right + right, f"{right}, {right}", "\xff" * 9)
        for value in (*wrong, f"{right[:9]}\0{right[9:]}", f"{right[:9]}\r\n{right[9:]}"):
            code = await self.code(value[:99], "PUT", "/mdm", body, (name, value))
            self.assertEqual(code, 400, value[:99])
        for lines in ([(name, right)] * 2, [(name, f"{right}\r\nX: a"), (name, right)]):
            self.assertEqual(await self.code(lines, "PUT", "/mdm", body, *lines), 400)
        await self.assertUnharmed()

    async def test_operator(self) -> None:
        await self.serve()
        key = basic("nanomdm", KEY)
        form = ("Content-Type", "application/x-www-form-urlencoded")
        for name, body in broken():
            for target in ("/v1/enqueue/D1?nopush=1", "/migration"):
                code = await self.code(name, "PUT", target, body, *key)
                self.assertEqual(code, 400, (target, name, body[:200]))
        for method, target, body in OPERATED:
            code = await self.code(target[:200], method, target, body, *key, form)
            self.assertIn(code, (400, 404, 413), (method, target[:200], body[:200]))
        await self.assertUnharmed()

    async def test_header(self) -> None:
        """
        What a proxy passes on in a header, as any client can.
        """
        await self.serve_header()
        body = samples.report("Idle")
        pem = "-----BEGIN%20CERTIFICATE-----"
        for value in ("", ":", "::", ":A:", ":\xff:", ESCAPED, pem, f"{pem}%0A" * 30_000):
            self.assertEqual(
                await self.code(value[:99], "PUT", "/mdm", body, ("X-Client-Cert", value)), 400
            )
        await self.assertNothingUnexpected()

    async def serve_header(self) -> None:
        self.daemon = self.start("--cert-header=X-Client-Cert")
        self.port = await self.daemon.listening

    async def assertNothingUnexpected(self) -> None:
        self.assertEqual(await self.daemon.signal(SIGTERM), -SIGTERM)
        self.assertNotIn(b"unexpected error", self.daemon.output)


def long_bodies() -> Iterator[tuple[bytes, int]]:
    """
    @return: bodies as long as they may be, and what they are answered.
    """
    room = LONG - len(inside(b"<integer></integer>"))
    for tag in (b"string", b"data", b"integer"):
        value = b"<%s>" % tag + b"1" * (room // 4 * 4) + b"</%s>" % tag
        yield inside(value), 400 if tag == b"integer" else 200
    yield inside(b"<!--" + b"x" * room), 400
    yield inside(b"<true/>" * 1000 + b"<a>" * (room // 3 - 3000)), 400
    yield b"x" * (LONG + 1), 413


class LongTests(HostileCase):
    """
    Bodies of 64 MiB, and others meanwhile.
    """

    async def test_others(self) -> None:
        await self.serve()
        for body, expected in long_bodies():
            headers = [("Content-Type", RESULT), *signed(device(1), body)]
            asking = Deferred.fromCoroutine(self.ask("PUT", "/mdm", body, headers))
            served = 0
            while not asking.called:
                start = time.monotonic()
                await self.idle(2)
                self.assertLess(time.monotonic() - start, PATIENCE)
                served += 1
            self.assertEqual((await asking).code, expected, body[:300])
            # The longest one is refused as soon as it says how long it is.
            self.assertGreater(served, 0 if expected == 413 else 2)
        await self.assertUnharmed()
