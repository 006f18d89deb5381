"""
Tests for L{nanomdm.push.loss}.
"""

from __future__ import annotations

from h2.events import ConnectionTerminated
from h2.exceptions import ProtocolError, StreamClosedError
from OpenSSL import SSL
from twisted.internet import error
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.push.loss import describe_goaway, describe_loss, describe_violation


def alert(text: str) -> SSL.Error:
    """
    What pyOpenSSL raises.
    """
    return SSL.Error([("SSL routines", "", text)])


class LossTests(SynchronousTestCase):
    """
    Reasons in plain words.
    """

    def assertSays(self, problem: Exception, text: str, refused: bool = False) -> None:
        loss = describe_loss(Failure(problem))
        self.assertEqual((str(loss), loss.refused, loss.resend), (text, refused, False))

    def test_transport(self) -> None:
        self.assertSays(error.ConnectionDone(), "APNs closed the connection")
        self.assertSays(error.ConnectionAborted(), "the connection was aborted")
        self.assertSays(error.ConnectionLost(), "the connection broke")
        self.assertSays(
            error.ConnectionLost(OSError(104, "Connection reset by peer")),
            "the connection broke: [Errno 104] Connection reset by peer",
        )

    def test_untrusted(self) -> None:
        self.assertSays(alert("certificate verify failed"), "certificate verify failed")

    def test_refused(self) -> None:
        """
        Alerts about our certificate, in the words of several OpenSSLs.
        """
        for text in (
            "sslv3 alert bad certificate",
            "sslv3 alert certificate expired",
            "ssl/tls alert certificate unknown",
            "sslv3 alert certificate revoked",
            "sslv3 alert unsupported certificate",
            "tlsv1 alert unknown ca",
            "tlsv1 alert access denied",
            "tlsv13 alert certificate required",
        ):
            self.assertSays(alert(text), f"APNs ended TLS: {text}", refused=True)

    def test_otherAlerts(self) -> None:
        for text in ("sslv3 alert handshake failure", "tlsv1 alert protocol version"):
            self.assertSays(alert(text), text)

    def test_severalErrors(self) -> None:
        """
        OpenSSL may tell several, and the same twice.
        """
        queue = [("a", "", "first"), ("b", "", "second"), ("c", "", "first")]
        self.assertSays(SSL.Error(queue), "first, second")

    def test_noErrors(self) -> None:
        self.assertSays(SSL.Error(), "TLS failed")
        self.assertSays(SSL.Error([]), "TLS failed")
        self.assertSays(SSL.SysCallError(-1, "Unexpected EOF"), "TLS failed: Unexpected EOF")

    def test_anything(self) -> None:
        """
        Whatever it is, it is one line that is not too long.
        """
        self.assertSays(KeyError("a\nb"), r"KeyError: 'a\nb'")
        self.assertSays(ValueError("a\n  b"), "ValueError: a b")
        self.assertSays(ValueError("x" * 1000), "ValueError: " + "x" * 188)


class GoawayTests(SynchronousTestCase):
    """
    What a GOAWAY means.
    """

    def assertSays(
        self, debug: bytes | None, code: int, text: str, resend: bool, refused: bool
    ) -> None:
        event = ConnectionTerminated()
        event.error_code, event.additional_data = code, debug
        loss = describe_goaway(event)
        self.assertEqual(str(loss), f"APNs ended the connection: {text}")
        self.assertEqual((loss.resend, loss.refused), (resend, refused))

    def test_debugData(self) -> None:
        self.assertSays(None, 99, "error 99", True, False)
        self.assertSays(b"\xff", 99, "error 99", True, False)
        self.assertSays(b'{"reason": 5}', 99, "error 99", True, False)
        self.assertSays(b'{"reason": "Idle\\ntimeout"}', 0, "Idle timeout", True, False)

    def test_certificates(self) -> None:
        for reason in ("BadCertificate", "BadCertificateEnvironment", "Forbidden"):
            self.assertSays(b'{"reason": "%s"}' % reason.encode(), 0, reason, False, True)


class ViolationTests(SynchronousTestCase):
    """
    What h2 does not like.
    """

    def test_text(self) -> None:
        for problem, text in (
            (ProtocolError("a  b"), "a b"),
            (StreamClosedError(5), "StreamClosedError 5"),
            (ProtocolError(), "ProtocolError"),
        ):
            self.assertEqual(str(describe_violation(problem)), f"APNs broke the protocol: {text}")
