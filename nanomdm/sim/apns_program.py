"""
C{python -m nanomdm.sim.apns}: a simulated APNs as a process of its own.
"""

from __future__ import annotations

import json
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import deferLater, react

from nanomdm.sim.apns import SimulatedAPNs
from nanomdm.sim.ca import ThrowawayCA
from nanomdm.sim.device import DEFAULT_TOPIC
from nanomdm.sim.feed import PushFeed
from nanomdm.sim.kept import kept_push_certificate


@frozen(kw_only=True)
class APNsOptions:
    """
    What the simulated APNs is to be.

    @ivar directory: where CA and push certificates are kept.
    @ivar port: 0 for any free one.
    @ivar latency: seconds to an answer.
    @ivar streams: how many a connection may have open.
    @ivar topic: push certificates are written for these.
    """

    directory: Path
    port: int = 0
    latency: float = 0.05
    streams: int = 1000
    topic: Sequence[str] = ()


def parse_arguments(arguments: Sequence[str]) -> APNsOptions:
    """
    Read the command line.

    @raise SystemExit: it can not be understood.
    """
    parser = ArgumentParser("python -m nanomdm.sim.apns", description="A simulated APNs.")
    parser.add_argument(
        "--directory", type=Path, required=True, help="where CA and push certificates are kept"
    )
    parser.add_argument("--port", type=int, default=0, help="0 for any free one (0)")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds to an answer (0.05)")
    parser.add_argument(
        "--streams", type=int, default=1000, help="how many a connection may have open (1000)"
    )
    parser.add_argument(
        "--topic", action="append", default=[], help="write a push certificate for it"
    )
    return APNsOptions(**vars(parser.parse_args(arguments)))


async def serve(reactor: Any, options: APNsOptions) -> None:
    """
    Serve until the reactor is told to stop.  Then, and at each SIGUSR1, a line of
    JSON tells what was seen.  Simulated devices of the same directory hear of their
    pushes, see L{PushFeed}.
    """
    # Signals are handled properly only once the reactor runs.
    await deferLater(reactor, 0)
    ca = ThrowawayCA.load_or_create(options.directory)
    for topic in options.topic or [DEFAULT_TOPIC]:
        kept_push_certificate(options.directory, ca, topic)
    apns = SimulatedAPNs(
        reactor, ca, latency=options.latency, max_concurrent_streams=options.streams
    )
    feed = PushFeed(reactor, options.directory)
    apns.on_push = feed.publish
    await apns.start(options.port)
    await feed.start()

    def tell() -> None:
        print(json.dumps(apns.counts.summary()), flush=True)

    async def stop() -> None:
        await feed.stop()
        await apns.stop()

    def end() -> Deferred[None]:
        tell()
        return Deferred.fromCoroutine(stop())

    reactor.addSystemEventTrigger("before", "shutdown", end)
    signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(tell))
    print(f"listening on {apns.url}", flush=True)
    await Deferred()


def main() -> None:
    """
    Run the program.
    """
    run(parse_arguments(sys.argv[1:]))


def run(options: APNsOptions) -> None:
    """
    Serve in this process, to the end of it.

    @raise SystemExit: always; with a text if it could not begin.
    """

    async def begin(reactor: Any) -> None:
        try:
            await serve(reactor, options)
        except (CannotListenError, OSError, ValueError) as error:
            raise SystemExit(str(error)) from error

    react(begin)
