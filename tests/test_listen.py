"""
Tests for L{nanomdm.listen}.
"""

from __future__ import annotations

import socket

from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, serverFromString
from twisted.plugins.twisted_core import systemdEndpointParser
from twisted.python.systemd import ListenFDs
from twisted.trial.unittest import SynchronousTestCase

from nanomdm import listen
from nanomdm.errors import ConfigError
from nanomdm.listen import endpoint_description, speaks_tls


class EndpointDescriptionTests(SynchronousTestCase):
    """
    From addresses to endpoints.
    """

    def test_one_address(self) -> None:
        for address, description in (
            ("127.0.0.1:9000", "tcp:9000:interface=127.0.0.1:backlog=1024"),
            ("0.0.0.0:65535", "tcp:65535:interface=0.0.0.0:backlog=1024"),
            ("localhost:0", "tcp:0:interface=127.0.0.1:backlog=1024"),
            ("[::1]:9000", "tcp6:9000:interface=\\:\\:1:backlog=1024"),
            ("[2001:DB8:0::1]:80", "tcp6:80:interface=2001\\:db8\\:\\:1:backlog=1024"),
        ):
            self.assertEqual(endpoint_description(address), description)

    def test_all_interfaces(self) -> None:
        self.patch(listen, "_dual_stack", lambda: True)
        self.assertEqual(endpoint_description(":9000"), "tcp6:9000:interface=\\:\\::backlog=1024")

    def test_all_interfaces_without_ipv6(self) -> None:
        def no_socket(*args: object) -> None:
            raise OSError("Address family not supported by protocol")

        self.patch(socket, "socket", no_socket)
        self.assertEqual(endpoint_description(":9000"), "tcp:9000:backlog=1024")

    def test_twisted_understands(self) -> None:
        endpoint = serverFromString(None, endpoint_description("[::1]:9000"))
        self.assertIsInstance(endpoint, TCP6ServerEndpoint)
        endpoint = serverFromString(None, endpoint_description("127.0.0.1:9000"))
        self.assertIsInstance(endpoint, TCP4ServerEndpoint)

    def test_endpoints_stay_as_they_are(self) -> None:
        for description in (
            "tcp:9000",
            "tcp:0:interface=127.0.0.1",
            "tcp:port=80:backlog=5",
            "tcp6:9000:interface=\\:\\:",
            "unix:/run/nanomdm.sock:mode=660",
            "haproxy:tcp:80",
        ):
            self.assertEqual(endpoint_description(description), description)

    def test_result_is_accepted_again(self) -> None:
        for address in (":9000", "127.0.0.1:0", "[::1]:9000"):
            description = endpoint_description(address)
            self.assertEqual(endpoint_description(description), description)

    def test_bad_ports(self) -> None:
        for address, port in (
            (":65536", "65536"),
            (":-1", "-1"),
            (":", ""),
            (":http", "http"),
            (":٩", "٩"),
            ("127.0.0.1:99999", "99999"),
            ("[::1]:1000000", "1000000"),
        ):
            error = self.assertRaises(ConfigError, endpoint_description, address)
            self.assertEqual(str(error), f"{port!r} is not a port from 0 to 65535")

    def test_bad_hosts(self) -> None:
        for address, problem in (
            ("mdm.example.com:9000", "'mdm.example.com' is neither an IP address nor localhost"),
            ("256.0.0.1:9000", "'256.0.0.1' is neither an IP address nor localhost"),
            ("carrier-pigeon:9000", "'carrier-pigeon' is neither an IP address nor localhost"),
            ("[127.0.0.1]:9000", "'127.0.0.1' is not an IPv6 address"),
            ("[]:9000", "'' is not an IPv6 address"),
        ):
            error = self.assertRaises(ConfigError, endpoint_description, address)
            self.assertEqual(str(error), problem)

    def test_neither(self) -> None:
        for text in ("9000", "::1:9000", "carrier:9000", "localhost", "haproxy:", "haproxy:x:1"):
            error = self.assertRaises(ConfigError, endpoint_description, text)
            self.assertEqual(
                str(error),
                f"{text!r} is neither an address with a port nor an endpoint: such are :9000, "
                "[::1]:9000, and what begins with "
                "tcp:, tcp6:, unix:, systemd:, ssl:, tls:, haproxy:",
            )

    def assertBad(self, description: str, problem: str) -> None:
        error = self.assertRaises(ConfigError, endpoint_description, description)
        self.assertEqual(str(error), f"{description!r}: {problem}")

    def test_ports_of_endpoints(self) -> None:
        for description, port in (
            ("tcp:65536", "65536"),
            ("tcp:port=70000", "70000"),
            ("tcp6:-1", "-1"),
            ("haproxy:tcp:99999", "99999"),
            ("tcp:http", "http"),
            ("tcp:", ""),
            ("ssl:x", "x"),
        ):
            self.assertBad(description, f"{port!r} is not a port from 0 to 65535")

    def test_bad_endpoints(self) -> None:
        for description, problem in (
            ("tcp", "port is missing"),
            ("haproxy:tcp", "port is missing"),
            ("unix", "address is missing"),
            ("unix:", "address is empty; a colon in a value is written \\:"),
            ("tcp6:interface=::1:9000", "interface is empty; a colon in a value is written \\:"),
            ("tcp:9000:colour=blue", "tcp has no 'colour', only port, interface, backlog"),
            ("tcp:9000:=x", "tcp has no '', only port, interface, backlog"),
            ("tcp:9000:interface=x\\", "ends in a backslash"),
            ("tcp:port=1:port=2", "port is there twice"),
            ("tcp:1:port=2", "port is there twice"),
            ("tcp:1:a:2:c", "has too many parts; a colon in a value is written \\:"),
            ("tcp:1:backlog=x", "backlog: 'x' is not a number"),
            ("unix:/x:mode=rw", "mode: 'rw' is not an octal number such as 660"),
            ("unix:/x:lockfile=no", "lockfile: 'no' is neither 0 nor 1"),
            ("ssl:443:privateKey=/nowhere.pem", "/nowhere.pem: No such file or directory"),
            (
                f"ssl:443:privateKey={__file__}",
                "the private key or a certificate is unreadable or does not fit",
            ),
        ):
            self.assertBad(description, problem)

    def test_values_with_colons(self) -> None:
        for description in (
            "tcp6:80:interface=\\:\\:1",
            "unix:/run/a\\:b\\=c",
            "unix:address=/a=b",
        ):
            self.assertEqual(endpoint_description(description), description)


