"""
Work for many enrollments, a batch at a time.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, TypeAlias

import click
from attrs import define, field

from nanomdm.ctl.client import UNEXPECTED, Answer, Client, Failed, segment
from nanomdm.ctl.connection import said
from nanomdm.ctl.progressbar import progress_bar
from nanomdm.ctl.show import echo, print_json, say

#: What there is to say of enrollments, by their ids.
Status: TypeAlias = Mapping[str, Mapping[str, Any]]

#: Ids in a batch.
BATCH: Final = 500

#: Statuses of an answer that tells of each id.
_RESULTS: Final = frozenset({207, 409, 500})

#: Something is wrong with an id, and nothing with others.
_AGAINST_ONE: Final = frozenset({400, 404, 409})

#: A server or proxy does not take so long a path, or so large a header block.
_TOO_LONG: Final = frozenset({414, 431})


@define
class Run:
    """
    One run over many enrollments.

    @ivar ids: all of them.
    @ivar done: what became of those that were tried.
    @ivar failed: how many of them failed.
    @ivar problem: why it did not go on, if it did not.
    """

    ids: Sequence[str]
    done: dict[str, dict[str, Any]] = field(factory=dict)
    failed: int = 0
    problem: str | None = None

    def note(self, ids: Sequence[str], status: Status) -> None:
        """
        Note what became of some.
        """
        for one in ids:
            found = dict(status.get(one, {}))
            self.done[one] = found
            self.failed += any(_errors(found))

    def tell(self, verb: str, as_json: bool, **more: Any) -> None:
        """
        Print what became of all of them, and end the command with 1 unless all is
        well.

        @param verb: what was done to those that did not fail.
        @param more: further members of the JSON.
        """
        for one, found in self.done.items():
            for problem in _errors(found):
                say(f"{one}: {problem}")
        if self.problem is not None:
            say(f"Stopped after {len(self.done)} of {len(self.ids)}: {self.problem}")
        counts = {"succeeded": len(self.done) - self.failed, "failed": self.failed}
        if self.problem is not None:
            counts["not_done"] = len(self.ids) - len(self.done)
        if as_json:
            print_json({**more, "status": self.done, **counts})
        else:
            texts = {"succeeded": verb, "failed": "failed", "not_done": "not done"}
            echo(", ".join(f"{texts[name]}: {count}" for name, count in counts.items()))
        if self.failed or self.problem is not None:
            raise click.exceptions.Exit(1)


def run_batches(
    ids: Sequence[str], label: str, work: Callable[[Sequence[str]], Status], size: int = BATCH
) -> Run:
    """
    Work on all ids.  An interruption is heeded after the batch under way.

    @param label: of the progress bar.
    @param work: is called with each batch.
    @param size: ids in a batch.
    """
    run = Run(ids)
    with progress_bar(label, len(ids)) as advance, _interruption() as interrupted:
        for batch in _batches(ids, size):
            if interrupted.is_set():
                run.problem = "interrupted"
                break
            try:
                run.note(batch, work(batch))
            except Failed as error:
                run.problem = error.message
                break
            advance(len(batch))
    return run


def call_for(
    client: Client, method: str, call: str, ids: Sequence[str], body: bytes | None, **query: Any
) -> Status:
    """
    Make a call of the API that has ids in its path and answers for each.  It must do no
    harm to make it twice.

    @param call: C{push} or C{enqueue}.
    @return: what it says of each id.
    @raise Failed: it does not.
    """
    path = f"/v1/{call}/{','.join(map(segment, ids))}"
    try:
        answer = client.request(method, path, body, query=query, accepted=_RESULTS, again=True)
    except Failed as error:
        if error.status not in _TOO_LONG or len(ids) == 1:
            raise
        half = len(ids) // 2
        return {
            **call_for(client, method, call, ids[:half], body, **query),
            **call_for(client, method, call, ids[half:], body, **query),
        }
    result = answer.json
    if "push_error" in result:
        # Whatever was queued is queued.
        others = {"push_error": result["push_error"]}
        return {**dict.fromkeys(ids, others), **result.get("status", {})}
    if answer.status != 200 and "status" not in result:
        raise Failed(f"HTTP {answer.status}: {said(answer.body)}", answer.status)
    status = result.get("status", {})
    if not isinstance(status, dict) or not all(isinstance(one, dict) for one in status.values()):
        raise Failed(UNEXPECTED)
    if not status and "command_uuid" not in result:
        # Where nothing is wrong with any, pushes are told of, or the command is.
        raise Failed(UNEXPECTED)
    return status


def one_by_one(ids: Sequence[str], label: str, ask: Callable[[str], Answer]) -> Run:
    """
    Make a call for each id.

    @param ask: makes it; what the API says against one id is no reason to stop.
    """

    def work(batch: Sequence[str]) -> Status:
        [one] = batch
        try:
            return {one: ask(one).json}
        except Failed as error:
            if error.status not in _AGAINST_ONE or not error.by_api:
                raise
            return {one: {"error": error.message}}

    return run_batches(ids, label, work, size=1)


def _errors(found: Mapping[str, Any]) -> Iterator[str]:
    for member, prefix in (("command_error", ""), ("push_error", "push: "), ("error", "")):
        if member in found:
            yield f"{prefix}{found[member]}"


def _batches(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """
    @return: is set once somebody wants to interrupt; who wants that twice, does.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def note(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, before)
        # Buffers may be in use.
        os.write(2, b"\nStopping after what is under way; once more to stop at once.\n")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
