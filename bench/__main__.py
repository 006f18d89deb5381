"""
Measures and prints; the figures also go to C{bench/out/results.json}.
"""

from __future__ import annotations

import argparse
import json
import plistlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bench import inspection, pushes, scaling, webhook
from bench.databases import DATABASES, Database
from bench.devices import BenchDevice, make_devices, write_requests
from bench.server import Bare, Nanomdm, wrk
from nanomdm.mdm.command import parse_report
from nanomdm.sim.ca import ThrowawayCA
from nanomdm.storage.commands import next_command
from nanomdm.storage.transaction import Transaction
from tests.storage.filling import fill_queue

DEVICES = 200
CONNECTIONS = 32
ROUNDS = 3
MANY_DEVICES = 5_000
MANY_CONNECTS = 100_000
MANY_IDS = 100_000
MANY_ROWS = 1_000_000
PARTS = (
    *("micro", "throughput", "scaling", "enqueue", "queue", "push", "webhook", "inspection"),
    "memory",
)


@contextmanager
def serving(
    ca: ThrowawayCA, kind: str, devices: list[BenchDevice]
) -> Iterator[tuple[Nanomdm, Database, Path]]:
    """
    A daemon on a new database, with C{devices} enrolled; and its directory.
    """
    with tempfile.TemporaryDirectory() as name, DATABASES[kind](Path(name)) as database:
        directory = Path(name)
        server = Nanomdm(directory, ca.pem, database.kind, database.dsn)
        try:
            server.send(request for device in devices for request in device.enrollment())
            yield server, database, directory
        finally:
            server.stop()


def throughput(ca: ThrowawayCA, kind: str, seconds: int) -> dict[str, Any]:
    """
    Idle connects and stored answers, each beside the bare handler in turn, so
    that a noisy machine disturbs both alike.
    """
    devices = make_devices(ca, DEVICES)
    rounds: dict[str, list[dict[str, Any]]] = {"bare": [], "idle": [], "answers": []}
    with serving(ca, kind, devices) as (server, _, directory):
        server.enqueue([device.udid for device in devices], _command("bench"))
        idle, answers = directory / "idle", directory / "answers"
        write_requests(idle, devices, BenchDevice.idle)
        write_requests(answers, devices, lambda device: device.answer("bench"))
        # Answered once, the command is no longer offered to idle devices.
        server.send(device.answer("bench") for device in devices)
        bare = Bare(directory)
        for _ in range(ROUNDS):
            rounds["bare"].append(wrk(bare.port, idle, seconds, CONNECTIONS))
            rounds["idle"].append(wrk(server.port, idle, seconds, CONNECTIONS))
            rounds["answers"].append(wrk(server.port, answers, seconds, CONNECTIONS))
        bare.stop()
    measured = {name: _median(results) for name, results in rounds.items()}
    for one in measured.values():
        one["ratio"] = round(one["rate"] / measured["bare"]["rate"], 3)
    return measured


def _command(uuid: str) -> bytes:
    return plistlib.dumps({"CommandUUID": uuid, "Command": {"RequestType": "DeviceInformation"}})


def _median(results: list[dict[str, Any]]) -> dict[str, Any]:
    if any(result["errors"] for result in results):
        raise RuntimeError(f"errors under load: {results}")
    return {
        name: round(statistics.median(result[name] for result in results), 2)
        for name in ("rate", "p50_ms", "p99_ms")
    }


def enqueueing(ca: ThrowawayCA, kind: str) -> dict[str, Any]:
    """
    One command for very many ids in one call, while somebody else asks for the
    version again and again to see how long the reactor stops.
    """
    with serving(ca, kind, []) as (server, database, _):
        ids = [f"B{number:07}" for number in range(MANY_IDS)]
        database.fill(ids)
        server.enqueue(ids[:1], _command("first"))
        waits: list[float] = []
        done = threading.Event()
        asking = threading.Thread(target=_ask, args=(server, done, waits))
        asking.start()
        start = time.perf_counter()
        status = server.enqueue(ids, _command("many"))
        spent = time.perf_counter() - start
        done.set()
        asking.join()
    if status != 200:
        raise RuntimeError(f"enqueueing answered {status}")
    return {"ids_per_second": round(MANY_IDS / spent), "longest_wait_ms": round(max(waits) * 1000)}


