"""
C{python -m nanomdm.sim.demo}: start the real server and a simulated APNs, and let
a simulated Mac enroll, be pushed to, fetch a command and answer it, all over the
network.
"""

from __future__ import annotations

import json
import secrets
import shlex
import signal
import socket
import sys
from argparse import ArgumentParser, Namespace
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from attrs import frozen
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.task import deferLater, react
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http import OK
from twisted.web.http_headers import Headers

from nanomdm.errors import NanoMDMError
from nanomdm.sim.apns import SeenPush, SimulatedAPNs
from nanomdm.sim.client import DeviceClient, SimulationError, fetch
from nanomdm.sim.demo_daemon import DaemonProcess, start_daemon
from nanomdm.sim.demo_directory import DemoDirectory
from nanomdm.sim.demo_push import PushAlarm
from nanomdm.sim.demo_terminal import Terminal
from nanomdm.sim.feed import PushFeed

HOST: Final = "127.0.0.1"
HIGHEST_PORT: Final = 65535

#: Seconds from the enqueueing of a command until the Mac was pushed to.
PUSH_DEADLINE: Final = 10.0

#: Seconds the server gets to start, and between two looks at it.
START_DEADLINE: Final = 30.0
START_POLL: Final = 0.2

#: Seconds for one call of the API.
API_TIMEOUT: Final = 10.0


class DemoError(NanoMDMError):
    """
    The demonstration can not go on.
    """


