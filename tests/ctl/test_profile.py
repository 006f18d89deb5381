"""
Tests for an operator's own settings, and those that go before them.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

from nanomdm.ctl.profile import profile_path
from tests.ctl.case import CtlCase
from tests.http.case import KEY
from tests.web import WebServer, listen

LIST = ("enrollments", "list")


class SettingsCase(CtlCase):
    """
    A server that notes who asks, and a file of settings.
    """

    def setUp(self) -> None:
        super().setUp()
        self.web = WebServer()
        self.web.headers = {"Content-Type": "application/json"}
        self.web.body = json.dumps({"enrollments": []}).encode()
        self.port = listen(self, self.web)
        self.url = f"http://127.0.0.1:{self.port}"

    def settings(self) -> dict[str, str]:
        return {}

    def write(self, text: str, mode: int = 0o600) -> Path:
        """
        Write the file.
        """
        path = self.home / ".config" / "nanomdm" / "ctl.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    async def who(self, *arguments: str, **variables: str) -> str:
        """
        @return: the user and the key that the server was given.
        """
        result = await self.ctl(*LIST, *arguments, **variables)
        self.assertEqual((result.stderr, result.exit_code), ("No enrollment matches.\n", 0))
        given = self.web.asked[-1].header("Authorization")
        return base64.b64decode(given.removeprefix("Basic ")).decode()

    async def usage(self, *arguments: str, **variables: str) -> str:
        """
        @return: what is wrong with how the command was called.
        """
        line = await self.refused(*LIST, *arguments, code=2, **variables)
        self.assertEqual(self.web.asked, [])
        return line.removeprefix("Error: ")


class OrderTests(SettingsCase):
    """
    Flags go before the environment, that before the file.
    """

    async def test_file(self) -> None:
        self.write(f'server = "{self.url}"\nuser = "jo"\nkey = "of the file"')
        self.assertEqual(await self.who(), "jo:of the file")

    async def test_environment(self) -> None:
        self.write('server = "http://127.0.0.1:1"\nuser = "jo"\nkey = "of the file"')
        variables = {"NANOMDM_SERVER": self.url, "NANOMDM_USER": "al", "NANOMDM_KEY": "K"}
        self.assertEqual(await self.who(**variables), "al:K")

    async def test_flags(self) -> None:
        self.write('server = "http://127.0.0.1:1"\nuser = "jo"\nkey = "of the file"')
        variables = {"NANOMDM_SERVER": "http://127.0.0.1:2", "NANOMDM_KEY": "K"}
        flags = ("--server", self.url, "--user", "eve", "--key", "flag")
        self.assertEqual(await self.who(*flags, **variables), "eve:flag")

    async def test_userUnlessGiven(self) -> None:
        variables = {"NANOMDM_SERVER": self.url, "NANOMDM_KEY": KEY}
        self.assertEqual(await self.who(**variables), f"nanomdm:{KEY}")

    async def test_otherServer(self) -> None:
        """
        The key of one server does not get to another.
        """
        self.write('server = "http://127.0.0.1:1"\nuser = "jo"\nkey = "of the file"')
        self.assertIn("--key: missing", await self.usage("--server", self.url))
        self.assertIn("--key: missing", await self.usage(NANOMDM_SERVER=self.url))
        self.assertEqual(await self.who(NANOMDM_SERVER=self.url, NANOMDM_KEY="K"), "nanomdm:K")
        self.write(f'server = "{self.url}"\nuser = "jo"\nkey = "of the file"')
        self.assertEqual(await self.who("--server", self.url), "jo:of the file")

    async def test_profile(self) -> None:
        """
        A profile has nothing from outside: no key gets to another server.
        """
        self.write(
            'server = "http://127.0.0.1:1"\nuser = "jo"\nkey = "outer"\n'
            f'[profiles.a]\nserver = "{self.url}"\nkey = "inner"\n'
            f'[profiles.b]\nserver = "{self.url}"\n'
        )
        self.assertEqual(await self.who("--profile", "a"), "nanomdm:inner")
        self.assertEqual(await self.who(NANOMDM_PROFILE="a"), "nanomdm:inner")
        self.web.asked.clear()
        self.assertIn("--key: missing", await self.usage("--profile", "b"))

    async def test_elsewhere(self) -> None:
        self.write(f'server = "{self.url}"\nkey = "K"').rename(self.home / "ctl.toml")
        (self.home / "xdg" / "nanomdm").mkdir(parents=True)
        (self.home / "ctl.toml").rename(self.home / "xdg" / "nanomdm" / "ctl.toml")
        self.assertEqual(await self.who(XDG_CONFIG_HOME=str(self.home / "xdg")), "nanomdm:K")

    def test_notRelative(self) -> None:
        """
        The specification has such paths ignored.
        """
        self.patch(Path, "home", lambda: Path("/home/jo"))
        for value in ("xdg", ""):
            self.patch(profile_path.__globals__["os"], "environ", {"XDG_CONFIG_HOME": value})
            self.assertEqual(profile_path(), Path("/home/jo/.config/nanomdm/ctl.toml"))


class MistakeTests(SettingsCase):
    """
    Settings that can not be used.
    """

    async def test_unknownKeys(self) -> None:
        path = self.write('url = "x"\nsrver = "y"\nserver = "z"')
        self.assertEqual(await self.usage(), f"{path}: unknown: srver, url")

    async def test_unknownKeysOfAnyProfile(self) -> None:
        path = self.write('[profiles.a]\nkye = "sesame"')
        self.assertEqual(await self.usage(), f"{path}: profiles.a: unknown: kye")

    async def test_values(self) -> None:
        for text, problem in (
            ("key = 1", "key: is no text"),
            ('user = ""', "user: is no text"),
            ("profiles = 1", "profiles: is no table"),
            ("profiles.a = 1", "profiles.a: is no table"),
        ):
            path = self.write(text)
            self.assertEqual(await self.usage(), f"{path}: {problem}")

    async def test_notTOML(self) -> None:
        path = self.write("key = sesame")
        line = await self.usage()
        self.assertTrue(line.startswith(f"{path}: "), line)
        self.assertNotIn("sesame", line)

    async def test_notUTF8(self) -> None:
        path = self.write("")
        path.write_bytes(b'key = "\xff"')
        self.assertTrue((await self.usage()).startswith(f"{path}: "))

    async def test_unreadable(self) -> None:
        path = self.write("")
        path.unlink()
        path.mkdir()
        self.assertEqual(await self.usage(), f"{path}: Is a directory")

    async def test_unknownProfile(self) -> None:
        path = self.write("[profiles.b]\n[profiles.a]")
        self.assertEqual(
            await self.usage("--profile", "c"), f"--profile: {path} has no profile c, it has a, b"
        )

    async def test_profileWithoutAFile(self) -> None:
        path = self.write("")
        path.unlink()
        self.assertEqual(await self.usage("--profile", "c"), f"--profile: there is no {path}")

    async def test_readableByOthers(self) -> None:
        for text in ('key = "sesame"', '[profiles.a]\nkey = "sesame"'):
            path = self.write(text, 0o644)
            result = await self.ctl(*LIST, NANOMDM_SERVER=self.url, NANOMDM_KEY=KEY)
            warning = f"Warning: {path}: others can read the key; chmod 600 it"
            self.assertEqual(result.stderr.splitlines()[0], warning)
            self.assertNotIn("sesame", result.stderr)

    async def test_readableWithoutAKey(self) -> None:
        self.write(f'server = "{self.url}"', 0o644)
        await self.who(NANOMDM_KEY=KEY)

    async def test_certificateBesideTheFile(self) -> None:
        path = self.write('server = "https://127.0.0.1:1"\nkey = "K"\nca = "root.pem"')
        line = await self.usage()
        self.assertEqual(line, f"--ca: {path.parent}/root.pem: No such file or directory")


class OptionTests(SettingsCase):
    """
    Options that can not be used.
    """

    async def test_noServer(self) -> None:
        self.assertIn("--server: missing", await self.usage(NANOMDM_KEY=KEY))

    async def test_noKey(self) -> None:
        self.assertIn("--key: missing", await self.usage(NANOMDM_SERVER=self.url))
        self.assertIn("--key: missing", await self.usage("--server", self.url, "--key", " "))

    async def test_keyFromATerminal(self) -> None:
        """
        It is asked for, and not shown.
        """
        process = self.spawn(*LIST, "--server", self.url, terminal=True)
        await process.printed(b"API key: ")
        process.transport.write(b"typed\n")
        self.assertEqual(await process.ended, 0)
        self.assertNotIn(b"typed", process.output)
        given = self.web.asked[-1].header("Authorization")
        self.assertEqual(given, f"Basic {base64.b64encode(b'nanomdm:typed').decode()}")

    async def test_server(self) -> None:
        for server, problem in (
            ("127.0.0.1:9000", "is not https://host"),
            ("ftp://host", "is not https://host"),
            ("https://", "is not https://host"),
            ("https://h:0", "is not https://host"),
            ("https://h\u00f6st", "is not https://host"),
            ("https://jo:sesame@host", "there must be no user and no fragment"),
            ("https://host?a=b", "there must be no query"),
        ):
            line = await self.usage("--server", server, "--key", KEY)
            self.assertEqual(line, f"--server: {problem}")

    async def test_userWithAColon(self) -> None:
        line = await self.usage("--server", self.url, "--key", KEY, "--user", "a:b")
        self.assertEqual(line, "--user: there must be no colon")

    async def test_noCertificates(self) -> None:
        path = self.home / "empty.pem"
        path.write_bytes(b"")
        line = await self.usage("--server", self.url, "--key", KEY, "--ca", str(path))
        self.assertTrue(line.startswith(f"--ca: {path}: "), line)

    async def test_inTheClear(self) -> None:
        """
        Who gives a key to everybody on the way is told.
        """
        for host, warned in (
            ("nowhere.invalid", True),
            ("192.0.2.1", True),
            ("localhost", False),
            ("[::1]", False),
            ("127.0.0.9", False),
        ):
            url = f"http://{host}:1"
            variables = {"NANOMDM_SERVER": url, "NANOMDM_KEY": KEY, "NANOMDM_USER": "a:b"}
            result = await self.ctl(*LIST, **variables)
            self.assertEqual("the key can be read on the way" in result.stderr, warned, host)
