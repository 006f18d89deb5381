"""
Simulated devices and operators that keep servers busy, and note what these say.

All of them try again until they are answered, as real ones do.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredList, FirstError, gatherResults
from twisted.internet.error import ConnectError
from twisted.internet.task import deferLater

from nanomdm.network import bounded
from nanomdm.sim.ca import DeviceIdentity
from tests import samples
from tests.faults.ledger import Account, Ledger
from tests.faults.process_case import basic, shown
from tests.http.case import CHECKIN, KEY, RESULT, ca, device
from tests.http.line import Line, Lost, Reply, put

#: Seconds until somebody who was not answered tries again.
AGAIN = 0.05

#: Seconds between two connects of a device, on average.
PAUSE = 0.4

#: Commands that wait for all devices together, at most.
WAITING = 300


class Unanswered(AssertionError):
    """
    A server kept a client waiting for too long.
    """


@define(eq=False)
class Place:
    """
    Where clients find servers.

    @ivar ports: of the servers on this machine that serve at present.
    @ivar tolerated: HTTP statuses after which clients try again.
    @ivar restless: clients go to another server with every request.
    @ivar patience: seconds within which an answer must be there.
    @ivar replies: how often each status came.
    @ivar longest: how long somebody waited for an answer, in seconds.
    """

    ports: list[int] = field(factory=list)
    tolerated: Collection[int] = ()
    restless: bool = False
    patience: float = 30
    replies: Counter[int] = field(factory=Counter)
    longest: float = 0


class Client:
    """
    Sends requests one after the other, each until it is answered.
    """

    def __init__(self, place: Place, random: Random) -> None:
        self._place = place
        self._random = random
        self._line: Line | None = None

    async def send(self, request: bytes, *refusals: int) -> Reply:
        """
        @param refusals: statuses that are answers, too, besides 200.
        @return: the answer.
        """
        place = self._place
        while True:
            try:
                reply = await self._ask(request)
            except (Lost, ConnectError):
                await deferLater(reactor, AGAIN)
                continue
            place.replies[reply.code] += 1
            if reply.code == 200 or reply.code in refusals:
                return reply
            assert reply.code in place.tolerated, reply
            # Somewhere else, perhaps.
            self.hang_up()
            await deferLater(reactor, AGAIN * 4)

    async def _ask(self, request: bytes) -> Reply:
        place = self._place
        if place.restless:
            self.hang_up()
        if self._line is None or self._line.lost:
            if not place.ports:
                raise Lost
            self._line = await Line.connect(self._random.choice(place.ports))
        asked = reactor.seconds()
        reply: Reply = await bounded(
            self._line.ask(request), reactor, place.patience, lambda: Unanswered(request[:40])
        )
        place.longest = max(place.longest, reactor.seconds() - asked)
        return reply

    def hang_up(self) -> None:
        """
        Close the connection.
        """
        if self._line is not None and not self._line.lost:
            self._line.hang_up()


@define(eq=False)
class Member:
    """
    A device, or a user of one.

    @ivar id: the enrollment id.
    @ivar keys: what each message has of it.
    @ivar account: what the server said to it.
    @ivar not_now: how many of a hundred commands are put off.
    """

    id: str
    keys: dict[str, str]
    identity: DeviceIdentity
    client: Client
    ledger: Ledger
    random: Random
    not_now: int = 15
    _number: int = 0

    @property
    def account(self) -> Account:
        """
        Where it notes what it hears.
        """
        return self.ledger.accounts[self.id]

    @property
    def is_user(self) -> bool:
        """
        Whether it is a user.
        """
        return "UserID" in self.keys

    async def enroll(self) -> None:
        """
        Say that it is there.
        """
        if not self.is_user:
            await self._check_in("Authenticate", Topic=samples.TOPIC, SerialNumber=self.id)
        await self.update_token()

    async def update_token(self) -> None:
        """
        Send the next push token.
        """
        account = self.account
        account.token_sent += 1
        token = account.token_sent.to_bytes(4)
        known = {"Topic": samples.TOPIC, "PushMagic": samples.MAGIC}
        await self._check_in("TokenUpdate", **known, Token=token)
        account.token = account.token_sent
        account.tally += 1

    async def escrow(self) -> None:
        """
        Escrow the next bootstrap token, and ask for it.
        """
        account = self.account
        account.bootstrap_sent += 1
        token = str(account.bootstrap_sent).encode()
        await self._check_in("SetBootstrapToken", BootstrapToken=token)
        account.bootstrap = account.bootstrap_sent
        kept = await self._check_in("GetBootstrapToken")
        assert samples.plist(BootstrapToken=token) == kept, kept

    async def connect(self) -> None:
        """
        Ask for commands, and answer each.
        """
        command = await self._report("Idle", None)
        while command:
            uuid = self.ledger.deliver(self.id, command)
            status = self._status()
            command = await self._report(status, uuid)

    async def live(self) -> None:
        """
        Connect, and sometimes do something else first.
        """
        chance = self.random.random()
        if chance < 0.1:
            await self.update_token()
        elif chance < 0.2 and not self.is_user:
            await self.escrow()
        await self.connect()

    def _status(self) -> str:
        chance = self.random.randrange(100)
        if chance < self.not_now:
            return "NotNow"
        return "Error" if chance > 95 else "Acknowledged"

    async def _report(self, status: str, uuid: str | None) -> bytes:
        """
        Report about a command, or that there is nothing to do.

        @return: the next command.
        """
        account, cancelled = self.account, set(self.account.cancelled)

        def acknowledged(body: bytes) -> None:
            if uuid is not None:
                account.answers[uuid] = status, body
                if status != "NotNow":
                    account.ended.add(uuid)

        command = await self._send(RESULT, acknowledged, Status=status, CommandUUID=uuid)
        assert not command or samples.uuid_of(command) not in cancelled, (self.id, command)
        return command

    async def _check_in(self, message_type: str, **members: Any) -> bytes:
        return await self._send(CHECKIN, MessageType=message_type, **members)

    async def _send(
        self,
        content_type: str,
        acknowledged: Callable[[bytes], object] = lambda body: None,
        **members: Any,
    ) -> bytes:
        self._number += 1
        number = self._number
        body = samples.plist(**self.keys, Number=number, **members)
        self.account.sent[hashlib.sha256(body).digest()] = number
        headers = [("Content-Type", content_type), *shown(self.identity)]
        answer = await self.client.send(put("/mdm", body, headers))
        self.account.acknowledged.append(number)
        acknowledged(body)
        return answer.body


class Load:
    """
    Devices and an operator.

    @ivar place: where servers are; who starts and ends them says so there.
    @ivar ledger: what they said.
    @ivar members: the devices and users.
    @ivar failed: fails as soon as something is wrong.
    """

    def __init__(self, count: int, random: Random) -> None:
        """
        @param count: of enrollments; each fourth is a user of the one before.
        """
        self.place = Place()
        self.ledger = Ledger()
        self.failed: Deferred[None] = Deferred()
        self._random = random
        self._operator = Client(self.place, random)
        self._lives: list[Deferred[None]] = []
        self._ending = False
        self.members: list[Member] = []
        for number in range(count):
            self._add(number)

    def _add(self, number: int) -> None:
        if number % 4 == 3:
            device_id, identity = self.members[-1].id, self.members[-1].identity
            keys = {"UDID": device_id, "UserID": f"U{number}", "UserShortName": "user"}
            id = f"{device_id}:U{number}"
        else:
            id, identity = f"D{number}", ca().issue(key=device(1).key)
            keys = {"UDID": id}
        self.ledger.accounts[id] = Account()
        client = Client(self.place, self._random)
        member = Member(id, keys, identity, client, self.ledger, self._random)
        self.members.append(member)

    async def enroll(self) -> None:
        """
        Have all enroll, the users after their devices.
        """
        for users in (False, True):
            chosen = [one for one in self.members if one.is_user is users]
            await gatherResults([Deferred.fromCoroutine(one.enroll()) for one in chosen])

    async def during(self, events: Coroutine[Any, Any, None]) -> None:
        """
        Keep the servers busy until C{events} have come to pass.

        @raise AssertionError: a server said something that it may not say.
        """
        self._start()
        both = [Deferred.fromCoroutine(events), self.failed]
        first = DeferredList(
            both, fireOnOneCallback=True, fireOnOneErrback=True, consumeErrors=True
        )
        try:
            await first
        except FirstError as error:
            error.subFailure.raiseException()
        await self.stop()

    def _start(self) -> None:
        self._ending = False
        lives = [self._live(member) for member in self.members]
        self._lives = [Deferred.fromCoroutine(life) for life in [*lives, self._operate()]]
        for life in self._lives:
            life.addErrback(self._fail)

    async def stop(self) -> None:
        """
        Have everybody finish what is begun.
        """
        self._ending = True
        await gatherResults(self._lives)

    async def finish(self) -> None:
        """
        Have the devices answer all commands there are.

        @raise AssertionError: an accepted command was never delivered.
        """
        for member in self.members:
            member.not_now = 0
        await gatherResults([Deferred.fromCoroutine(one.connect()) for one in self.members])
        left = {one.id: one.account.outstanding for one in self.members if one.account.outstanding}
        assert not left, left

    def close(self) -> None:
        """
        Close all connections, and give up what is under way.
        """
        self._ending = True
        for life in self._lives:
            life.cancel()
        for client in [self._operator, *(member.client for member in self.members)]:
            client.hang_up()

    def _fail(self, failure: Any) -> None:
        if not failure.check(CancelledError) and not self.failed.called:
            self.failed.errback(failure)

    async def _live(self, member: Member) -> None:
        while not self._ending:
            await deferLater(reactor, self._random.random() * 2 * PAUSE)
            await member.live()

    async def _operate(self) -> None:
        number = 0
        while not self._ending:
            waiting = sum(len(member.account.outstanding) for member in self.members)
            if waiting > WAITING:
                await deferLater(reactor, AGAIN)
                continue
            number += 1
            chosen = self._random.sample(self.members, 10)
            await self._enqueue(self._operator, f"C{number:06}", chosen)
            if number % 4 == 0:
                await self.cancel(self._random.choice(self.members))

    async def enqueue(self, uuid: str, members: Collection[Member], **more: Any) -> None:
        """
        Enqueue a command beside the operator.

        @param more: what it has.
        """
        client = Client(self.place, self._random)
        try:
            await self._enqueue(client, uuid, members, **more)
        finally:
            client.hang_up()

    async def _enqueue(
        self, client: Client, uuid: str, members: Collection[Member], **more: Any
    ) -> None:
        command = self.ledger.commands[uuid] = samples.command(uuid, **more)
        ids = ",".join(member.id for member in members)
        await client.send(put(f"/v1/enqueue/{ids}?nopush=1", command, basic("nanomdm", KEY)))
        for member in members:
            member.account.accepted.add(uuid)

    async def cancel(self, member: Member) -> None:
        """
        Cancel a command of a device, if there is one.  That it is answered already is an
        answer, too, and so is that it is cancelled, to whoever asks again.
        """
        account = member.account
        for uuid in sorted(account.outstanding)[:1]:
            path = f"/v1/enrollments/{member.id}/queue/{uuid}"
            request = put(path, b"", basic("nanomdm", KEY), "DELETE")
            if (await self._operator.send(request, 404, 409)).code != 409:
                account.cancelled.add(uuid)
