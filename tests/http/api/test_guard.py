"""
What all of the operators' API has in common, over HTTP.
"""

from __future__ import annotations

import base64

from nanomdm import __version__
from tests import samples
from tests.http.case import KEY, ServerCase


class VersionTests(ServerCase):
    """
    C{/version}.
    """

    async def test_version(self) -> None:
        self.serve()
        answer = await self.request("GET", "/version")
        self.assertOK(answer, b'{\n\t"version": "%s"\n}\n' % __version__.encode())
        self.assertEqual(answer.header("Content-Type"), "application/json")

    async def test_apiOnly(self) -> None:
        self.serve(disable_mdm=True, ca=None)
        self.assertEqual((await self.request("GET", "/version")).code, 200)
        self.assertEqual((await self.send(samples.authenticate())).code, 404)
        self.assertEqual((await self.enqueue("D1")).code, 500)


class AuthenticationTests(ServerCase):
    """
    HTTP Basic.
    """

    async def attempt(self, authorization: str | list[str] | None) -> int:
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = await self.request(
            "PUT", "/v1/enqueue/D1?nopush=1", samples.command("C1"), headers
        )
        if answer.code == 401:
            self.assertEqual(answer.body, b"Unauthorized\n")
            self.assertEqual(answer.header("WWW-Authenticate"), 'Basic realm="nanomdm"')
        return answer.code

    def basic(self, user: str, key: str) -> str:
        return "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()

    async def test_key(self) -> None:
        self.serve()
        await self.enroll()
        right = self.basic("nanomdm", KEY)
        self.assertEqual(await self.attempt(right), 200)
        self.assertEqual(await self.attempt(right.replace("Basic", "basic")), 200)
        for wrong in (
            None,
            "",
            "Basic",
            "Basic ?",
            right[:-4],
            right.replace("Basic", "Bearer"),
            self.basic("nanomdm", KEY + "x"),
            self.basic("nanomdm", ""),
            self.basic("admin", KEY),
            [right, right],
        ):
            self.assertEqual(await self.attempt(wrong), 401, wrong)

    async def test_keyOfOtherCharacters(self) -> None:
        self.serve(api="schlüssel:✓")
        await self.enroll()
        self.assertEqual(await self.attempt(self.basic("nanomdm", "schlüssel:✓")), 200)

    async def test_noAPI(self) -> None:
        self.serve(api=None)
        answer = await self.enqueue("D1")
        self.assertEqual((answer.code, answer.body), (404, b"404 page not found\n"))

    async def test_unknownPaths(self) -> None:
        self.serve()
        for path in ("/", "/v1", "/v1/", "/v2/enqueue/D1", "/mdm/x", "/version/", "//mdm"):
            self.assertEqual((await self.api("GET", path)).code, 404, path)