@frozen
class Demo:
    """
    What takes part in the demonstration.

    @ivar reactor: the reactor.
    @ivar directory: what is kept on disk.
    @ivar terminal: where the steps are shown.
    @ivar base_url: the server's root.
    @ivar api_key: the key of the server's API.
    @ivar http: the client for everything that is sent.
    @ivar apns: the push service.
    @ivar alarm: what wakes the Mac.
    """

    reactor: Any
    directory: DemoDirectory
    terminal: Terminal
    base_url: str
    api_key: str
    http: HTTPClient
    apns: SimulatedAPNs
    alarm: PushAlarm

    async def tell(self, once: bool) -> None:
        """
        Go through all the steps.

        @param once: end after the first command; otherwise the Mac connects
            whenever it is pushed to, until this is cancelled.
        @raise NanoMDMError: a step fails.
        """
        self.terminal.step("APNs", "listens", f"{self.apns.url}, a simulated one")
        await self._wait_for_server()
        await self._upload_certificate()
        client = DeviceClient(
            self.directory.mac, self.base_url, self.http, observe=self.terminal.exchange
        )
        await client.enroll()
        self.alarm.forget()
        await self._enqueue("DeviceInformation")
        await self.wait_for_push()
        if not await self._connect(client):
            raise DemoError("the Mac was given no command")
        if once:
            self.terminal.text("\nEvery step succeeded.")
            return
        self._show_what_next()
        while True:
            self._show_push(await self.alarm.wait())
            try:
                await self._connect(client)
            except SimulationError as error:
                self.terminal.step("Mac", "can not connect", str(error))

    async def wait_for_push(self) -> None:
        """
        Wait for the push that follows the first command.

        @raise DemoError: it does not come in time.
        """
        try:
            pushes = await self.alarm.wait().addTimeout(PUSH_DEADLINE, self.reactor)
        except TimeoutError as error:
            raise DemoError(f"the Mac was not pushed to within {PUSH_DEADLINE:g} s") from error
        self._show_push(pushes)

    async def _wait_for_server(self) -> None:
        deadline = self.reactor.seconds() + START_DEADLINE
        while self.reactor.seconds() < deadline:
            try:
                version = (await self._call("GET", "/version"))["version"]
            except SimulationError:
                await deferLater(self.reactor, START_POLL, lambda: None)
            else:
                self.terminal.step("server", "listens", f"{self.base_url}, version {version}")
                return
        raise DemoError(f"the server does not answer within {START_DEADLINE:g} s")

    async def _upload_certificate(self) -> None:
        pem = self.directory.push_certificate_file.read_bytes()
        result = await self._call("PUT", "/v1/pushcert", pem)
        detail = f"{result['topic']}\nvalid until {result['not_after']}"
        self.terminal.step("API", "pushcert", detail, OK)

    def _show_push(self, pushes: int) -> None:
        detail = "wakes the Mac" if pushes == 1 else f"wakes the Mac, {pushes} pushes at once"
        self.terminal.step("APNs", "push", detail, OK)

    async def _connect(self, client: DeviceClient) -> int:
        """
        @return: how many commands the Mac answered.
        """
        answered = await client.connect()
        for each in answered:
            self.directory.command_answered(each.command_uuid)
        return len(answered)

    async def _enqueue(self, request_type: str) -> None:
        command = self.directory.command_file(request_type).read_bytes()
        result = await self._call("PUT", self._enqueue_path, command)
        self.terminal.step("API", "enqueue", f"{request_type} {result['command_uuid']}", OK)

    async def _call(self, method: str, path: str, body: bytes = b"") -> dict[str, Any]:
        """
        Call the API.

        @return: its answer.
        @raise SimulationError: there is none.
        @raise DemoError: its status is not 200.
        """
        credentials = b64encode(f"nanomdm:{self.api_key}".encode()).decode()
        status, received = await fetch(
            self.http,
            method,
            f"{self.base_url}{path}",
            Headers({"Authorization": [f"Basic {credentials}"]}),
            body,
            timeout=API_TIMEOUT,
            clock=self.reactor,
        )
        if status != OK:
            text = received[:500].decode("utf-8", "replace").strip()
            raise DemoError(f"{path} answered {status}: {text}")
        result: dict[str, Any] = json.loads(received)
        return result

    @property
    def _enqueue_path(self) -> str:
        return f"/v1/enqueue/{self.directory.mac.enrollment_id}"

    def _show_what_next(self) -> None:
        directory = self.directory
        file = shlex.quote(str(directory.command_file("SecurityInfo")))
        others = [each for each in directory.request_types if each != "SecurityInfo"]
        self.terminal.text(f"""
The server runs on, and the Mac sleeps until it is pushed to.  Try in another terminal:

  queue one more command (beside SecurityInfo.plist there are
  {", ".join(others)}), and see the Mac answer it here:
    curl -u nanomdm:{self.api_key} -T {file} {self.base_url}{self._enqueue_path}

  only wake the Mac:
    curl -u nanomdm:{self.api_key} {self.base_url}/v1/push/{directory.mac.enrollment_id}

  ask for the server's version:
    curl {self.base_url}/version

  read its log:
    tail {shlex.quote(str(directory.log))}

Ctrl-C stops everything.
""")


def free_port(preferred: int) -> int:
    """
    @param preferred: a port; 0 is any.
    @return: C{preferred} when it is free on the loopback interface, else one
        that is.
    """
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            chosen: int = probe.getsockname()[1]
            return chosen
    raise DemoError(f"no free port on {HOST}")


def parse_arguments(arguments: Sequence[str]) -> Namespace:
    """
    Read the command line.

    @raise SystemExit: it can not be understood.
    """
    description = (
        "Start the server and let a simulated Mac enroll, be pushed to and answer a command."
    )
    parser = ArgumentParser("python -m nanomdm.sim.demo", description=description)
    parser.add_argument(
        "--directory", type=Path, default=Path("var"), help="where everything is kept (var)"
    )
    parser.add_argument(
        "--port", type=int, default=9000, help="port of the server, 0 for any free one (9000)"
    )
    parser.add_argument("--once", action="store_true", help="stop after the first command")
    options = parser.parse_args(arguments)
    if not 0 <= options.port <= HIGHEST_PORT:
        parser.error(f"--port: {options.port} is not a port")
    return options


async def demonstrate(reactor: Any, options: Namespace) -> None:
    """
    Run the server and the demonstration until it is over or interrupted.

    @param options: from L{parse_arguments}.
    @raise SystemExit: it failed; the terminal shows why.
    """
    terminal = Terminal(sys.stdout)
    # Signals are handled properly only once the reactor runs.
    await deferLater(reactor, 0, lambda: None)
    try:
        await _run(reactor, options, terminal)
    except (NanoMDMError, OSError, ValueError) as error:
        terminal.failure(str(error))
        raise SystemExit(1) from error


