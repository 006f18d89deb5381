"""
Tests for C{nanomdmctl secrets}, and of what other commands do with what is encrypted.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from nanomdm.crypto.secretkeys import new_key, parse_secret_keys, read_secret_keys
from nanomdm.storage.settings import StorageSettings
from tests import samples
from tests.ctl.case import CtlCase
from tests.http.case import KEY

REWRITE = ("secrets", "rewrite")
ONE, TWO = new_key(), new_key()
[ID_ONE], [ID_TWO] = (parse_secret_keys(key).keys for key in (ONE, TWO))


class SecretsCase(CtlCase):
    """
    A database with secrets that are encrypted with a first key.
    """

    def setUp(self) -> None:
        super().setUp()
        self.keys = self.home / "keys"
        self.keys.write_text(ONE)
        self.database = self.home / "db"

    def settings(self) -> dict[str, str]:
        """
        What says which database, and the keys.
        """
        return {
            "NANOMDM_STORAGE": "sqlite",
            "NANOMDM_STORAGE_DSN": str(self.database),
            "NANOMDM_SECRET_KEY_FILE": str(self.keys),
        }

    def serve_on(self, path: Path, keys: str | None = None, **more: Any) -> None:
        """
        Start a server on a database.
        """
        held = None if keys is None else parse_secret_keys(keys)
        storage = StorageSettings(kind="sqlite", dsn=path)
        self.serve(storages=(storage,), secret_keys=held, **more)

    async def fill(self, keys: str | None = ONE) -> None:
        self.serve_on(self.database, keys)
        await self.enroll("D1")
        for body in (
            samples.token_update(UnlockToken=b"unlock"),
            samples.checkin("SetBootstrapToken", BootstrapToken=b"boot"),
        ):
            self.assertOK(await self.send(body))
        await self.storage.store_push_certificate("com.a", "CERT", "PRIVATE")
        await self.end()

    async def end(self) -> None:
        await self.daemon.stopService()
        del self.daemon

    async def assertWhole(self, path: Path, keys: str | None) -> None:
        self.serve_on(path, keys)
        self.assertEqual(await self.storage.fetch_bootstrap_token("D1"), b"boot")
        self.assertEqual(await self.storage.unlock_token("D1"), b"unlock")
        self.assertEqual((await self.storage.push_certificate("com.a")).key_pem, "PRIVATE")
        await self.end()


class KeyTests(SecretsCase):
    """
    New keys.
    """

    async def test_file(self) -> None:
        """
        What is printed is such a file.
        """
        self.keys.write_text(await self.printed("secrets", "key"))
        [id] = read_secret_keys(self.keys).keys
        self.assertRegex(self.keys.read_text(), rf"\A# {id}, made \d{{4}}-\d\d-\d\d\n\S{{44}}\n\Z")

    async def test_json(self) -> None:
        made = json.loads(await self.printed("secrets", "key", "--json"))
        self.assertEqual(list(parse_secret_keys(made["key"]).keys), [made["id"]])
        self.assertNotEqual(made, json.loads(await self.printed("secrets", "key", "--json")))


class StatusTests(SecretsCase):
    """
    What is encrypted, and how.
    """

    async def test_states(self) -> None:
        await self.fill()
        kinds = "bootstrap token", "push key", "unlock token"
        for keys, state in (
            (ONE, "current"),
            (f"{TWO}\n{ONE}", "old"),
            (f"plain\n{ONE}", "old"),
            (TWO, "missing"),
        ):
            self.keys.write_text(keys)
            expected = "".join(f"{kind}\t{ID_ONE}\t1\t{state}\n" for kind in kinds)
            for flags in ((), ("--json",)):
                result = await self.ctl("secrets", "status", *flags)
                self.assertEqual(result.exit_code, int(state == "missing"), result.stderr)
                self.assertIn(f'"{state}"' if flags else expected, result.stdout)

    async def test_plain(self) -> None:
        """
        Copies of tokens in messages count, where they are not to be.
        """
        await self.fill(None)
        for keys, state, count in ((ONE, "not encrypted", 4), (f"plain\n{ONE}", "current", 3)):
            self.keys.write_text(keys)
            listed = json.loads(await self.printed("secrets", "status", "--json"))
            self.assertEqual([one["state"] for one in listed], [state] * count)

    async def test_refused(self) -> None:
        await self.fill()
        gone = "Error: --secret-key-file: /nowhere: No such file or directory"
        for arguments, text in (
            (("--secret-keys", TWO), "--secret-keys excludes --secret-key-file"),
            (("--secret-key-file", "/nowhere"), gone),
            (("--storage-dsn", "/nowhere"), "--storage-dsn: unable to open database file"),
        ):
            for command in ("status", "rewrite"):
                result = await self.ctl("secrets", command, *arguments)
                self.assertIn(text, result.stderr)
                self.assertNotEqual(result.exit_code, 0)
                self.assertNotIn(TWO, result.stderr)


class RewriteTests(SecretsCase):
    """
    From one key to another.
    """

    async def test_there(self) -> None:
        """
        On, to the next key, and off again.
        """
        await self.fill(None)
        for keys, key in ((ONE, ID_ONE), (f"{TWO}\n{ONE}", ID_TWO), (f"plain\n{TWO}", "plain")):
            self.keys.write_text(keys)
            lines = "".join(
                f"{kind}: 1 current ({key})\n"
                for kind in ("bootstrap token", "push key", "unlock token")
            )
            printed = await self.printed("secrets", "rewrite")
            self.assertEqual(printed, f"2 rows were rewritten.\n{lines}")
            await self.assertWhole(self.database, keys.replace("\n", ","))
            printed = await self.printed("secrets", "rewrite")
            self.assertEqual(printed, f"0 rows were rewritten.\n{lines}")
        await self.assertWhole(self.database, None)

    async def test_missingKey(self) -> None:
        """
        It is told, and the exit status says that something remains.
        """
        await self.fill()
        self.keys.write_text(TWO)
        result = await self.ctl("secrets", "rewrite")
        self.assertEqual(result.exit_code, 1)
        self.assertIn(f"unlock token: 1 missing ({ID_ONE})\n", result.stdout)
        reason = f"is encrypted with key {ID_ONE}, which is not in --secret-key-file"
        self.assertIn(f"the unlock token of D1 {reason}", result.stderr)
        await self.assertWhole(self.database, ONE)

    async def test_noKeys(self) -> None:
        await self.fill()
        line = await self.refused("secrets", "rewrite", code=2, NANOMDM_SECRET_KEY_FILE=None)
        text = "give the keys; to decrypt, a file whose first line is plain"
        self.assertEqual(line, f"Error: {text}")

    async def test_oneRow(self) -> None:
        await self.fill()
        self.serve_on(self.database)
        await self.storage.store_push_certificate("com.a", "CERT", "PRIVATE")
        await self.end()
        printed = await self.printed("secrets", "rewrite")
        self.assertTrue(printed.startswith("1 row was rewritten.\n"), printed)


class ConfigTests(SecretsCase):
    """
    The server's own configuration says where everything is.
    """

    def settings(self) -> dict[str, str]:
        return {}

    def configure(self, *lines: str) -> str:
        """
        @return: the path of a configuration file.
        """
        path = self.home / "nanomdm.conf"
        lines = ("[nanomdm]", "disable-mdm = 1", f"api = {KEY}", *lines)
        path.write_text("\n".join(lines))
        return str(path)

    def configure_database(self) -> str:
        return self.configure(
            f"storage-dsn = {self.database}", f"secret-key-file = {self.keys}", "listen = :1"
        )

    async def test_rewrite(self) -> None:
        await self.fill(None)
        config = self.configure_database()
        printed = await self.printed("secrets", "rewrite", "--config", config)
        self.assertIn("2 rows were rewritten.\n", printed)
        await self.assertWhole(self.database, ONE)
        listed = await self.printed("secrets", "status", NANOMDM_CONFIG=config)
        self.assertEqual(listed.count("current"), 3)

    async def test_theAdvice(self) -> None:
        """
        What C{doctor} says works as it is printed.
        """
        await self.fill(None)
        config = self.configure_database()
        found = json.loads((await self.ctl("doctor", "--config", config, "--json")).stdout)
        [advice] = [one["advice"] for one in found["findings"] if one["check"] == "secrets"]
        name, *arguments = shlex.split(advice)
        self.assertEqual((name, arguments), ("nanomdmctl", [*REWRITE, "--config", config]))
        await self.printed(*arguments)
        await self.assertWhole(self.database, ONE)

    async def test_adviceAfterFlags(self) -> None:
        """
        They are named, but may hold what nobody is to see.
        """
        await self.fill(None)
        flags = ("--storage-dsn", str(self.database), "--secret-keys", ONE)
        result = await self.ctl("doctor", "--disable-mdm", "--api", KEY, *flags)
        self.assertIn(
            "secrets rewrite, with the same --storage-dsn, --secret-keys\n", result.stdout
        )
        self.assertNotIn(ONE, result.stdout)

    async def test_otherThanTheFile(self) -> None:
        """
        Flags and the environment count more.
        """
        await self.fill(None)
        nowhere = str(self.home / "nowhere" / "db")
        config = self.configure(f"storage-dsn = {nowhere}", f"secret-key-file = {self.keys}")
        other = self.home / "other"
        other.write_text(TWO)
        await self.printed(
            *("secrets", "rewrite", "--config", config, "--secret-key-file", str(other)),
            NANOMDM_STORAGE_DSN=str(self.database),
        )
        await self.assertWhole(self.database, TWO)

    async def test_refused(self) -> None:
        """
        In the words of the server.
        """
        for lines, text in (
            (("storage = inmem",), "what is in memory only the server can see"),
            (("storge = sqlite",), "storge: no such option"),
            ((f"secret-key-file = {self.home}/none",), "can not be read"),
        ):
            config = self.configure(*lines)
            for command in ("status", "rewrite"):
                line = await self.refused("secrets", command, "--config", config)
                self.assertIn(text, line)

    async def test_default(self) -> None:
        """
        As the server, the file in the current directory.
        """
        keys = ("--secret-keys", ONE)
        line = await self.refused("secrets", "status", *keys)
        self.assertIn("unable to open database file", line)


class OtherCommandTests(SecretsCase):
    """
    Copies are as the source is; who migrates gets what devices sent.
    """

    async def test_copy(self) -> None:
        await self.fill()
        target = self.home / "target"
        await self.printed(
            "copy",
            NANOMDM_FROM_STORAGE="sqlite",
            NANOMDM_FROM_DSN=str(self.database),
            NANOMDM_TO_STORAGE="sqlite",
            NANOMDM_TO_DSN=str(target),
        )
        await self.assertWhole(target, ONE)

    async def test_export(self) -> None:
        """
        The file tells no secret.
        """
        await self.fill()
        file, target = self.home / "file", self.home / "target"
        await self.ctl("export", str(file))
        text = file.read_text()
        for secret in ("unlock\\u", "PRIVATE", "Ym9vdA==", "dW5sb2Nr"):
            self.assertNotIn(secret, text)
        await self.printed("import", str(file), NANOMDM_STORAGE_DSN=str(target))
        await self.assertWhole(target, ONE)

    async def migrate(self, keys: str) -> Any:
        """
        Migrate to another server, which encrypts nothing.
        """
        self.keys.write_text(keys)
        self.serve_on(self.home / "target", migration=True, retro=True)
        url = f"http://127.0.0.1:{self.port}/migration"
        return await self.ctl("migrate", "--url", url, NANOMDM_API=KEY)

    async def test_migrate(self) -> None:
        await self.fill()
        result = await self.migrate(ONE)
        self.assertEqual(result.stdout, "Migrated: 1 devices and 0 users.\n", result.stderr)
        self.assertEqual(await self.storage.fetch_bootstrap_token("D1"), b"boot")
        self.assertEqual(await self.storage.unlock_token("D1"), b"unlock")

    async def test_migrateWithoutTheKey(self) -> None:
        """
        A device is not sent without its tokens.
        """
        await self.fill()
        result = await self.migrate(TWO)
        self.assertEqual(result.exit_code, 1)
        reason = f"D1: the unlock token of D1 is encrypted with key {ID_ONE}"
        self.assertIn(f"Failed: 1 devices:\n  {reason}", result.stdout)
        self.assertEqual(await self.query("SELECT id FROM devices"), [])

    async def test_doctor(self) -> None:
        await self.fill()
        for keys, outcome, text in (
            (ONE, "ok", f"all 3 are encrypted with key {ID_ONE}"),
            (f"{TWO}\n{ONE}", "warn", f"3 are encrypted with the old key {ID_ONE}"),
            (TWO, "fail", f"3 are encrypted with key {ID_ONE}, which the server does not have"),
            ("bad", "fail", f"3 are encrypted with key {ID_ONE}, which the server does not have"),
        ):
            self.keys.write_text(keys)
            result = await self.ctl("doctor", "--disable-mdm", "--api", KEY, "--json")
            found = [
                (one["outcome"], one["text"])
                for one in json.loads(result.stdout)["findings"]
                if one["check"] == "secrets"
            ]
            self.assertEqual(found, [(outcome, text)])
            contents = "can be used" if keys != "bad" else "line 1: is not base64"
            self.assertIn(contents, result.stdout)
