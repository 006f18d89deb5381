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
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.devices import BenchDevice, make_devices, write_requests
from bench.server import Bare, Nanomdm, wrk
from nanomdm.mdm.command import parse_report
from nanomdm.sim.ca import ThrowawayCA

DEVICES = 200
CONNECTIONS = 32
ROUNDS = 3
MANY_DEVICES = 5_000
MANY_CONNECTS = 100_000


@contextmanager
def enrolled(ca: ThrowawayCA, devices: list[BenchDevice]) -> Iterator[tuple[Nanomdm, Path]]:
    """
    A daemon on a new SQLite file, and its directory, with C{devices} enrolled.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        server = Nanomdm(directory, ca.pem)
        try:
            server.send(request for device in devices for request in device.enrollment())
            yield server, directory
        finally:
            server.stop()


def throughput(ca: ThrowawayCA, seconds: int) -> dict[str, Any]:
    """
    Idle connects and stored answers, each beside the bare handler in turn, so
    that a noisy machine disturbs both alike.
    """
    devices = make_devices(ca, DEVICES)
    command = {"CommandUUID": "bench", "Command": {"RequestType": "DeviceInformation"}}
    rounds: dict[str, list[dict[str, Any]]] = {"bare": [], "idle": [], "answers": []}
    with enrolled(ca, devices) as (server, directory):
        server.enqueue([device.udid for device in devices], plistlib.dumps(command))
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
    return {name: _median(results) for name, results in rounds.items()}


def _median(results: list[dict[str, Any]]) -> dict[str, Any]:
    if any(result["errors"] for result in results):
        raise RuntimeError(f"errors under load: {results}")
    return {
        name: round(statistics.median(result[name] for result in results), 2)
        for name in ("rate", "p50_ms", "p99_ms")
    }


def memory(ca: ThrowawayCA, seconds: int) -> list[tuple[int, float]]:
    """
    @return: how much memory the daemon has after so many connects, in MB.
    """
    devices = make_devices(ca, MANY_DEVICES)
    connects = 0
    grown: list[tuple[int, float]] = []
    with enrolled(ca, devices) as (server, directory):
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
    parser.add_argument("--only", choices=("micro", "throughput", "memory"))
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing: apt-get install wrk")
    ca = ThrowawayCA.create()
    results: dict[str, Any] = {}
    if arguments.only in (None, "micro"):
        subprocess.run([sys.executable, "-m", "bench.signature"], check=True)
        size, milliseconds = parsing()
        results["parsing"] = {"bytes": size, "ms": round(milliseconds, 2)}
        print(f"InstalledApplicationList of {size} bytes: {milliseconds:.2f} ms")
    if arguments.only in (None, "throughput"):
        results["throughput"] = _print_throughput(throughput(ca, arguments.seconds))
    if arguments.only in (None, "memory"):
        results["memory"] = memory(ca, arguments.seconds)
        print(f"memory with {MANY_DEVICES} devices:")
        for connects, megabytes in results["memory"]:
            print(f"  after {connects:7} connects {megabytes:7.1f} MB")
    out = Path(__file__).parent / "out"
    out.mkdir(exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def _print_throughput(measured: dict[str, Any]) -> dict[str, Any]:
    bare = measured["bare"]["rate"]
    print(f"{'':24}{'requests/s':>12}{'ratio':>8}{'p50 ms':>8}{'p99 ms':>8}")
    for name, title in (
        ("bare", "bare twisted.web"),
        ("idle", "idle connects"),
        ("answers", "answers stored"),
    ):
        one = measured[name]
        one["ratio"] = round(one["rate"] / bare, 3)
        print(
            f"{title:24}{one['rate']:12.0f}{one['ratio']:8.2f}"
            f"{one['p50_ms']:8.1f}{one['p99_ms']:8.1f}"
        )
    return measured


if __name__ == "__main__":
    main()