def _ask(server: Nanomdm, done: threading.Event, waits: list[float]) -> None:
    while not done.is_set():
        start = time.perf_counter()
        server.ping()
        waits.append(time.perf_counter() - start)
        time.sleep(0.002)


def queue(ca: ThrowawayCA, kind: str) -> dict[str, float]:
    """
    @return: median milliseconds to find the next command of a device that has
        1,000 outstanding ones, among a million answered rows; and of 256 devices
        at once.
    """
    with serving(ca, kind, []) as (_, database, _):
        with closing(database.connect()) as connection:
            fill_queue(connection, database.kind, 1000, MANY_ROWS // 1000, 1000)
        with closing(database.storage_engine().connect(autocommit=True)) as connection:
            transaction = Transaction(connection.cursor(), database.storage_engine().dialect)
            one, many = ["Q1"], [f"Q{number}" for number in range(1, 257)]
            if next_command(transaction, many)[0] is None:
                raise RuntimeError("no outstanding command was found")
            return {
                "one_ms": _milliseconds(lambda: next_command(transaction, one)),
                "256_ms": _milliseconds(lambda: next_command(transaction, many)),
            }


def _milliseconds(work: Callable[[], object]) -> float:
    spent = []
    for _ in range(50):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return round(statistics.median(spent) * 1000, 2)


def memory(ca: ThrowawayCA, seconds: int) -> list[tuple[int, float]]:
    """
    @return: how much memory the daemon has after so many connects, in MB.
    """
    devices = make_devices(ca, MANY_DEVICES)
    connects = 0
    grown: list[tuple[int, float]] = []
    with serving(ca, "sqlite", devices) as (server, _, directory):
        requests = directory / "idle"
        write_requests(requests, devices, BenchDevice.idle)
        grown.append((0, server.rss / 1e6))
        while connects < MANY_CONNECTS:
            connects += wrk(server.port, requests, seconds, CONNECTIONS)["requests"]
            grown.append((connects, server.rss / 1e6))
    return grown


def parsing() -> tuple[int, float]:
    """
    @return: bytes of a long list of applications, and the milliseconds that
        reading it takes.
    """
    app = {
        "Identifier": "com.example.application",
        "Name": "An Application",
        "ShortVersion": "12.3.4",
        "Version": "1234.5",
        "BundleSize": 123456789,
        "DynamicSize": 0,
    }
    message = {
        "Status": "Acknowledged",
        "CommandUUID": "bench",
        "UDID": "BENCH",
        "InstalledApplicationList": [app] * 230,
    }
    body = plistlib.dumps(message)
    spent = []
    for _ in range(200):
        start = time.perf_counter()
        parse_report(body)
        spent.append(time.perf_counter() - start)
    return len(body), min(spent) * 1000


def main() -> None:
    """
    Measure everything.
    """
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--seconds", type=int, default=8, help="of load in each round")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--storage", action="append", choices=sorted(DATABASES))
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing: apt-get install wrk")
    ca = ThrowawayCA.create()
    results: dict[str, Any] = {}
    if arguments.only in (None, "micro"):
        results["parsing"] = _micro()
    kinds = [kind for kind in arguments.storage or DATABASES if _available(kind)]
    if arguments.only in (None, "throughput"):
        results["throughput"] = _throughput(ca, kinds, arguments.seconds)
    if arguments.only in (None, "scaling"):
        several = [kind for kind in kinds if kind in (arguments.storage or ["postgresql"])]
        results["scaling"] = {kind: _scaling(ca, kind, arguments.seconds) for kind in several}
    if arguments.only in (None, "enqueue"):
        results["enqueue"] = _enqueueing(ca, kinds)
    if arguments.only in (None, "queue"):
        results["queue"] = _queue(ca, kinds)
    if arguments.only in (None, "push"):
        # The other engines with --storage.
        pushed = arguments.storage or ["postgresql"]
        results["push"] = {kind: pushes.measure(ca, kind) for kind in kinds if kind in pushed}
    if arguments.only in (None, "webhook"):
        results["webhook"] = {kind: webhook.measure(ca, kind, arguments.seconds) for kind in kinds}
    if arguments.only in (None, "inspection"):
        print(f"{'a page of 100 of 100,000':52}{'p50 ms':>8}{'p99 ms':>8}")
        results["inspection"] = {kind: inspection.measure(kind) for kind in kinds}
    if arguments.only in (None, "memory"):
        results["memory"] = _memory(ca, arguments.seconds)
    out = Path(__file__).parent / "out"
    out.mkdir(exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def _available(kind: str) -> bool:
    reason = DATABASES[kind].missing()
    if reason is not None:
        print(f"{kind} is left out: {reason}")
    return reason is None


def _micro() -> dict[str, Any]:
    subprocess.run([sys.executable, "-m", "bench.signature"], check=True)
    size, milliseconds = parsing()
    print(f"InstalledApplicationList of {size} bytes: {milliseconds:.2f} ms")
    return {"bytes": size, "ms": round(milliseconds, 2)}


def _throughput(ca: ThrowawayCA, kinds: list[str], seconds: int) -> dict[str, Any]:
    print(
        f"{'':12}{'load':10}{'requests/s':>12}{'ratio':>8}{'p50 ms':>8}{'p99 ms':>8}{'p99/p50':>9}"
    )
    results = {}
    for kind in kinds:
        results[kind] = throughput(ca, kind, seconds)
        for load, one in results[kind].items():
            print(
                f"{kind:12}{load:10}{one['rate']:12.0f}{one['ratio']:8.2f}{one['p50_ms']:8.1f}"
                f"{one['p99_ms']:8.1f}{one['p99_ms'] / one['p50_ms']:9.1f}",
                flush=True,
            )
    return results


def _scaling(ca: ThrowawayCA, kind: str, seconds: int) -> list[dict[str, Any]]:
    print(f"{'':12}{'servers':>8}{'idle connects/s':>17}{'p99 ms':>8}")
    measured = scaling.measure(ca, kind, seconds)
    for one in measured:
        print(f"{kind:12}{one['servers']:8}{one['rate']:17}{one['p99_ms']:8}", flush=True)
    return measured


def _enqueueing(ca: ThrowawayCA, kinds: list[str]) -> dict[str, Any]:
    print(f"{'':12}{'ids/s':>10}{'longest wait of another request, ms':>40}")
    results = {}
    for kind in kinds:
        one = results[kind] = enqueueing(ca, kind)
        print(f"{kind:12}{one['ids_per_second']:10}{one['longest_wait_ms']:40}", flush=True)
    return results


def _queue(ca: ThrowawayCA, kinds: list[str]) -> dict[str, Any]:
    print(
        f"next command among {MANY_ROWS} answered rows{'one device, ms':>16}{'256 devices, ms':>17}"
    )
    results = {}
    for kind in kinds:
        one = results[kind] = queue(ca, kind)
        print(f"{kind:39}{one['one_ms']:16}{one['256_ms']:17}", flush=True)
    return results


def _memory(ca: ThrowawayCA, seconds: int) -> list[tuple[int, float]]:
    grown = memory(ca, seconds)
    print(f"memory with {MANY_DEVICES} devices:")
    for connects, megabytes in grown:
        print(f"  after {connects:7} connects {megabytes:7.1f} MB")
    return grown


if __name__ == "__main__":
    main()
