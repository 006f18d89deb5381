"""
Tests for L{nanomdm.crypto.header}.
"""

from __future__ import annotations

import base64
import ssl
from urllib.parse import quote, quote_plus

from asn1crypto import x509 as asn1_x509
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.crypto.certificates import MAX_CERTIFICATE
from nanomdm.crypto.header import MAX_VALUE, certificate_from_header
from tests.crypto import build


def with_plus() -> tuple[bytes, bytes]:
    """
    DER and PEM of a certificate whose base64 has a C{+}.
    """
    while True:
        identity = build.ca().issue(key=build.device_key())
        if b"+" in identity.pem and b"/" in identity.pem:
            return identity.der, identity.pem


def extended(size: int) -> bytes:
    """
    A certificate with an extension of so many bytes.
    """
    template = asn1_x509.Certificate.load(build.identity().der)
    value = (bytes(range(256)) * 64)[:size]
    extension = {"extn_id": "1.2.3.4", "critical": False, "extn_value": value}
    template["tbs_certificate"]["extensions"].append(extension)
    return bytes(template.dump(force=True))


class ByteSequenceTests(SynchronousTestCase):
    """
    The form of RFC 9440.
    """

    def test_certificate(self) -> None:
        der = build.identity().der
        self.assertEqual(certificate_from_header(b":" + base64.b64encode(der) + b":"), der)
        self.assertEqual(certificate_from_header(b" :" + base64.b64encode(der) + b":\t"), der)

    def test_unreadable(self) -> None:
        der = build.identity().der
        text = base64.b64encode(der)
        for value in [
            b":",
            b"::",
            b":::",
            b":" + text,
            text + b":",
            b":" + text + b": x",
            b":" + text + b":, :" + text + b":",
            b":" + text.replace(text[9:10], b"%", 1) + b":",
            b":" + base64.b64encode(der[:-1]) + b":",
            b":" + base64.b64encode(der + b"\0") + b":",
            b":" + base64.b64encode(der + der) + b":",
            b":" + base64.b64encode(b"no certificate") + b":",
            b":" + base64.urlsafe_b64encode(b"\xff" * 30) + b":",
        ]:
            self.assertIsNone(certificate_from_header(value), value)

    def test_padding_is_required(self) -> None:
        while len(der := build.ca().issue(key=build.device_key(), common_name="x").der) % 3 != 2:
            pass
        text = base64.b64encode(der)
        self.assertEqual(certificate_from_header(b":" + text + b":"), der)
        self.assertIsNone(certificate_from_header(b":" + text.rstrip(b"=") + b":"))


class EscapedPEMTests(SynchronousTestCase):
    """
    PEM, escaped in the ways in which proxies do it.
    """

    def test_percent_encoded(self) -> None:
        """
        As nginx: everything but letters, digits and C{-._~}.
        """
        der, pem = with_plus()
        self.assertEqual(certificate_from_header(quote(pem, safe="").encode()), der)

    def test_form_encoded(self) -> None:
        """
        Blanks as C{+}, the C{+} of the base64 as C{%2B}.
        """
        der, pem = with_plus()
        value = quote_plus(pem).encode()
        self.assertIn(b"BEGIN+CERT", value)
        self.assertEqual(certificate_from_header(value), der)

    def test_plus_left_alone(self) -> None:
        """
        Blanks as C{%20}, and the digits of base64 not escaped.
        """
        der, pem = with_plus()
        value = quote(pem, safe="+=/").encode()
        self.assertIn(b"+", value)
        self.assertEqual(certificate_from_header(value), der)

    def test_line_ends(self) -> None:
        der, pem = with_plus()
        for form in (pem.replace(b"\n", b"\r\n"), pem.rstrip(), pem + b"\n\n"):
            self.assertEqual(certificate_from_header(quote(form, safe="").encode()), der)

    def test_unreadable(self) -> None:
        identity = build.identity()
        pem = identity.pem
        for value in [
            b"",
            b"%",
            b"garbage",
            b"\xff\xfe",
            pem.replace(b"CERTIFICATE", b"PRIVATE KEY"),
            pem[:-10],
            pem[:200] + pem[-27:],
            pem + b"trailing",
            b"leading\n" + pem,
            pem + pem,
            pem.replace(b"\n", b"\n%zz", 2),
            pem.replace(b"\n", b" "),
            b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ]:
            self.assertIsNone(certificate_from_header(quote(value, safe="").encode()), value)
            self.assertIsNone(certificate_from_header(value.replace(b"\n", b"%0A") + b"%0Ax"))

    def test_broken_escape(self) -> None:
        value = quote(build.identity().pem, safe="").encode()
        self.assertIsNone(certificate_from_header(value.replace(b"%0A", b"%0", 1)))
        self.assertIsNone(certificate_from_header(value.replace(b"%0A", b"%zz", 1)))

    def test_too_long(self) -> None:
        der, pem = with_plus()
        fits = quote(pem, safe="").encode() + b"%0A" * 1000
        self.assertEqual(certificate_from_header(fits), der)
        self.assertIsNone(certificate_from_header(fits + b"%0A" * (MAX_VALUE // 3)))

    def test_large_certificate(self) -> None:
        """
        One of the largest that are accepted fits, in each form.
        """
        for size, good in ((MAX_CERTIFICATE - 1200, True), (MAX_CERTIFICATE, False)):
            der = extended(size)
            self.assertEqual(len(der) <= MAX_CERTIFICATE, good)
            pem = ssl.DER_cert_to_PEM_cert(der).replace("\n", "\r\n")
            for value in (
                quote(pem, safe="").encode(),
                quote_plus(pem).encode(),
                b":" + base64.b64encode(der) + b":",
            ):
                self.assertEqual(certificate_from_header(value), der if good else None)
