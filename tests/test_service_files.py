"""
The files for systemd and for containers, as they are shipped.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.config import Options
from nanomdm.daemon import DRAIN_DEADLINE
from nanomdm.http.limits import MAX_CONNECTIONS, MAX_REFUSED
from tests import jail, samples
from tests.http.case import CHECKIN, device
from tests.http.test_native_tls import write_files
from tests.http.test_tls import web_ca
from tests.http.tls_client import TLSClient, client_context
from tests.process import DaemonProcess
from tests.programs import lacking, program
from tests.test_daemon import DaemonCase

_ROOT = Path(__file__).parent.parent
_UNITS = ("nanomdm.service", "nanomdm@.service", "nanomdm.socket")
_TWISTD = "/opt/nanomdm/bin/twistd"


def assignments(name: str) -> list[tuple[str, str]]:
    """
    @return: the names and values in a unit, in order.
    """
    lines = (_ROOT / "etc" / name).read_text().splitlines()
    pairs = [line.partition("=") for line in lines if re.match("[A-Z][A-Za-z]+=", line)]
    return [(key, value) for key, _, value in pairs]


def value(unit: str, key: str) -> str:
    """
    @return: the only value of a name in a unit.
    """
    [found] = [value for name, value in assignments(unit) if name == key]
    return found


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """
    Run C{systemd-analyze} to its end.
    """
    command = [program("systemd-analyze"), "--no-pager", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


class UnitTests(SynchronousTestCase):
    """
    The units, with the path of a program that exists.
    """

    skip = lacking("systemd-analyze")

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        for name in _UNITS:
            text = (_ROOT / "etc" / name).read_text()
            (self.directory / name).write_text(text.replace(_TWISTD, sys.executable))

    def test_verify(self) -> None:
        """
        systemd understands every line.
        """
        for name in _UNITS:
            ended = analyze("verify", "--man=no", str(self.directory / name))
            self.assertEqual((ended.returncode, ended.stderr), (0, ""), name)

    def test_exposure(self) -> None:
        """
        A server that is taken over can do little.
        """
        for name in ("nanomdm.service", "nanomdm@.service"):
            ended = analyze("security", "--offline=true", str(self.directory / name))
            match = re.search(r"Overall exposure level for \S+: ([0-9.]+) ", ended.stdout)
            assert match is not None, ended
            self.assertLessEqual(float(match[1]), 2.0)


class ValueTests(SynchronousTestCase):
    """
    What the units say fits the server.
    """

    def test_limits(self) -> None:
        for unit in ("nanomdm.service", "nanomdm@.service"):
            # The last 20 seconds are those in which the storage closes.
            self.assertGreater(int(value(unit, "TimeoutStopSec")), DRAIN_DEADLINE + 20)
            self.assertGreater(int(value(unit, "LimitNOFILE")), MAX_CONNECTIONS + MAX_REFUSED + 500)
            self.assertEqual(value(unit, "LimitCORE"), "0")
            self.assertEqual(value(unit, "Type"), "notify")

    def test_powers(self) -> None:
        """
        The server has none, and one directory to write in.
        """
        for unit in ("nanomdm.service", "nanomdm@.service"):
            said = dict(assignments(unit))
            for key, wanted in {
                **{"User": "nanomdm", "Group": "nanomdm", "UMask": "0077"},
                **{"StateDirectory": "nanomdm", "StateDirectoryMode": "0700"},
                **{"WorkingDirectory": "/var/lib/nanomdm", "ProtectSystem": "strict"},
                **{"CapabilityBoundingSet": "", "AmbientCapabilities": ""},
                **{"NoNewPrivileges": "yes", "ProtectHome": "yes"},
            }.items():
                self.assertEqual(said[key], wanted, (unit, key))
            self.assertNotIn("ReadWritePaths", said)

    def test_command(self) -> None:
        """
        C{ExecStart} is a command line that the server takes.
        """
        for unit in ("nanomdm.service", "nanomdm@.service"):
            path, *arguments = shlex.split(value(unit, "ExecStart"))
            self.assertEqual((path, arguments[:3]), (_TWISTD, ["-n", "--pidfile=", "nanomdm"]))
            config = Path(self.mktemp())
            config.write_text("[nanomdm]\napi = key\ndisable-mdm = 1\n")
            flags = [str(config) if one.startswith("/etc/") else one for one in arguments[3:]]
            environ = {"NANOMDM_LISTEN": "127.0.0.1:9001"} if "@" in unit else {}
            options = Options(environ)
            options.parseOptions(flags)
            self.assertTrue(options.settings.disable_mdm)

    def test_instances(self) -> None:
        """
        One of several servers is as well guarded as a single one.
        """
        single, several = (set(assignments(unit)) for unit in _UNITS[:2])
        self.assertEqual({key for key, _ in single - several}, {"Description", "RuntimeDirectory"})
        self.assertEqual(
            several - single,
            {
                ("Description", "nanomdm, an Apple MDM server, on port %i"),
                ("Environment", "NANOMDM_LISTEN=127.0.0.1:%i"),
                ("EnvironmentFile", "-/etc/nanomdm/environment-%i"),
            },
        )

    def test_socket(self) -> None:
        text = (_ROOT / "etc" / "nanomdm.socket").read_text()
        self.assertIn("listen = systemd:domain=INET:name=nanomdm\n", text)
        self.assertEqual(value("nanomdm.socket", "FileDescriptorName"), "nanomdm")
        self.assertEqual(value("nanomdm.socket", "ListenStream"), "127.0.0.1:9000")


def no_jail() -> str | None:
    """
    @return: why this machine can not run L{jail}.
    """
    try:
        ctypes.CDLL(jail.LIBRARY)
    except OSError as error:
        return None if os.environ.get("NANOMDM_REQUIRE_ENGINES") == "1" else str(error)
    return lacking("systemd-analyze")


def system_calls(group: str) -> set[str]:
    """
    @return: the system calls in one of systemd's groups.
    """
    if not group.startswith("@"):
        return {group}
    names = [line.strip() for line in analyze("syscall-filter", group).stdout.splitlines()[1:]]
    return set().union(*(system_calls(name) for name in names if name and name[0] != "#"))


class ConfinedTests(DaemonCase):
    """
    The server does with the system calls that the unit leaves it.
    """

    skip = no_jail()

    def write_list(self) -> Path:
        allowed = system_calls("@default")
        for key, groups in assignments("nanomdm.service"):
            if key == "SystemCallFilter":
                for group in groups.removeprefix("~").split():
                    if groups.startswith("~"):
                        allowed -= system_calls(group)
                    else:
                        allowed |= system_calls(group)
            if (key, groups) == ("MemoryDenyWriteExecute", "yes"):
                allowed.add("deny-write-execute")
        path = self.directory / "system-calls"
        path.write_text("\n".join(allowed))
        return path

    async def test_life(self) -> None:
        """
        It starts, speaks TLS, keeps data, reads files again, and ends.
        """
        self.patch(DaemonProcess, "prefix", [sys.executable, jail.__file__, str(self.write_list())])
        files = write_files(self.directory)
        daemon = self.start(*(f"--{name.replace('_', '-')}={path}" for name, path in files.items()))
        port = await daemon.listening
        client = await TLSClient.connect(port, client_context(web_ca(), device(1), self.directory))
        self.addCleanup(client.close)
        for body in (samples.authenticate("D1"), samples.token_update("D1")):
            self.assertEqual(await client.ask("/mdm", body, {"Content-Type": CHECKIN}), (200, b""))
        self.assertEqual(self.rows("SELECT count(*) FROM devices"), [(1,)])
        written = daemon.written(b'msg="TLS certificate read"')
        daemon.transport.signalProcess(signal.SIGHUP.value)
        await written
        self.assertEqual(await daemon.signal(signal.SIGTERM), -signal.SIGTERM)
        self.assertEqual(daemon.errors, b"")

    async def test_othersFail(self) -> None:
        """
        The list counts: it has no C{setpriority}.
        """
        command = [sys.executable, jail.__file__, str(self.write_list()), sys.executable, "-c"]
        ended = await deferToThread(
            subprocess.run, [*command, "import os; os.setpriority(0, 0, 9)"], capture_output=True
        )
        self.assertEqual(ended.returncode, 1)
        self.assertIn(b"PermissionError", ended.stderr)


class ContainerTests(DaemonCase):
    """
    The C{Dockerfile}, as far as that shows without building it.
    """

    def setUp(self) -> None:
        super().setUp()
        text = (_ROOT / "Dockerfile").read_text().replace("\\\n", " ")
        self.steps = [
            (words[0], words[1])
            for words in (line.split(None, 1) for line in text.splitlines())
            if words and not words[0].startswith("#")
        ]

    def step(self, word: str) -> str:
        [found] = [rest for name, rest in self.steps if name == word]
        return found

    def copied(self) -> set[str]:
        return {
            source
            for name, rest in self.steps
            if name == "COPY" and not rest.startswith("--from")
            for source in rest.split()[:-1]
        }

    def test_copies(self) -> None:
        """
        What is copied is there, and nothing else is even looked at.
        """
        for source in self.copied():
            self.assertTrue((_ROOT / source).exists(), source)
        lines = (_ROOT / ".dockerignore").read_text().splitlines()
        self.assertIn("*", lines)
        self.assertEqual({line[1:] for line in lines if line.startswith("!")}, self.copied())
        self.assertEqual(
            self.copied(),
            {
                *("LICENSE", "README.md", "nanomdm", "pyproject.toml", "setup.cfg", "twisted"),
                *("requirements.lock", "requirements-build.lock"),
            },
        )

    def test_hashes(self) -> None:
        """
        What is fetched has its hash in a lock file, and nothing else is built.
        """
        runs = [rest for name, rest in self.steps if name == "RUN"]
        pips = re.findall(r"/bin/pip ([^&]+)", " && ".join(runs))
        self.assertEqual(len(pips), 4)
        for arguments in pips:
            if "-r" in arguments.split():
                self.assertIn("--require-hashes --only-binary :all: -r requirements", arguments)
            else:
                self.assertIn("--no-index --no-deps", arguments)

    def test_user(self) -> None:
        self.assertEqual(self.step("USER"), "10001:10001")
        self.assertEqual(self.step("VOLUME"), "/var/lib/nanomdm")

    def test_command(self) -> None:
        """
        Signals get to the server: no shell is in between.
        """
        self.assertEqual(
            json.loads(self.step("ENTRYPOINT")), ["twistd", "-n", "--pidfile=", "nanomdm"]
        )

    async def test_health(self) -> None:
        """
        The health check succeeds while there is a server, and only then.
        """
        _, _, command = self.step("HEALTHCHECK").partition("CMD ")
        python, *arguments = json.loads(command)
        self.assertEqual(python, "python")
        daemon = self.start()
        port = await daemon.listening

        async def check(url: str) -> int:
            environ = {"HEALTH_URL": url, "http_proxy": "http://127.0.0.1:9"}
            ended = await deferToThread(
                subprocess.run, [sys.executable, *arguments], env=environ, capture_output=True
            )
            return ended.returncode

        self.assertEqual(await check(f"http://127.0.0.1:{port}/healthz"), 0)
        self.assertEqual(await check(f"http://127.0.0.1:{port}/absent"), 1)
        await daemon.signal(signal.SIGTERM)
        self.assertEqual(await check(f"http://127.0.0.1:{port}/healthz"), 1)
