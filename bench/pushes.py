"""
Pushes through the API: how many a second, for how long they stop the reactor, what
devices notice of them, and how much memory they take.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.databases import DATABASES
from bench.devices import TOPIC, BenchDevice, make_devices, write_requests
from bench.server import Nanomdm, Process, wrk
from nanomdm.sim.ca import ThrowawayCA

LATENCY = 0.05
ROUNDS = 3
IDS = 5_000
FEW_STREAMS, FEW_IDS = 10, 1_000
MANY_IDS = 20_000
MOST_IDS = 100_000
DEVICES = 200
CONNECTIONS = 8
#: Seconds of load from devices: less than the push beside it takes.
LOAD = 3


class APNs(Process):
    """
    The simulated APNs, in a process of its own.

    @ivar certificate: a push certificate with its key, to be uploaded.
    """

    def __init__(self, directory: Path, streams: int) -> None:
        directory.mkdir()
        arguments = ["-m", "nanomdm.sim.apns", "--directory", str(directory), "--port", "0"]
        arguments += ["--latency", str(LATENCY), "--streams", str(streams), "--topic", TOPIC]
        super().__init__(arguments, directory / "log", r"listening on \S+:(\d+)\n", {})
        self.ca = directory / "ca.pem"
        self.certificate = (directory / f"push-{TOPIC}.pem").read_bytes()


@contextmanager
def pushing(
    ca: ThrowawayCA, kind: str, streams: int, count: int, devices: list[BenchDevice]
) -> Iterator[tuple[Nanomdm, list[str], Path]]:
    """
    A daemon that pushes to a simulated APNs over one connection; with the ids of
    C{count} enrollments, beside C{devices}, and its directory.
    """
    with tempfile.TemporaryDirectory() as name, DATABASES[kind](Path(name)) as database:
        directory = Path(name)
        apns = APNs(directory / "apns", streams)
        flags = (
            *("--apns-url", f"https://localhost:{apns.port}", "--apns-ca", str(apns.ca)),
            *("--apns-proxy", "none", "--apns-connections", "1"),
        )
        server = Nanomdm(directory, ca.pem, database.kind, database.dsn, flags, watched=True)
        try:
            ids = [f"P{number:07}" for number in range(count)]
            database.fill(ids)
            server.send(request for device in devices for request in device.enrollment())
            status, answer = server.api("PUT", "/v1/pushcert", apns.certificate)
            if status != 200:
                raise RuntimeError(f"the push certificate was answered {status}: {answer!r}")
            push(server, ids[:1])
            yield server, ids, directory
        finally:
            server.stop()
            apns.stop()


def push(server: Nanomdm, ids: list[str]) -> float:
    """
    @return: seconds that a push to all C{ids} took; each must succeed.
    """
    start = time.perf_counter()
    status, answer = server.api("PUT", f"/v1/push/{','.join(ids)}")
    spent = time.perf_counter() - start
    if status != 200:
        raise RuntimeError(f"the push was answered {status}: {answer[:500]!r}")
    return spent


def rates(ca: ThrowawayCA, kind: str, streams: int, count: int) -> dict[str, Any]:
    """
    @return: pushes a second in one call, and the reactor's longest stop.
    """
    with pushing(ca, kind, streams, count, []) as (server, ids, _):
        server.longest_stop()
        spent = [push(server, ids) for _ in range(ROUNDS)]
        stop = server.longest_stop()
    return {"per_second": round(count / statistics.median(spent)), "longest_stop_ms": stop}


def beside_devices(ca: ThrowawayCA, kind: str) -> dict[str, Any]:
    """
    @return: what devices that connect all the time notice of a large push.
    """
    devices = make_devices(ca, DEVICES)
    with pushing(ca, kind, 1000, MANY_IDS, devices) as (server, ids, directory):
        idle = directory / "idle"
        write_requests(idle, devices, BenchDevice.idle)
        alone = wrk(server.port, idle, LOAD, CONNECTIONS)
        spent: list[float] = []
        pushes = threading.Thread(target=lambda: spent.append(push(server, ids)))
        pushes.start()
        during = wrk(server.port, idle, LOAD, CONNECTIONS)
        if not pushes.is_alive():
            raise RuntimeError(f"the push took {spent[0]:.1f} s only, less than the load")
        pushes.join()
    return {
        "per_second": round(MANY_IDS / spent[0]),
        "p99_alone_ms": round(alone["p99_ms"], 1),
        "p99_during_ms": round(during["p99_ms"], 1),
        "errors": during["errors"],
    }


def memory(ca: ThrowawayCA, kind: str) -> dict[str, Any]:
    """
    @return: megabytes before a very large push, and at most while it ran.
    """
    with pushing(ca, kind, 1000, MOST_IDS, []) as (server, ids, _):
        idle = server.rss
        server.longest_stop()
        spent = push(server, ids)
        return {
            "idle_mb": round(idle / 1e6, 1),
            "peak_mb": round(server.peak_rss / 1e6, 1),
            "per_second": round(MOST_IDS / spent),
            "longest_stop_ms": server.longest_stop(),
        }


def measure(ca: ThrowawayCA, kind: str) -> dict[str, Any]:
    """
    Measure and print everything.
    """
    results: dict[str, Any] = {}
    for streams, count in ((1000, IDS), (FEW_STREAMS, FEW_IDS)):
        one = results[f"{streams}_streams"] = rates(ca, kind, streams, count)
        print(
            f"{kind:12}{count:7} pushes, {streams:4} streams: {one['per_second']:6}/s,"
            f" reactor stopped for {one['longest_stop_ms']} ms at most",
            flush=True,
        )
    one = results["beside_devices"] = beside_devices(ca, kind)
    print(
        f"{kind:12}/mdm p99 {one['p99_alone_ms']} ms alone, {one['p99_during_ms']} ms during"
        f" {MANY_IDS} pushes at {one['per_second']}/s, {one['errors']} errors",
        flush=True,
    )
    one = results["memory"] = memory(ca, kind)
    print(
        f"{kind:12}{MOST_IDS} pushes: {one['idle_mb']} MB idle, {one['peak_mb']} MB peak,"
        f" {one['per_second']}/s, reactor stopped for {one['longest_stop_ms']} ms at most",
        flush=True,
    )
    return results
