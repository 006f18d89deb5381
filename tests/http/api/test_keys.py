"""
API keys.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from nanomdm.errors import ConfigError
from nanomdm.http.api import keys as module
from nanomdm.http.api.keys import APIKeys, Operator, Role, Stranger, read_api_keys
from tests.http.api.fakes import key_of

READER = key_of("reader", Role.READ)
DIGEST = hashlib.sha256(b"secret").hexdigest()


def request(*authorization: bytes) -> Any:
    """
    A request with headers C{Authorization}.
    """
    return SimpleNamespace(requestHeaders=Headers({b"Authorization": list(authorization)}))


def basic(name: bytes, key: bytes) -> bytes:
    """
    The value of such a header.
    """
    return b"Basic " + base64.b64encode(name + b":" + key)


class OperatorTests(SynchronousTestCase):
    """
    Who may come in.
    """

    def who(self, keys: APIKeys, *authorization: bytes) -> Operator | None:
        """
        @return: whom a request is taken for.
        """
        found = keys.identify(request(*authorization))
        return found if isinstance(found, Operator) else None

    def test_keys(self) -> None:
        keys = APIKeys("k\u00e9y:1", [READER, key_of("helpdesk", Role.ENQUEUE)])
        admin = Operator("nanomdm", Role.ADMIN)
        self.assertEqual(self.who(keys, basic(b"nanomdm", "k\u00e9y:1".encode())), admin)
        self.assertEqual(self.who(keys, basic(b"reader", b"reader")), READER.operator)
        helpdesk = Operator("helpdesk", Role.ENQUEUE)
        self.assertEqual(self.who(keys, basic(b"helpdesk", b"helpdesk")), helpdesk)
        spaced = basic(b"reader", b"reader").replace(b"Basic ", b"bASIC   ") + b"  "
        self.assertEqual(self.who(keys, spaced), READER.operator)

    def test_wrong(self) -> None:
        keys = APIKeys("key", [READER, key_of("helpdesk", Role.ENQUEUE)])
        right = basic(b"reader", b"reader")
        for authorization in (
            (),
            (b"",),
            (b"Basic",),
            (b"Basic ",),
            (b"Basic ?",),
            (right[:-1],),
            (right.replace(b"Basic", b"Bearer"),),
            (right, right),
            (b"Basic " + base64.b64encode(b"reader"),),
            (basic(b"reader", b""),),
            (basic(b"reader", b"helpdesk"),),
            (basic(b"reader", b"reader "),),
            (basic(b"reader ", b"reader"),),
            (basic(b"Reader", b"reader"),),
            (basic(b"", b""),),
            (basic(b"nobody", b""),),
            (basic(b"nobody", b"key"),),
            (basic(b"nanomdm", b"reader"),),
            (basic(b"nanomdm", hashlib.sha256(b"key").digest()),),
            (basic(b"nanomdm", hashlib.sha256(b"key").hexdigest().encode()),),
            (basic(b"\xff\xfe", b"key"),),
            (basic("\ufffd".encode(), b"key"),),
            (basic(b"reader\xff", b"reader"),),
        ):
            self.assertIsNone(self.who(keys, *authorization), authorization)

    def test_reasons(self) -> None:
        """
        Who is refused is told apart for the log, and named only if the name is one of ours.
        """
        keys = APIKeys("key", [READER])
        for authorization, reason, name in (
            ((), "no API key", None),
            ((b"Bearer secret",), "no API key", None),
            ((b"Basic " + base64.b64encode(b"secret"),), "no API key", None),
            ((basic(b"reader", b"reader"),) * 2, "no API key", None),
            ((basic(b"secret", b"reader"),), "unknown API user", None),
            ((basic(b"reader\xff", b"reader"),), "unknown API user", None),
            ((basic(b"reader", b"secret"),), "wrong API key", "reader"),
            ((basic(b"nanomdm", b""),), "wrong API key", "nanomdm"),
        ):
            found = keys.identify(request(*authorization))
            self.assertEqual(found, Stranger(reason, name), authorization)

    def test_noAdmin(self) -> None:
        """
        Without C{--api} its user is nobody.
        """
        keys = APIKeys(None, [READER])
        for key in (b"", b"None", b"reader"):
            self.assertIsNone(self.who(keys, basic(b"nanomdm", key)))
        self.assertIsNone(self.who(APIKeys(None), basic(b"reader", b"reader")))

    def test_replaced(self) -> None:
        keys = APIKeys("key", [READER])
        keys.replace([key_of("other", Role.READ)])
        self.assertIsNone(self.who(keys, basic(b"reader", b"reader")))
        self.assertEqual(self.who(keys, basic(b"other", b"other")), Operator("other", Role.READ))
        self.assertEqual(self.who(keys, basic(b"nanomdm", b"key")), Operator("nanomdm", Role.ADMIN))

    def test_constantTime(self) -> None:
        """
        Keys are compared by their digests, those of nobody too.
        """
        compared: list[Sequence[bytes]] = []

        def noting(first: bytes, second: bytes) -> bool:
            compared.append((first, second))
            return hmac.compare_digest(first, second)

        self.patch(module, "hmac", SimpleNamespace(compare_digest=noting))
        keys = APIKeys("key", [READER])
        for name in (b"nanomdm", b"reader", b"nobody", b"\xff"):
            self.assertIsNone(self.who(keys, basic(name, b"guess" * 1000)))
        self.assertEqual(len(compared), 4)
        self.assertEqual({len(side) for pair in compared for side in pair}, {32})

    def test_long(self) -> None:
        """
        Who sends as much as a header can have does not hold the server up.
        """
        decoded = []

        def noting(data: bytes, **options: Any) -> bytes:
            decoded.append(len(data))
            return base64.b64decode(data, **options)

        self.patch(module, "base64", SimpleNamespace(b64decode=noting))
        long = "k" * 40_000
        keys = APIKeys(long)
        self.assertIsNotNone(self.who(keys, basic(b"nanomdm", long.encode())))
        self.assertEqual(len(decoded), 1)
        self.assertIsNone(self.who(keys, basic(b"\xff" * 700_000, b"x")))
        self.assertIsNone(self.who(keys, b"Basic " + b"A" * (1 << 20)))
        self.assertEqual(len(decoded), 1)

    def test_secret(self) -> None:
        """
        What is shown of a key is who has it.
        """
        self.assertNotIn(repr(READER.digest), repr(READER))
        self.assertIn("reader", repr(READER))

    def test_roles(self) -> None:
        self.assertEqual(sorted(Role), [Role.READ, Role.ENQUEUE, Role.ADMIN])
        self.assertEqual([role.word for role in Role], ["read", "enqueue", "admin"])


class FileTests(SynchronousTestCase):
    """
    Files of keys.
    """

    def write(self, content: bytes | str) -> Path:
        """
        Make a file.
        """
        self.path = Path(self.mktemp())
        self.path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return self.path

    def assertRefused(self, content: bytes | str, reason: str) -> None:
        """
        A file can not be used.  The error names it and the option, and quotes no secret.
        """
        path = self.write(content)
        error = self.assertRaises(ConfigError, read_api_keys, path)
        self.assertEqual(str(error), f"--api-key-file: {path}: {reason}")

    def test_read(self) -> None:
        content = (
            f"\ufeff# who may what\n\nreader read {DIGEST}\r\n  \t\n"
            f"\thelp-desk.2_X\tenqueue   {DIGEST.upper()}  \n   # root {DIGEST}\n"
            # This ends no line.
            f"# two\u2028root admin {DIGEST}\n{'n' * 64} admin {DIGEST}"
        )
        keys = read_api_keys(self.write(content))
        self.assertEqual(
            [key.operator for key in keys],
            [
                Operator("reader", Role.READ),
                Operator("help-desk.2_X", Role.ENQUEUE),
                Operator("n" * 64, Role.ADMIN),
            ],
        )
        self.assertEqual({key.digest for key in keys}, {bytes.fromhex(DIGEST)})
        operator = APIKeys(None, keys).identify(request(basic(b"reader", b"secret")))
        self.assertEqual(operator, Operator("reader", Role.READ))

    def test_empty(self) -> None:
        for content in ("", "\ufeff", "\n\n", "# nobody\n"):
            self.assertEqual(read_api_keys(self.write(content)), ())

    def test_refused(self) -> None:
        name = "the name is not 1 to 64 letters, digits, dots, - and _"
        shape = "is not a name, a role and a SHA-256"
        role = "the role is none of read, enqueue, admin"
        digest = "the SHA-256 is not 64 hexadecimal digits"
        good = f"good read {DIGEST}\n"
        for line, reason in (
            ("reader", shape),
            ("reader read", shape),
            (f"reader {DIGEST}", shape),
            (f"reader read {DIGEST} # comment", shape),
            (f"reader:secret read {DIGEST}", name),
            (f"r\u00e9ader read {DIGEST}", name),
            (f"{'n' * 65} read {DIGEST}", name),
            (f"nanomdm read {DIGEST}", "the name nanomdm is that of the key in --api"),
            (f"reader Read {DIGEST}", role),
            (f"reader secret {DIGEST}", role),
            ("reader read secret", digest),
            (f"reader read {DIGEST[:-1]}", digest),
            (f"reader read {DIGEST}0", digest),
            (f"reader read {DIGEST[:-1]}g", digest),
            (f"reader read {DIGEST[:-1]}\u0661", digest),
            (f"good admin {DIGEST}", "good is there already"),
        ):
            self.assertRefused(f"# keys\n{good}\r\n{line}\n{good}", f"line 4: {reason}")
            self.assertRefused(f"{good}{line}", f"line 2: {reason}")

    def test_unreadable(self) -> None:
        self.assertRefused(b"reader read \xff", "is not UTF-8")
        self.assertRefused(b"#" * ((1 << 20) + 1), "more than 1048576 bytes")
        self.assertEqual(read_api_keys(self.write(b"#" * (1 << 20))), ())
        self.path.unlink()
        error = self.assertRaises(ConfigError, read_api_keys, self.path)
        self.assertEqual(str(error), f"--api-key-file: {self.path}: No such file or directory")
        self.path.mkdir()
        error = self.assertRaises(ConfigError, read_api_keys, self.path)
        self.assertIn("Is a directory", str(error))