async def _run(reactor: Any, options: Namespace, terminal: Terminal) -> None:
    directory = DemoDirectory(options.directory)
    port = free_port(options.port)
    terminal.text(f"A simulated Mac enrolls with a real server; all is kept in {directory.path}\n")
    if options.port not in (0, port):
        terminal.step("server", "port taken", f"{options.port} is in use, taking {port}")
    api_key = secrets.token_urlsafe(16)
    alarm = PushAlarm(directory.mac, terminal)
    feed = PushFeed(reactor, directory.path)
    apns = _apns(reactor, directory, alarm, feed)
    await apns.start()
    await feed.start()
    daemon = _start(reactor, directory, port, api_key, apns)
    pool = HTTPConnectionPool(reactor)
    http = HTTPClient(Agent(reactor, pool=pool))
    base_url = f"http://{HOST}:{port}"
    demo = Demo(reactor, directory, terminal, base_url, api_key, http, apns, alarm)
    story = Deferred.fromCoroutine(demo.tell(options.once))
    over = _cancel_at_end(reactor, story, daemon)
    try:
        await _hear(story, daemon)
    finally:
        await pool.closeCachedConnections()
        await daemon.stop()
        await feed.stop()
        await apns.stop()
        over.callback(None)


def _apns(
    reactor: Any, directory: DemoDirectory, alarm: PushAlarm, feed: PushFeed
) -> SimulatedAPNs:
    """
    @param feed: tells other simulated devices, see C{nanomdmctl simulate devices}.
    """

    def pushed(push: SeenPush) -> None:
        alarm.ring(push)
        feed.publish(push)

    apns = SimulatedAPNs(reactor, directory.ca)
    apns.on_push = pushed
    return apns


def _start(
    reactor: Any, directory: DemoDirectory, port: int, api_key: str, apns: SimulatedAPNs
) -> DaemonProcess:
    options = [
        *("--listen", f"{HOST}:{port}"),
        *("--ca", str(directory.ca_file)),
        *("--storage-dsn", str(directory.database)),
        *("--apns-url", apns.url),
        *("--apns-ca", str(directory.ca_file)),
        *("--apns-proxy", "none"),
    ]
    return start_daemon(reactor, directory.log, options, {"NANOMDM_API": api_key})


def _cancel_at_end(reactor: Any, story: Deferred[None], daemon: DaemonProcess) -> Deferred[None]:
    """
    End the story when the daemon ends or the reactor is told to stop.

    @return: to be fired when everything is cleaned up; the reactor waits for
        it.
    """
    over: Deferred[None] = Deferred()

    def stop() -> Deferred[None]:
        story.cancel()
        return over

    reactor.addSystemEventTrigger("before", "shutdown", stop)
    daemon.ended().addCallback(lambda _: story.cancel())
    return over


async def _hear(story: Deferred[None], daemon: DaemonProcess) -> None:
    try:
        await story
    except CancelledError:
        if daemon.exit_status:
            raise DemoError(_with_log("the server ended by itself", daemon)) from None
    except NanoMDMError as error:
        raise DemoError(_with_log(str(error), daemon)) from error


def _with_log(text: str, daemon: DaemonProcess) -> str:
    status = f" ({daemon.exit_status})" if daemon.exit_status else ""
    lines = [f"{text}{status}; its log, {daemon.log}, ends with", *daemon.last_lines()]
    return "\n  ".join(lines)


def main() -> None:
    """
    Run the program.
    """
    options = parse_arguments(sys.argv[1:])

    def run(reactor: Any) -> Deferred[None]:
        # A closed terminal must not leave the server behind.
        signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(reactor.stop))
        return Deferred.fromCoroutine(demonstrate(reactor, options))

    react(run)


if __name__ == "__main__":
    main()
