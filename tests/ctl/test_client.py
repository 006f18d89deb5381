"""
Tests for how commands speak to a server, and what they say when that fails.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from twisted.web.server import Request

from nanomdm.ctl import client
from nanomdm.sim.ca import ThrowawayCA
from tests import samples
from tests.ctl.case import CtlCase
from tests.http.case import KEY
from tests.web import RawServer, WebServer, listen

EMPTY = b'{"enrollments": []}'
LIST = ("enrollments", "list")


class Numbered(WebServer):
    """
    Gives each request the next of some answers, the last one for ever.
    """

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        super().__init__()
        self.answers = list(answers)

    def render(self, request: Request) -> bytes | int:
        """
        See L{Numbered}.
        """
        self.status, self.body = self.answers[0]
        if len(self.answers) > 1:
            self.answers.pop(0)
        return super().render(request)


class ClientCase(CtlCase):
    """
    A server that says what a test wants.
    """

    def web(self, *answers: tuple[int, bytes], **headers: str) -> Numbered:
        server = Numbered(*answers)
        server.headers = {"Content-Type": "application/json", **headers}
        self.port = listen(self, server)
        return server


class RequestTests(ClientCase):
    """
    What the server is asked.
    """

    async def test_credentials(self) -> None:
        server = self.web((200, EMPTY))
        await self.ctl(*LIST, "--user", "jo")
        [asked] = server.asked
        self.assertEqual((asked.method, asked.uri), ("GET", "/v1/enrollments?limit=1000"))
        credentials = base64.b64encode(f"jo:{KEY}".encode()).decode()
        self.assertEqual(asked.header("Authorization"), f"Basic {credentials}")
        self.assertRegex(asked.header("User-Agent"), r"^nanomdmctl/")

    async def test_serverBelowAPath(self) -> None:
        server = self.web((200, EMPTY))
        await self.ctl(*LIST, "--server", f"http://127.0.0.1:{self.port}/mdm/api/")
        self.assertEqual(server.asked[0].uri, "/mdm/api/v1/enrollments?limit=1000")

    async def test_pages(self) -> None:
        """
        The next part is asked for by the cursor, and no more than is wanted.
        """
        first = {"events": [{"number": n} for n in range(1000)], "next_cursor": 7}
        second = {"events": [{"number": 1000}], "next_cursor": 8}
        server = self.web((200, json.dumps(first).encode()), (200, json.dumps(second).encode()))
        result = await self.ctl("webhook", "failed", "--limit", "1001")
        self.assertEqual(len(result.stdout.splitlines()), 1001)
        self.assertEqual(
            [asked.uri for asked in server.asked],
            ["/v1/webhook/failed?limit=1000", "/v1/webhook/failed?limit=1&cursor=7"],
        )

    async def test_endlessList(self) -> None:
        self.web((200, b'{"enrollments": [], "next_cursor": "a"}'))
        self.assertIn("the list has no end", await self.refused(*LIST))

    async def test_empty(self) -> None:
        """
        What is empty must not become a call for everything.
        """
        server = self.web((200, EMPTY))
        for arguments, what in (
            (("queue", "clear", "--serial", ""), "serial: must not be empty"),
            (("queue", "clear", "--all", "--yes", "--topic", ""), "topic: must not be empty"),
            ((*LIST, "--seen-before", ""), "seen-before: must not be empty"),
            (("queue", "cancel", "D1", ""), "'' is no id"),
            (("queue", "cancel", "D1", ".."), "'..' is no id"),
            (("enrollments", "rm", ".", "--yes"), "'.' is no id"),
        ):
            self.assertEqual(await self.refused(*arguments, code=2), f"Error: {what}")
        self.assertEqual(server.asked, [])

    async def test_idsInPaths(self) -> None:
        server = self.web((200, b'{"id": "x", "queue_length": 0, "enabled": true}'))
        await self.ctl("enrollments", "show", "a/b:c d%?")
        self.assertEqual(server.asked[0].uri, "/v1/enrollments/a%2Fb%3Ac%20d%25%3F")


class RefusalTests(ClientCase):
    """
    Answers that are no success.
    """

    async def assertSaid(self, text: str, status: int, body: bytes, **headers: str) -> None:
        self.web((status, body), **headers)
        self.assertEqual(await self.refused(*LIST), f"Error: HTTP {status}: {text}")

    async def test_ofTheAPI(self) -> None:
        for status in (400, 403, 404, 409, 500):
            await self.assertSaid("no \\u001b[1m", status, b'{"error": "no \\u001b[1m"}')

    async def test_unauthorized(self) -> None:
        plain = {"Content-Type": "text/plain"}
        text = "the key or the user is wrong (see --key and --user)"
        await self.assertSaid(text, 401, b"Unauthorized\n", **plain)

    async def test_somethingElse(self) -> None:
        html = {"Content-Type": "text/html"}
        text = "is --server right, and has that server this call?"
        await self.assertSaid(text, 404, b"<html>", **html)
        await self.assertSaid("Internal Server Error", 500, b"<html>", **html)
        await self.assertSaid("no reason", 599, b"<html>", **html)

    async def test_redirect(self) -> None:
        """
        Nobody else gets the key.
        """
        other = self.web((200, EMPTY))
        where = f"http://127.0.0.1:{self.port}/"
        self.web((302, b""), Location=where)
        line = await self.refused(*LIST)
        self.assertEqual(
            line, f"Error: HTTP 302: it sends us elsewhere, to {where}; correct --server"
        )
        self.assertEqual(other.asked, [])

    async def test_notJSON(self) -> None:
        for body in (b"<html>", b"[" * 100_000, b"[]"):
            self.web((200, body))
            line = await self.refused(*LIST)
            self.assertEqual(line, "Error: the answer is not JSON as expected; is --server right?")

    async def test_tooLarge(self) -> None:
        self.patch(client, "_LARGEST", 10)
        self.web((200, EMPTY))
        self.assertEqual(await self.refused(*LIST), "Error: the answer has more than 10 bytes")


class RetryTests(ClientCase):
    """
    What is asked again, and what is not.
    """

    async def test_busy(self) -> None:
        server = self.web((503, b""), (502, b""), (200, EMPTY))
        self.assertEqual((await self.ctl(*LIST)).exit_code, 0)
        self.assertEqual(len(server.asked), 3)

    async def test_busyForEver(self) -> None:
        server = self.web((503, b""), **{"Content-Type": "text/plain"})
        line = await self.refused(*LIST)
        self.assertEqual(line, "Error: HTTP 503: the server is busy or going down; try again")
        self.assertEqual(len(server.asked), 3)

    async def test_ownTroubles(self) -> None:
        """
        500 is what the server thinks of it.
        """
        server = self.web((500, b'{"error": "internal error"}'))
        await self.refused(*LIST)
        self.assertEqual(len(server.asked), 1)

    async def test_asLongAsItSays(self) -> None:
        pauses: list[Any] = []
        self.patch(client.time, "sleep", pauses.append)
        for given, pause in (("7", 7), ("86400", 60), ("soon", 0)):
            pauses.clear()
            self.web((429, b""), (200, EMPTY), **{"Retry-After": given})
            self.assertEqual((await self.ctl(*LIST)).exit_code, 0)
            self.assertEqual(pauses, [pause])

    async def test_notTwice(self) -> None:
        """
        A second attempt would tell that the command is not there any more.
        """
        server = self.web((503, b'{"error": "busy"}'))
        await self.ctl("queue", "cancel", "D1", "C1")
        self.assertEqual([asked.method for asked in server.asked], ["DELETE"])

    async def test_harmless(self) -> None:
        """
        A push does no harm twice, nor does a command with the same UUID.
        """
        path = self.home / "command"
        path.write_bytes(samples.command("C1"))
        for arguments in (("push",), ("enqueue", str(path))):
            done = b'{"status": {"D1": {"push_result": "1"}}}'
            server = self.web((503, b'{"push_error": "busy"}'), (200, done))
            result = await self.ctl(*arguments, "--id", "D1")
            self.assertEqual(result.exit_code, 0)
            first, second = server.asked
            self.assertEqual((first.uri, first.body), (second.uri, second.body))

    async def test_hungUp(self) -> None:
        server = RawServer(b"", hang_up=True)
        self.port = listen(self, server)
        line = await self.refused(*LIST)
        self.assertEqual(
            line,
            f"Error: http://127.0.0.1:{self.port}: Remote end closed connection without"
            " response; is it http or https?",
        )
        self.assertEqual(server.clients, 3)

    async def test_oldConnection(self) -> None:
        """
        A connection that was idle for long is not used again.
        """
        self.patch(client, "_FRESH", -1.0)
        page = b'{"enrollments": [], "next_cursor": "a"}'
        server = self.web((200, page), (200, EMPTY))
        self.assertEqual((await self.ctl(*LIST)).exit_code, 0)
        first, second = server.asked
        self.assertNotEqual(first.peer_port, second.peer_port)

    async def test_sameConnection(self) -> None:
        page = b'{"enrollments": [], "next_cursor": "a"}'
        server = self.web((200, page), (200, EMPTY))
        self.assertEqual((await self.ctl(*LIST)).exit_code, 0)
        first, second = server.asked
        self.assertEqual(first.peer_port, second.peer_port)


class UnreachableTests(ClientCase):
    """
    Nobody answers.
    """

    async def test_refused(self) -> None:
        """
        Nothing listens on port 1.
        """
        self.port = 1
        self.assertEqual(
            await self.refused(*LIST),
            "Error: http://127.0.0.1:1: nobody listens there; does the server run, and is"
            " --server right?",
        )

    async def test_unknownName(self) -> None:
        self.port = 1
        result = await self.ctl(*LIST, "--server", "https://nowhere.invalid")
        self.assertRegex(
            result.stderr,
            r"\AError: https://nowhere\.invalid: its name: .*; is --server right\?\n\Z",
        )
        self.assertEqual((result.stdout, result.exit_code), ("", 1))

    async def test_silence(self) -> None:
        self.patch(client, "_ANSWER_TIMEOUT", 0.05)
        server = WebServer()
        server.mute = True
        self.port = listen(self, server)
        arrived = server.arrived()
        self.assertIn("no answer in time", await self.refused(*LIST))
        await arrived
        self.assertEqual(len(server.asked), 1)


class TLSTests(ClientCase):
    """
    Over HTTPS.
    """

    def secure(self, *names: str) -> Path:
        """
        @return: the file with the CA.
        """
        root = ThrowawayCA.create()
        server = Numbered((200, EMPTY))
        server.headers = {"Content-Type": "application/json"}
        identity = root.issue_server(*(names or ("127.0.0.1",)))
        self.port = listen(self, server, identity)
        path = self.home / "root.pem"
        path.write_bytes(root.pem)
        return path

    def settings(self) -> dict[str, str]:
        return {**super().settings(), "NANOMDM_SERVER": f"https://127.0.0.1:{self.port}"}

    async def test_trusted(self) -> None:
        root = self.secure()
        result = await self.ctl(*LIST, NANOMDM_SERVER_CA=str(root))
        self.assertEqual((result.stderr, result.exit_code), ("No enrollment matches.\n", 0))

    async def test_notTrusted(self) -> None:
        self.secure()
        line = await self.refused(*LIST)
        self.assertRegex(line, r"its certificate is not trusted: .* \(see --ca\)$")

    async def test_otherName(self) -> None:
        root = self.secure("example.com")
        line = await self.refused(*LIST, "--ca", str(root))
        self.assertIn("its certificate is not trusted: ", line)

    async def test_noTLS(self) -> None:
        self.port = listen(self, RawServer(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
        line = await self.refused(*LIST)
        self.assertRegex(line, r"TLS: .*; is it really https\?$")
