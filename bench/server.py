"""
The processes under load, and the load.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterable, Sequence
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_KEY = "bench"


class Process:
    """
    A server in a process of its own, on a free port of the loopback interface.

    @param announcement: matches what it prints once it listens; its group is
        the port.
    """

    def __init__(
        self, arguments: list[str], log: Path, announcement: str, environment: dict[str, str]
    ) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(_HERE.parent), **environment},
            )
        self.port = self._wait_for_port(log, announcement)

    def _wait_for_port(self, log: Path, announcement: str) -> int:
        for _ in range(300):
            match = re.search(announcement, log.read_text())
            if match is not None:
                return int(match[1])
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")

    @property
    def rss(self) -> int:
        """
        Resident memory in bytes.
        """
        return self._memory("VmRSS")

    @property
    def peak_rss(self) -> int:
        """
        The most resident memory so far, in bytes.
        """
        return self._memory("VmHWM")

    def _memory(self, name: str) -> int:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        match = re.search(rf"{name}:\s+(\d+) kB", status)
        return int(match[1]) * 1024 if match else 0

    def stop(self) -> None:
        """
        End it and wait for that.
        """
        self._process.terminate()
        self._process.wait(timeout=60)

    def send(self, requests: Iterable[bytes]) -> None:
        """
        Send whole requests one after the other; each must be answered with 200.
        """
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            answers = connection.makefile("rb")
            for request in requests:
                connection.sendall(request)
                status = answers.readline()
                if b" 200 " not in status:
                    raise RuntimeError(f"answered {status!r}")
                size = 0
                while (line := answers.readline()) != b"\r\n":
                    if line.lower().startswith(b"content-length:"):
                        size = int(line.split(b":")[1])
                answers.read(size)


class Bare(Process):
    """
    The yardstick.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(["-m", "bench.bare"], directory / "bare.log", r"(\d+)\n", {})


class Nanomdm(Process):
    """
    The daemon, as C{twistd} runs it.

    @param kind: of its storage.
    @param dsn: of its storage.
    @param flags: further ones.
    @param watched: whether L{longest_stop} will be asked for, which costs a little.
    """

    def __init__(
        self,
        directory: Path,
        ca: bytes,
        kind: str,
        dsn: str,
        flags: Sequence[str] = (),
        watched: bool = False,
    ) -> None:
        (directory / "ca.pem").write_bytes(ca)
        options = {
            "listen": "tcp:0:interface=127.0.0.1",
            "ca": str(directory / "ca.pem"),
            "storage": kind,
        }
        arguments = ["-m", "bench.twistd", "-n", "--pidfile=", "nanomdm"]
        for name, value in options.items():
            arguments += [f"--{name}", value]
        arguments += flags
        self._read = 0
        announcement = r"msg=\"listening\" address=127\.0\.0\.1:(\d+)\n"
        secrets = {"NANOMDM_API": _KEY, "NANOMDM_STORAGE_DSN": dsn}
        watch = {"BENCH_WATCH": "1"} if watched else {}
        super().__init__(arguments, directory / "nanomdm.log", announcement, {**secrets, **watch})

    def enqueue(self, ids: Iterable[str], command: bytes) -> int:
        """
        Queue a command through the API.

        @return: the HTTP status.
        """
        return self.api("PUT", f"/v1/enqueue/{','.join(ids)}?nopush=1", command)[0]

    def api(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """
        Call the API.

        @return: the HTTP status and the body.
        """
        connection = HTTPConnection("127.0.0.1", self.port, timeout=600)
        key = b64encode(f"nanomdm:{_KEY}".encode()).decode()
        connection.request(method, path, body, {"Authorization": f"Basic {key}"})
        with closing(connection), connection.getresponse() as answer:
            return answer.status, answer.read()

    def longest_stop(self) -> float:
        """
        @return: the reactor's longest stop since the last call, in milliseconds.
        """
        # What is going on now is in the line after the next one.
        time.sleep(2.2)
        text = self._log.read_text()
        stops = re.findall(r"^reactor stopped for ([\d.]+) ms$", text[self._read :], re.MULTILINE)
        self._read = len(text)
        return max(map(float, stops))

    def ping(self) -> None:
        """
        Ask for the version, which only the reactor has to do with.
        """
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}/version", timeout=60).close()


def wrk(port: int, requests: Path, seconds: int, connections: int) -> dict[str, Any]:
    """
    Put load on a server with C{wrk}, and see what it measured.

    @return: requests, seconds, p50_ms, p99_ms and errors; and C{rate}, requests
        per second.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=30s", "--latency"]
    command += ["-s", str(_HERE / "wrk.lua"), f"http://127.0.0.1:{port}/mdm"]
    environment = {**os.environ, "WRK_REQUESTS": str(requests)}
    done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    measured["rate"] = measured["requests"] / measured["seconds"]
    return measured
