"""
The server's API, for the commands that use it.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import time
from collections.abc import Collection, Iterator, Mapping
from http import HTTPStatus
from random import Random
from typing import Any, Final, cast
from urllib.parse import SplitResult, quote, urlencode

import click
from attrs import field, frozen

from nanomdm.ctl.connection import USER_AGENT, connection_to, reason, said
from nanomdm.log import printable

#: Seconds to connect, and without a word from the server: pushes may take their time.
_CONNECT_TIMEOUT: Final = 10.0
_ANSWER_TIMEOUT: Final = 120.0

#: Seconds before each further attempt.  The first comes at once: a connection that
#: was not used for a while may be closed.
_PAUSES: Final = (0.0, 0.5, 1.0, 2.0, 4.0)

#: The longest pause that a server can ask for, in seconds.
_LONGEST_PAUSE: Final = 60

#: Seconds that a connection can be idle and be used again.
_FRESH: Final = 5.0

#: Bytes of the largest answer.
_LARGEST: Final = 1 << 28

#: What to say of an answer that is none of the API's.
UNEXPECTED: Final = "the answer is not JSON as expected; is --server right?"

#: Items of a list that are asked for at once.
_PAGE: Final = 1000

#: What paths skip.
_NO_SEGMENTS: Final = frozenset({"", ".", ".."})

_JSON: Final = {"Content-Type": "application/json"}

#: Such statuses may pass.
_PASSING: Final = frozenset({408, 429, 502, 503, 504})

#: What to do about a status.
_ADVICE: Final[Mapping[int, str]] = {
    401: "the key or the user is wrong (see --key and --user)",
    404: "is --server right, and has that server this call?",
    405: "has that server this call?",
    503: "the server is busy or going down; try again",
}


class Failed(click.ClickException):
    """
    The API did not do what it was asked for, or can not be reached.

    @ivar status: of its answer; L{None} without one.
    @ivar by_api: the answer comes from a call of the API.
    """

    def __init__(self, message: str, status: int | None = None, by_api: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.by_api = by_api


@frozen
class Answer:
    """
    What the API answered.
    """

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    @property
    def by_api(self) -> bool:
        """
        Whether it comes from a call of the API: those speak JSON.
        """
        return self.headers.get("content-type", "").startswith("application/json")

    @property
    def json(self) -> dict[str, Any]:
        """
        The body, an object.

        @raise Failed: it is something else.
        """
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Failed(UNEXPECTED, self.status)
        return found


@frozen
class _Asked:
    method: str
    target: str
    body: bytes | None = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


def is_unicode(text: str) -> bool:
    """
    @return: whether something from the command line or the environment was UTF-8.
    """
    return not any("\ud800" <= character <= "\udfff" for character in text)


def segment(text: str) -> str:
    """
    @param text: an id or a UUID.
    @return: the part of a path that stands for it.
    @raise click.UsageError: there is no such part: the path would be another one.
    """
    if text in _NO_SEGMENTS or not is_unicode(text):
        raise click.UsageError(f"'{printable(text)}' is no id")
    return quote(text, safe="")


class Client:
    """
    Asks one thing after the other, over one connection.

    @param server: where the API is; without the C{/v1}.
    @param key: of the user.
    @param trust: for C{https}.
    @param retry: what may pass is waited for.
    """

    def __init__(
        self,
        server: SplitResult,
        user: str,
        key: str,
        trust: ssl.SSLContext,
        retry: bool = True,
    ) -> None:
        self._server = server
        self._base = server.path.rstrip("/")
        credentials = base64.b64encode(f"{user}:{key}".encode()).decode()
        self._headers = {"Authorization": f"Basic {credentials}", "User-Agent": USER_AGENT}
        self._connection = connection_to(server, trust, _CONNECT_TIMEOUT)
        self._retry = retry
        self._answered = False
        self._used = time.monotonic()
        self._random = Random()

    def close(self) -> None:
        """
        Close the connection.
        """
        self._connection.close()

    def get(self, path: str, **query: Any) -> Answer:
        """
        Ask for something, see L{request}.
        """
        return self.request("GET", path, query=query)

    def post(self, path: str, document: object) -> Answer:
        """
        Send JSON.
        """
        return self.request("POST", path, json.dumps(document).encode(), headers=_JSON)

    def patch(self, path: str, document: object) -> Answer:
        """
        Change something to what the JSON says, which may be done twice.
        """
        body = json.dumps(document).encode()
        return self.request("PATCH", path, body, headers=_JSON, again=True)

    def items(
        self, path: str, member: str, limit: int | None = None, **query: Any
    ) -> Iterator[Any]:
        """
        Ask for a list, part by part.

        @param member: which one of the answers has the items.
        @param limit: how many items at most; L{None} for all.
        @return: the items, objects.
        @raise Failed: that is no list of objects, or has no end.
        """
        cursor, left = None, limit
        while left is None or left > 0:
            count = _PAGE if left is None else min(left, _PAGE)
            answer = self.get(path, **query, limit=count, cursor=cursor).json
            found = answer.get(member, [])
            if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
                raise Failed(UNEXPECTED)
            yield from found[:count]
            left = None if left is None else left - len(found)
            last, cursor = cursor, answer.get("next_cursor")
            if cursor is None:
                return
            if cursor == last:
                raise Failed(f"{path}: the list has no end")

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        accepted: Collection[int] = (),
        again: bool = False,
    ) -> Answer:
        """
        Ask for something.

        @param path: begins with C{/v1/}; what it holds must be quoted, see L{segment}.
        @param query: parameters; those that are L{None} are left out, L{True} is C{1}.
            Empty ones are refused: to the server they would not be there, and a list that
            is meant to be short would have everything.
        @param accepted: statuses besides 2xx that are no failure.
        @param again: nothing is lost or done twice if this arrives more than once; so
            it always is with C{GET}.
        @raise Failed: with one line that says what to do.
        @raise click.UsageError: a parameter is empty, or no text.
        """
        encoded = urlencode(_parameters(query or {}))
        target = f"{self._base}{path}" + (f"?{encoded}" if encoded else "")
        asked = _Asked(method, target, body, {**self._headers, **(headers or {})})
        retry = self._retry and (again or method == "GET")
        answer = self._answer(asked, list(_PAUSES) if retry else [])
        if 200 <= answer.status < 300 or answer.status in accepted:
            return answer
        raise self._refused(answer)

    def _answer(self, asked: _Asked, pauses: list[float]) -> Answer:
        """
        @param pauses: before each further attempt.
        """
        while True:
            wait = 0
            try:
                answer = self._attempt(asked)
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if not pauses or not self._may_pass(error):
                    raise self._unreachable(error) from None
            else:
                self._answered = True
                if not pauses or answer.status not in _PASSING:
                    return answer
                wait = _pause_asked_for(answer)
            time.sleep(max(pauses.pop(0) * self._random.uniform(0.5, 1), wait))

    def _attempt(self, asked: _Asked) -> Answer:
        connection = self._connection
        if time.monotonic() - self._used > _FRESH:
            # The server may have closed it.
            connection.close()
        if connection.sock is None:
            connection.connect()
            cast(socket.socket, connection.sock).settimeout(_ANSWER_TIMEOUT)
        connection.request(asked.method, asked.target, asked.body, asked.headers)
        response = connection.getresponse()
        read = response.read(_LARGEST + 1)
        if len(read) > _LARGEST:
            raise Failed(f"the answer has more than {_LARGEST} bytes")
        if response.length:
            raise http.client.IncompleteRead(read, response.length)
        self._used = time.monotonic()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, read, names)

    def _may_pass(self, error: Exception) -> bool:
        """
        Who was never there is most likely misspelled; who was, comes back.
        """
        if isinstance(error, (ssl.SSLCertVerificationError, TimeoutError)):
            return False
        early = isinstance(error, (ConnectionRefusedError, socket.gaierror, ssl.SSLError))
        return self._answered or not early

    def _unreachable(self, error: Exception) -> Failed:
        if isinstance(error, ssl.SSLCertVerificationError):
            text = f"its certificate is not trusted: {error.verify_message} (see --ca)"
        elif isinstance(error, ssl.SSLError):
            text = f"TLS: {reason(error)}; is it really https?"
        elif isinstance(error, socket.gaierror):
            text = f"its name: {reason(error)}; is --server right?"
        elif isinstance(error, ConnectionRefusedError):
            text = "nobody listens there; does the server run, and is --server right?"
        elif isinstance(error, TimeoutError):
            text = "no answer in time; is --server right, and is it http or https?"
        elif isinstance(error, http.client.BadStatusLine | ConnectionResetError):
            text = f"{reason(error)}; is it http or https?"
        else:
            text = reason(error)
        return Failed(f"{self._server.geturl()}: {text}")

    def _refused(self, answer: Answer) -> Failed:
        status = answer.status
        if 300 <= status < 400:
            where = printable(answer.headers.get("location", "elsewhere"))
            text = f"it sends us elsewhere, to {where}; correct --server"
        elif answer.by_api:
            text = said(answer.body)
        else:
            text = _ADVICE.get(status) or _phrase(status)
        return Failed(f"HTTP {status}: {text}", status, answer.by_api)


def _parameters(query: Mapping[str, Any]) -> dict[str, Any]:
    """
    @raise click.UsageError: one is empty, or no text.
    """
    given = {name: value for name, value in query.items() if value is not None}
    for name, value in given.items():
        if value == "" or not is_unicode(str(value)):
            wrong = "is not UTF-8" if value else "must not be empty"
            raise click.UsageError(f"{name.replace('_', '-')}: {wrong}")
    return {name: 1 if value is True else value for name, value in given.items()}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no reason"


def _pause_asked_for(answer: Answer) -> int:
    asked = answer.headers.get("retry-after", "")
    return min(int(asked), _LONGEST_PAUSE) if asked.isascii() and asked.isdigit() else 0
