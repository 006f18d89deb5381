"""
What the webhook costs devices, with receivers in good and in bad health, and how fast
events are delivered.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.databases import DATABASES
from bench.devices import BenchDevice, make_devices, write_requests
from bench.server import Nanomdm, Process, wrk
from nanomdm.sim.ca import ThrowawayCA

DEVICES = 1_000
CONNECTIONS = 32
ROUNDS = 3
#: Nobody listens there.
NOBODY = "http://127.0.0.1:9/"


class Receiver(Process):
    """
    The receiver, in a process of its own.
    """

    def __init__(self, directory: Path, *arguments: str) -> None:
        log = directory / "receiver.log"
        super().__init__(["-m", "bench.receiver", *arguments], log, r"(\d+)\n", {})
        self.url = f"http://127.0.0.1:{self.port}/"


@contextmanager
def receiver(directory: Path, health: str) -> Iterator[list[str]]:
    """
    @return: the flags for a server that tells a receiver of this health.
    """
    if health == "none":
        yield []
    elif health == "dead":
        yield ["--webhook-url", NOBODY]
    else:
        one = Receiver(directory, *(["mute"] if health == "mute" else []))
        try:
            yield ["--webhook-url", one.url]
        finally:
            one.stop()


def idle(ca: ThrowawayCA, kind: str, seconds: int, devices: list[BenchDevice], health: str) -> Any:
    """
    @return: what a load of devices that ask for work measured.
    """
    with (
        tempfile.TemporaryDirectory() as name,
        DATABASES[kind](Path(name)) as database,
        receiver(Path(name), health) as flags,
    ):
        server = Nanomdm(Path(name), ca.pem, database.kind, database.dsn, flags)
        try:
            server.send(request for device in devices for request in device.enrollment())
            requests = Path(name) / "idle"
            write_requests(requests, devices, BenchDevice.idle)
            measured = wrk(server.port, requests, seconds, CONNECTIONS)
            if measured["errors"]:
                raise RuntimeError(f"errors under load: {measured}")
            return measured
        finally:
            server.stop()


def delivery(ca: ThrowawayCA, kind: str, seconds: int, devices: list[BenchDevice]) -> Any:
    """
    @return: events a second that a server delivers which finds them in the database.
    """
    with (
        tempfile.TemporaryDirectory() as name,
        DATABASES[kind](Path(name)) as database,
        receiver(Path(name), "healthy") as flags,
    ):
        directory = Path(name)
        dead = ("--webhook-url", NOBODY)
        server = Nanomdm(directory, ca.pem, database.kind, database.dsn, dead)
        server.send(request for device in devices for request in device.enrollment())
        requests = directory / "idle"
        write_requests(requests, devices, BenchDevice.idle)
        wrk(server.port, requests, seconds, CONNECTIONS)
        count = waiting(server)
        server.stop()
        server = Nanomdm(directory, ca.pem, database.kind, database.dsn, flags)
        start, first = time.perf_counter(), waiting(server)
        while waiting(server):
            time.sleep(0.1)
        spent = time.perf_counter() - start
        server.stop()
    return {"events": count, "per_second": round(first / spent)}


def waiting(server: Nanomdm) -> int:
    """
    @return: how many events wait.
    """
    answer = json.loads(server.api("GET", "/v1/webhook/failed")[1])
    if answer["backlog"]["failed"]:
        raise RuntimeError(f"events failed: {answer}")
    count: int = answer["backlog"]["waiting"]
    return count


def measure(ca: ThrowawayCA, kind: str, seconds: int) -> dict[str, Any]:
    """
    Measure and print everything.
    """
    devices = make_devices(ca, DEVICES)
    healths = ("none", "healthy", "dead", "mute")
    rounds: dict[str, list[dict[str, Any]]] = {health: [] for health in healths}
    for _ in range(ROUNDS):
        for health in healths:
            rounds[health].append(idle(ca, kind, seconds, devices, health))
    results: dict[str, Any] = {
        health: {
            name: round(statistics.median(one[name] for one in measured), 1)
            for name in ("rate", "p50_ms", "p99_ms")
        }
        for health, measured in rounds.items()
    }
    for health, one in results.items():
        one["ratio"] = round(one["rate"] / results["healthy"]["rate"], 2)
        print(
            f"{kind:12}receiver {health:8}{one['rate']:8.0f} Idle/s, {one['ratio']:.2f} of healthy,"
            f" p50 {one['p50_ms']} ms, p99 {one['p99_ms']} ms",
            flush=True,
        )
    one = results["delivery"] = delivery(ca, kind, seconds, devices)
    print(f"{kind:12}{one['events']} events delivered, {one['per_second']}/s", flush=True)
    return results
