"""
Why a connection ended, in plain words.
"""

from __future__ import annotations

import re
from typing import Final

from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated
from h2.exceptions import H2Error
from OpenSSL import SSL
from twisted.internet import error
from twisted.python.failure import Failure

from nanomdm.push.notification import CERTIFICATE_REASONS, ConnectionLost
from nanomdm.push.response import parse_problem

#: OpenSSL's words for the alerts by which a server refuses a client certificate
#: (RFC 8446 section 6.2).
_REFUSAL: Final = re.compile(r"\balert\b.*(certificate|unknown ca|access denied)")

#: Characters of such a line.
_MAX_TEXT: Final = 200


def describe_loss(reason: Failure) -> ConnectionLost:
    """
    @param reason: what C{connectionLost} was called with.
    @return: the reason in one line.
    """
    problem = reason.value
    if isinstance(problem, SSL.Error):
        text = _tls_reason(problem)
        if _REFUSAL.search(text):
            return ConnectionLost(f"APNs ended TLS: {text}", refused=True)
        return ConnectionLost(text)
    if isinstance(problem, error.ConnectionDone):
        return ConnectionLost("APNs closed the connection")
    if isinstance(problem, error.ConnectionAborted):
        return ConnectionLost("the connection was aborted")
    if isinstance(problem, error.ConnectionLost):
        return ConnectionLost(_line("the connection broke", *problem.args))
    return ConnectionLost(_line(type(problem).__name__, problem))


def describe_goaway(event: ConnectionTerminated) -> ConnectionLost:
    """
    @param event: the peer's GOAWAY (RFC 9113 section 6.8), with whose debug data
        APNs gives a reason (Apple, "Sending notification requests to APNs").
    """
    reason, _ = parse_problem(event.additional_data or b"")
    refused = reason in CERTIFICATE_REASONS
    code = event.error_code
    return ConnectionLost(
        _line("APNs ended the connection", reason or error_name(code)),
        # Who is told to calm down does not send everything again at once.
        resend=not refused and code != ErrorCodes.ENHANCE_YOUR_CALM,
        refused=refused,
    )


def describe_violation(problem: H2Error) -> ConnectionLost:
    """
    @param problem: what h2 found wrong with what the peer sent.
    """
    text, kind = str(problem), type(problem).__name__
    # Some of h2's errors have but a number to say.
    return ConnectionLost(
        _line("APNs broke the protocol", text if " " in text else f"{kind} {text}")
    )


def error_name(code: ErrorCodes | int | None) -> str:
    """
    @return: an error code's name in RFC 9113 section 7, or its number.
    """
    return code.name if isinstance(code, ErrorCodes) else f"error {code}"


def _tls_reason(problem: SSL.Error) -> str:
    """
    OpenSSL has a queue of errors, each a library, a function and a reason.
    """
    queue = problem.args[0] if problem.args else None
    if isinstance(queue, list | tuple) and queue:
        return _line(", ".join(dict.fromkeys(str(entry[-1]) for entry in queue)))
    return _line("TLS failed", *problem.args[1:])


def _line(*parts: object) -> str:
    """
    One line of what there is.
    """
    texts = (" ".join(str(part).split()) for part in parts)
    return ": ".join(text for text in texts if text)[:_MAX_TEXT]
