"""
The quickstart's first part, typed as it stands there: real programs, real processes.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.docs.pages import ROOT

_PAGE = ROOT / "docs" / "quickstart.md"
_LINE = re.compile(r"^\$ (.+)$", re.MULTILINE)

#: What only shows what is meant, or is there in a test.
_LEFT_OUT = ("python3 -m venv", "pip install", "export ", "mkdir ", "ID=", "UUID=")

#: What goes on running, and what it prints once it serves.
_SERVERS = {
    "nanomdmctl simulate apns": rb"listening on (https://\S+)\n",
    "twistd": rb'msg="listening" address=(\S+)\n',
    "nanomdmctl simulate devices": rb"Enrolled: (\d+)\n",
}


def typed() -> list[str]:
    """
    @return: the commands of the first part, one after the other.
    """
    part = _PAGE.read_text().partition("\n## Your first real device")[0].replace("\\\n", " ")
    blocks = re.findall(r"^```console\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in _LINE.findall(block)]
    return [line for line in lines if not line.startswith(_LEFT_OUT)]


class Shell(ProcessProtocol):
    """
    A command in a shell.

    @ivar said: fires with what the group of a pattern matched in its output.
    @ivar ended: fires with its exit status.
    """

    transport: IProcessTransport

    def __init__(self, pattern: bytes = b"$^") -> None:
        self.output = b""
        self.said: Deferred[str] = Deferred()
        self.ended: Deferred[int | None] = Deferred()
        self._pattern = re.compile(pattern)

    def childDataReceived(self, descriptor: int, data: bytes) -> None:
        self.output += data
        match = self._pattern.search(self.output)
        if match is not None and not self.said.called:
            self.said.callback(match[1].decode())

    def processEnded(self, reason: Failure) -> None:
        if not self.said.called and self._pattern.pattern != b"$^":
            self.said.errback(RuntimeError(self.output.decode("utf-8", "replace")))
        self.ended.callback(reason.value.exitCode)


class QuickstartTests(TestCase):
    """
    Somebody follows it.
    """

    timeout = 120

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {
            "PATH": path,
            "HOME": str(self.directory),
            "PYTHONPATH": str(ROOT),
            "NANOMDM_API": "secret",
            "NANOMDM_KEY": "secret",
        }
        #: Ports are any free ones, and not those of the page.
        self.replaced = {"--port 2197": "--port 0", "127.0.0.1:9000": "tcp:0:interface=127.0.0.1"}

    def spawn(self, command: str, pattern: bytes = b"$^") -> Shell:
        for shown, real in self.replaced.items():
            command = command.replace(shown, real)
        shell = Shell(pattern)
        reactor.spawnProcess(
            shell,
            "/bin/bash",
            ["bash", "-c", f"exec {command}"],
            env=self.environment,
            path=str(self.directory),
        )
        return shell

    async def start(self, command: str, pattern: bytes) -> None:
        """
        Start what goes on running, until the test ends.
        """
        server = self.spawn(command.removesuffix("&").strip(), pattern)
        self.addCleanup(self.end, server)
        said = await server.said
        if "simulate apns" in command:
            self.replaced["https://localhost:2197"] = said
        elif command.startswith("twistd"):
            self.environment["NANOMDM_SERVER"] = f"http://{said}"

    def end(self, server: Shell) -> Deferred[int | None]:
        server.transport.signalProcess(signal.SIGINT.value)
        return server.ended

    async def run_once(self, command: str) -> str:
        shell = self.spawn(command)
        status = await shell.ended
        text = shell.output.decode()
        self.assertEqual(status, 0, f"{command}: {text}")
        return text

    async def pending(self) -> list[str]:
        listed = await self.run_once("nanomdmctl enrollments list --pending --json")
        return sorted(one["id"] for one in json.loads(listed))

    async def only_busy(self) -> list[str]:
        """
        Wait until nothing is pending but for three devices; the test's time is the limit.
        """
        while len(pending := await self.pending()) != 3:
            await deferLater(reactor, 0.2)
        return pending

    async def test_followed(self) -> None:
        printed: dict[str, str] = {}
        for command in typed():
            kind = next((start for start in _SERVERS if command.startswith(start)), None)
            if kind is not None:
                await self.start(command, _SERVERS[kind])
                continue
            printed[command] = await self.run_once(command)
            if command == "nanomdmctl enrollments list":
                some = printed[command].splitlines()[0].split("\t")[0]
                self.environment["ID"] = some
            elif command == "nanomdmctl enrollments list --pending":
                [self.environment["ID"], *_] = await self.only_busy()
            elif command.startswith("nanomdmctl queue list") and "UUID" not in self.environment:
                self.environment["UUID"] = printed[command].split("\t")[0]
        commanded = printed["nanomdmctl command DeviceInformation --all --yes"]
        self.assertIn("Queued: 20, failed: 0", commanded)
        self.assertIn("NotNow", printed["nanomdmctl enrollments show $ID"])
        self.assertIn("Cancelled: 1, failed: 0", printed["nanomdmctl queue cancel $ID $UUID"])
        self.assertIn("The queue is empty.", printed["nanomdmctl queue list $ID"])
        self.assertEqual(len(await self.pending()), 2)
