"""
Several daemons on one database: how much they do together.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.databases import DATABASES
from bench.devices import BenchDevice, make_devices, write_requests
from bench.server import Nanomdm, wrk
from nanomdm.sim.ca import ThrowawayCA

DEVICES = 200
CONNECTIONS = 32
SERVERS = (1, 2, 3)


def measure(ca: ThrowawayCA, kind: str, seconds: int) -> list[dict[str, Any]]:
    """
    Idle connects of the same devices at one server and then at more of them at once,
    with as many connections in all.

    @return: for each number of servers the requests per second of all of them, and the
        worst p99 in milliseconds.
    """
    devices = make_devices(ca, DEVICES)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = stack.enter_context(DATABASES[kind](directory))
        servers = []
        for number in range(max(SERVERS)):
            place = directory / str(number)
            place.mkdir()
            servers.append(Nanomdm(place, ca.pem, database.kind, database.dsn))
            stack.callback(servers[-1].stop)
        servers[0].send(request for device in devices for request in device.enrollment())
        requests = directory / "idle"
        write_requests(requests, devices, BenchDevice.idle)
        return [_together(servers[:count], requests, seconds) for count in SERVERS]


def _together(servers: list[Nanomdm], requests: Path, seconds: int) -> dict[str, Any]:
    share = CONNECTIONS // len(servers)
    with ThreadPoolExecutor(len(servers)) as pool:
        loads = [pool.submit(wrk, server.port, requests, seconds, share) for server in servers]
        results = [load.result() for load in loads]
    if any(result["errors"] for result in results):
        raise RuntimeError(f"errors under load: {results}")
    return {
        "servers": len(servers),
        "rate": round(sum(result["rate"] for result in results)),
        "p99_ms": round(max(result["p99_ms"] for result in results), 1),
    }
