"""
Tests for L{tests.leaks}, which fails whoever lets a secret be logged.
"""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from tests import samples
from tests.faults.process_case import ProcessCase
from tests.http.case import ServerCase
from tests.leaks import KEY, LOG, given_secrets, leaked, main, secrets_of
from tests.process import DaemonProcess

#: Prints what a daemon has as its API key, and then is that daemon.
TALKING = ("/bin/sh", "-c", 'echo "key=$NANOMDM_API" >&2; exec "$0" "$@"')

PEM = b"-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\n"


class Talking(DaemonProcess):
    """
    A daemon that says too much.
    """

    prefix = TALKING


class GivenTests(SynchronousTestCase):
    """
    What is secret of a daemon's options.
    """

    def test_given(self) -> None:
        options = (
            *("--listen", "tcp:0", "--webhook-hmac-key=hmac-key", "--dm-send-hmac-key", "to-send"),
            *("--storage-dsn=mysql://user:dsn-secret@host/db", "--apns-proxy=http://u:proxied@h"),
            *("--storage-options", "pool_size=1,replica_dsn=host=h password='re plica' user=u"),
            *("--storage-dsn", "host=h password=keyword user=u", "--storage-dsn=a.db"),
        )
        keys = Path(self.mktemp())
        keys.write_text("first-key\nsecond-key\n")
        options += ("--secret-key-file", str(keys), "--secret-keys=third-key,fourth-key")
        expected = {b"first-key", b"second-key", b"third-key", b"fourth-key"}
        expected |= {b"hmac-key", b"to-send", b"dsn-secret", b"proxied", b"re plica", b"keyword"}
        environment = {"NANOMDM_API": "api-secret", "NANOMDM_LISTEN": "nothing", "HOME": "/root"}
        self.assertEqual(given_secrets(options, environment), {*expected, b"api-secret"})

    def test_found(self) -> None:
        """
        However they are written; but not with C{--dump}, nor what is too short.
        """
        given = {"NANOMDM_API": "api-secret", "NANOMDM_WEBHOOK_HMAC_KEY": "tcp"}
        for printed, expected in (
            (b"listening tcp:0", []),
            (b"an api-secret", [b"api-secret"]),
            (b"Basic bmFub21kbTphcGktc2VjcmV0", [b"api-secret"]),
            (b"magic=" + samples.MAGIC.encode(), [samples.MAGIC.encode()]),
            (samples.TOKEN.hex().encode(), [samples.TOKEN]),
            (b"a" + PEM, [b"-----BEGIN EC PRIVATE KEY-----"]),
        ):
            self.assertEqual(leaked(printed, secrets_of((), given)), expected)
        self.assertEqual(secrets_of(("--dump",), given), set())


class ProcessTests(ProcessCase):
    """
    Daemons as processes.
    """

    async def test_talking(self) -> None:
        """
        The test of one that prints a secret fails, whatever it is about.
        """
        daemon = Talking("--storage=nothing", NANOMDM_API="Talked-about")
        daemon.listening.addErrback(lambda failure: None)
        self.assertEqual(await daemon.ended, 1)
        self.assertIn(b"key=Talked-about", daemon.errors)
        [failure] = self.flushLoggedErrors(AssertionError)
        self.assertIn("Talked-about", failure.getErrorMessage())

    async def test_unhandled(self) -> None:
        """
        So does that of one with an error that nobody has thought of.
        """
        daemon = Talking("--storage=nothing", NANOMDM_API='msg="Unhandled Error" of nobody')
        daemon.listening.addErrback(lambda failure: None)
        await daemon.ended
        errors = [str(one.value) for one in self.flushLoggedErrors(AssertionError)]
        self.assertIn("Unhandled Error", errors[0])

    async def test_silent(self) -> None:
        daemon = DaemonProcess("--storage=nothing", NANOMDM_API="Talked-about")
        daemon.listening.addErrback(lambda failure: None)
        self.assertEqual(await daemon.ended, 1)
        self.assertEqual(self.flushLoggedErrors(AssertionError), [])


class FileTests(ServerCase):
    """
    The log of the servers in this process, afterwards.
    """

    def look(self, *paths: Path) -> tuple[int, str]:
        with patch("sys.stdout", StringIO()) as printed:
            return main([str(path) for path in paths]), printed.getvalue()

    def test_clean(self) -> None:
        path = Path(self.mktemp())
        path.write_bytes(b"level=info msg=request\n" * 3)
        self.assertEqual(self.look(path), (0, f"{path}: looked through 3 lines\n"))

    def test_secret(self) -> None:
        path = Path(self.mktemp())
        path.write_bytes(b"level=info\nlevel=info key=%s\n" % KEY.encode() + PEM)
        status, printed = self.look(path)
        self.assertEqual(status, 1)
        self.assertIn(f"{path}:2: {KEY.encode()!r} is in the log\n", printed)
        self.assertIn(f"{path}:3: b'-----BEGIN EC PRIVATE KEY-----' is in the log\n", printed)

    def test_noFile(self) -> None:
        self.assertRaises(OSError, self.look, Path(self.mktemp()))

    async def test_log(self) -> None:
        """
        Servers in a test's process log everything there.
        """
        self.serve()
        await self.request("GET", "/healthz?trace")
        lines = Path(LOG).read_text().splitlines()
        probes = [line for line in lines if "path=/healthz" in line and "level=debug" in line]
        self.assertGreater(len(probes), 0)
