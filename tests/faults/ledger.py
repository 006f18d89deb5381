"""
What a server said that it has, noted by those whom it said so to, and whether it does.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from attrs import Factory, define

from tests import samples

#: A statement that looks into the tables of a server.
_RESULTS = "SELECT id, command_uuid, status, result FROM command_results"
_QUEUE = "SELECT id, command_uuid FROM enrollment_queue"
_ENROLLMENTS = "SELECT id, enabled, token_hex, token_update_tally FROM enrollments"
_DEVICES = "SELECT id, bootstrap_token_b64 FROM devices"


@define
class Account:
    """
    What was said about one enrollment.  Tokens are numbers that rise.

    @ivar accepted: commands that the operator was told are queued.
    @ivar answers: statuses and bodies of the device's last answers, of those that the server
        acknowledged, by command.
    @ivar ended: commands that were answered for good.
    @ivar cancelled: commands that the operator was told are cancelled.
    @ivar token: the last push token that the server acknowledged; C{token_sent} was sent.
    @ivar bootstrap: the same of the bootstrap token, with C{bootstrap_sent}.
    @ivar tally: how many C{TokenUpdate}s were acknowledged.
    @ivar sent: numbers of the messages, by the digests of their bodies.
    @ivar acknowledged: numbers of those that the server answered.
    @ivar told: numbers of those that the webhook told of, in the order of their first time.
    """

    accepted: set[str] = Factory(set)
    answers: dict[str, tuple[str, bytes]] = Factory(dict)
    ended: set[str] = Factory(set)
    cancelled: set[str] = Factory(set)
    token: int = 0
    token_sent: int = 0
    bootstrap: int = 0
    bootstrap_sent: int = 0
    tally: int = 0
    sent: dict[bytes, int] = Factory(dict)
    acknowledged: list[int] = Factory(list)
    told: dict[int, None] = Factory(dict)

    @property
    def outstanding(self) -> set[str]:
        """
        Commands that the device must still get.
        """
        return self.accepted - self.ended - self.cancelled

    @property
    def untold(self) -> set[int]:
        """
        Messages that the webhook must still tell of.
        """
        return set(self.acknowledged) - self.told.keys()


class Ledger:
    """
    @ivar accounts: by enrollment id.
    @ivar commands: by UUID.
    """

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.commands: dict[str, bytes] = {}

    @property
    def answers(self) -> int:
        """
        How many commands were answered for good.
        """
        return sum(len(account.ended) for account in self.accounts.values())

    def snapshot(self) -> dict[str, Account]:
        """
        @return: what was acknowledged up to now, without the messages.
        """
        kept = {}
        for id, account in self.accounts.items():
            kept[id] = copy.copy(account)
            kept[id].accepted = set(account.accepted)
            kept[id].answers = dict(account.answers)
        return kept

    def deliver(self, id: str, command: bytes) -> str:
        """
        Note that a device was given a command.

        @return: the command's UUID.
        @raise AssertionError: it was not enqueued, or the device has answered it for good.
        """
        uuid = samples.uuid_of(command)
        assert self.commands.get(uuid) == command, command
        assert uuid not in self.accounts[id].ended, f"{id} was given {uuid} after its answer"
        return uuid

    def tell(self, event: bytes) -> None:
        """
        Note an event of the webhook.

        @raise AssertionError: nobody sent that message.
        """
        members = json.loads(event)
        details = members.get("checkin_event") or members["acknowledge_event"]
        account = self.accounts[details["ids"]["id"]]
        body = base64.b64decode(details["raw_payload"])
        account.told.setdefault(account.sent[hashlib.sha256(body).digest()])

    def assertTold(self) -> None:
        """
        The webhook told of everything, of each enrollment in order.
        """
        for id, account in self.accounts.items():
            assert not account.untold, (id, account.untold)
            first = [number for number in account.told if number in set(account.acknowledged)]
            assert first == sorted(first), (id, first)


def lost(kept: dict[str, Account], connection: Any) -> list[str]:
    """
    Look for everything in a server's tables.

    @param kept: a snapshot that is older than the look.
    @param connection: a DB-API connection.
    @return: what is missing.
    """
    results = {(id, uuid): (status, body) for id, uuid, status, body in _rows(connection, _RESULTS)}
    queued = set(_rows(connection, _QUEUE))
    enrollments = {id: rest for id, *rest in _rows(connection, _ENROLLMENTS)}
    bootstraps = dict(_rows(connection, _DEVICES))
    missing = []
    for id, account in kept.items():
        for uuid in account.accepted:
            if (id, uuid) not in queued:
                missing.append(f"{id}: {uuid} is not in the queue")
        for uuid, answer in account.answers.items():
            missing += _differs(f"{id}: {uuid}", answer, results.get((id, uuid)))
        if account.tally:
            enabled, token, tally = enrollments.get(id, (False, "", 0))
            if not (enabled and int(token or "0", 16) >= account.token and tally >= account.tally):
                missing.append(f"{id}: token {token}, {tally} times, for {account}")
        if account.bootstrap:
            encoded = bootstraps.get(id)
            found = int(base64.b64decode(encoded)) if encoded else 0
            if found < account.bootstrap:
                missing.append(f"{id}: bootstrap token {found} for {account.bootstrap}")
    return missing


def _rows(connection: Any, statement: str) -> Iterable[tuple[Any, ...]]:
    cursor = connection.cursor()
    cursor.execute(statement)
    return map(tuple, cursor.fetchall())


def _differs(what: str, said: tuple[str, bytes], found: tuple[str, Any] | None) -> list[str]:
    """
    @return: what is wrong with an answer in the tables, if anything is.
    """
    if found is None:
        return [f"{what}: its answer {said[0]} is not there"]
    status, body = found
    if said[0] == "NotNow":
        # The next answer may be there already.
        return []
    same = (status, body if isinstance(body, bytes) else body.encode()) == said
    return [] if same else [f"{what}: {status} is there, {said[0]} was answered"]
