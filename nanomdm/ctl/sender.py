"""
Messages to the migration endpoint of another server, over HTTP.

Several threads may send at once; each has a connection of its own.
"""

from __future__ import annotations

import base64
import http.client
import ssl
import threading
from collections.abc import Mapping
from random import Random
from typing import Final
from urllib.parse import SplitResult

from attrs import frozen

from nanomdm.ctl.connection import USER_AGENT, connection_to, reason, said
from nanomdm.errors import NanoMDMError

#: Seconds to connect, and without a word from the server.
_TIMEOUT: Final = 30.0

#: Seconds before each further attempt.  The first comes at once: a connection that
#: was not used for a while may be closed.
_PAUSES: Final = (0.0, 1.0, 2.0, 4.0, 8.0)

#: The longest pause that a server can ask for, in seconds.
_LONGEST_PAUSE: Final = 60

#: Bytes of an answer that are looked at.
_READ: Final = 1 << 14

#: Such statuses may pass.
_PASSING: Final = frozenset({408, 429})

#: All messages would get such a status.
_HOPELESS: Final[Mapping[int, str]] = {
    401: "the API key is wrong",
    403: "the API key is wrong",
    404: "there is no migration endpoint (the server needs --migration)",
    405: "that is no migration endpoint",
}


class Refused(NanoMDMError):
    """
    The server does not take this message.
    """


class Unusable(NanoMDMError):
    """
    The server takes no message at all, or can not be reached.
    """


class Interrupted(NanoMDMError):
    """
    Sending was stopped before the message was taken.
    """


@frozen
class _Attempt:
    """
    What became of one attempt.

    @ivar problem: L{None} if the message was taken.
    @ivar passing: another attempt may succeed.
    @ivar pause: seconds before which the server wants no other.
    """

    problem: Refused | Unusable | None = None
    passing: bool = False
    pause: int = 0


class Sender:
    """
    @param url: the migration endpoint.
    @param key: the server's API key.
    @param trust: for C{https}.
    """

    def __init__(self, url: SplitResult, key: str, trust: ssl.SSLContext) -> None:
        self._url = url
        self._trust = trust
        credentials = base64.b64encode(f"nanomdm:{key}".encode()).decode()
        self._headers = {
            "Authorization": f"Basic {credentials}",
            "Content-Type": "application/x-apple-aspen-mdm-checkin",
            "User-Agent": USER_AGENT,
        }
        self._target = url.path + (f"?{url.query}" if url.query else "")
        self._random = Random()
        self._own = threading.local()
        self._all: list[http.client.HTTPConnection] = []
        self._stopped = threading.Event()

    def stop(self) -> None:
        """
        Begin nothing new, in any thread.
        """
        self._stopped.set()

    def close(self) -> None:
        """
        Close all connections, once no thread sends any more.
        """
        for connection in self._all:
            connection.close()

    def send(self, body: bytes) -> None:
        """
        Send a message until it is taken.

        @raise Refused: it is not.
        @raise Unusable: no message will be.
        @raise Interrupted: L{stop} was called.
        """
        last = _Attempt()
        for pause in _PAUSES:
            if self._stopped.wait(max(pause * self._random.uniform(0.5, 1), last.pause)):
                raise Interrupted("interrupted")
            last = self._attempt(body)
            if last.problem is None:
                return
            if not last.passing:
                break
        raise last.problem or Interrupted("interrupted")

    def _attempt(self, body: bytes) -> _Attempt:
        connection = self._connection()
        try:
            connection.request("PUT", self._target, body, self._headers)
            response = connection.getresponse()
            text = response.read(_READ)
        except ssl.SSLCertVerificationError as error:
            connection.close()
            return _Attempt(Unusable(f"its certificate: {error.verify_message}"))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return _Attempt(Unusable(reason(error)), passing=True)
        if not response.isclosed():
            # There is more than anybody wants to read.
            connection.close()
        return _judge(response, text)

    def _connection(self) -> http.client.HTTPConnection:
        """
        @return: this thread's; it connects when it is used and not connected.
        """
        if not hasattr(self._own, "connection"):
            self._own.connection = connection_to(self._url, self._trust, _TIMEOUT)
            self._all.append(self._own.connection)
        connection: http.client.HTTPConnection = self._own.connection
        return connection


def _judge(response: http.client.HTTPResponse, text: bytes) -> _Attempt:
    status = response.status
    if status == 200:
        return _Attempt()
    if status in _HOPELESS:
        return _Attempt(Unusable(f"HTTP {status}: {_HOPELESS[status]}"))
    if 300 <= status < 400:
        return _Attempt(Unusable(f"HTTP {status}: it sends us elsewhere, give that URL"))
    why = said(text)
    problem = Refused(f"HTTP {status}: {why}" if why else f"HTTP {status}")
    pause = response.getheader("Retry-After", "")
    seconds = min(int(pause), _LONGEST_PAUSE) if pause.isdecimal() else 0
    return _Attempt(problem, passing=status >= 500 or status in _PASSING, pause=seconds)