class SystemdTests(SynchronousTestCase):
    """
    Sockets that systemd passes.
    """

    def assertBad(self, description: str, problem: str) -> None:
        error = self.assertRaises(ConfigError, endpoint_description, description)
        self.assertEqual(str(error), f"{description!r}: {problem}")

    def test_badParameters(self) -> None:
        for description, problem in (
            ("systemd:index=0", "domain is missing"),
            ("systemd:domain=INET", "systemd takes either name or index"),
            ("systemd:domain=INET:index=0:name=x", "systemd takes either name or index"),
            ("systemd:domain=INET:index=x", "index: 'x' is not a number"),
            ("systemd:domain=inet:index=0", "domain: 'inet' is not INET, INET6 or UNIX"),
        ):
            self.assertBad(description, problem)

    def test_absent(self) -> None:
        for description in ("systemd:domain=INET:name=absent", "systemd:domain=INET:index=0"):
            self.assertBad(description, "systemd passed no such socket")

    def pass_socket(self, passed: socket.socket) -> None:
        """
        Let a socket be the one that systemd passes, called C{nanomdm}.
        """
        self.addCleanup(passed.close)
        descriptors = ListenFDs([passed.fileno()], ["nanomdm"])
        self.patch(systemdEndpointParser, "_sddaemon", descriptors)

    def test_passed(self) -> None:
        self.pass_socket(socket.create_server(("127.0.0.1", 0)))
        for description in (
            "systemd:domain=INET:name=nanomdm",
            "systemd:INET:0",
            "haproxy:systemd:domain=INET:name=nanomdm",
        ):
            self.assertEqual(endpoint_description(description), description)
        self.assertBad("systemd:domain=INET:name=other", "systemd passed no such socket")

    def test_domain(self) -> None:
        """
        Otherwise the addresses of clients would be wrong.
        """
        self.pass_socket(socket.create_server(("::", 0), family=socket.AF_INET6))
        for description in ("systemd:domain=INET:name=nanomdm", "haproxy:systemd:INET:0"):
            self.assertBad(description, "the socket that systemd passed is of domain=INET6")

    def test_doesNotListen(self) -> None:
        self.pass_socket(socket.socket())
        self.assertBad(
            "systemd:domain=INET:name=nanomdm",
            "the socket that systemd passed does not listen: Accept=no is needed",
        )


class TLSTests(SynchronousTestCase):
    """
    Endpoints that speak TLS by themselves.
    """

    def test_speaksTLS(self) -> None:
        for description in ("ssl:443:privateKey=x", "tls:/etc/certificates", "haproxy:ssl:443"):
            self.assertTrue(speaks_tls(description), description)
        for description in (
            "tcp:9000",
            "haproxy:tcp:80",
            "unix:/run/ssl:mode=660",
            "systemd:domain=INET:name=ssl",
        ):
            self.assertFalse(speaks_tls(description), description)

    def test_method(self) -> None:
        """
        Old versions can not be asked for.
        """
        for description in (
            "ssl:443:privateKey=/a.pem:sslmethod=TLSv1_METHOD",
            "ssl:443:/a.pem:/a.pem:SSLv23_METHOD",
            "haproxy:ssl:443:sslmethod=TLS_METHOD:privateKey=/a.pem",
        ):
            error = self.assertRaises(ConfigError, endpoint_description, description)
            self.assertEqual(
                str(error), f"{description!r}: TLS is 1.2 or 1.3 here: leave sslmethod out"
            )
