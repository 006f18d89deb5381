"""
Tests for L{nanomdm.http.proxies}.
"""

from __future__ import annotations

from ipaddress import ip_network

from twisted.internet.address import (
    HostnameAddress,
    IPv4Address,
    IPv6Address,
    UNIXAddress,
)
from twisted.internet.interfaces import IAddress
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import ConfigError
from nanomdm.http.proxies import PRIVATE, is_public, parse_networks


def address(host: str) -> IAddress:
    """
    One end of a connection.
    """
    return IPv6Address("TCP", host, 1) if ":" in host else IPv4Address("TCP", host, 1)


class ParseTests(SynchronousTestCase):
    """
    L{parse_networks}.
    """

    def test_networks(self) -> None:
        networks = parse_networks("10.0.0.0/8, 192.0.2.1,fd00::/8,::1, 0.0.0.0/0")
        expected = ("10.0.0.0/8", "192.0.2.1/32", "fd00::/8", "::1/128", "0.0.0.0/0")
        self.assertEqual(networks.members, tuple(map(ip_network, expected)))

    def test_wrong(self) -> None:
        for text, problem in (
            ("10.0.0.1/8", "10.0.0.1/8 has host bits set"),
            ("10.0.0.0/33", "'10.0.0.0/33' does not appear to be an IPv4 or IPv6 network"),
            ("10.0.0.0/8,", "'' does not appear to be an IPv4 or IPv6 network"),
            ("localhost", "'localhost' does not appear to be an IPv4 or IPv6 network"),
            (
                "::ffff:10.0.0.0/104",
                "'::ffff:10.0.0.0/104' is to be written as a network of IPv4 addresses",
            ),
        ):
            error = self.assertRaises(ConfigError, parse_networks, text)
            self.assertEqual(str(error), problem)


class PeerTests(SynchronousTestCase):
    """
    Who is in a network.
    """

    def assertPeers(self, networks: str, inside: tuple[str, ...], outside: tuple[str, ...]) -> None:
        parsed = parse_networks(networks)
        for host in inside:
            self.assertTrue(parsed.has_peer(address(host)), host)
        for host in outside:
            self.assertFalse(parsed.has_peer(address(host)), host)

    def test_ipv4(self) -> None:
        """
        A socket of IPv6 shows them in another way.
        """
        self.assertPeers(
            "10.0.0.0/8",
            ("10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"),
            ("9.255.255.255", "11.0.0.0", "::ffff:11.0.0.0", "::1", "::a01:203"),
        )

    def test_ipv6(self) -> None:
        self.assertPeers(
            "fd00::/8,fe80::/10",
            ("fd00::", "fdff::1", "fe80::1", "fe80::1%eth0"),
            ("fc00::1", "fec0::1", "10.0.0.1", "2001:db8::1%eth0"),
        )

    def test_unixSocket(self) -> None:
        """
        Who may open that is for the file system to say.
        """
        for name in ("/run/nanomdm.sock", None):
            self.assertTrue(parse_networks("192.0.2.1").has_peer(UNIXAddress(name)))

    def test_otherAddresses(self) -> None:
        everybody = parse_networks("0.0.0.0/0,::/0")
        self.assertFalse(everybody.has_peer(HostnameAddress(b"localhost", 1)))

    def test_private(self) -> None:
        """
        The networks that are trusted unless others are named.
        """
        for host in (
            *("127.0.0.1", "127.255.0.1", "10.1.1.1", "172.16.0.1", "172.31.255.255"),
            *("192.168.1.1", "169.254.1.1", "::1", "fc00::1", "fdff::1", "fe80::1"),
        ):
            self.assertTrue(PRIVATE.has_peer(address(host)), host)
        for host in ("172.15.255.255", "172.32.0.0", "192.169.0.0", "8.8.8.8", "2001:db8::1", "::"):
            self.assertFalse(PRIVATE.has_peer(address(host)), host)


class PublicTests(SynchronousTestCase):
    """
    L{is_public}.
    """

    def test_public(self) -> None:
        for host in ("0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "::ffff:8.8.8.8"):
            self.assertTrue(is_public(address(host)), host)

    def test_notPublic(self) -> None:
        for host in ("127.0.0.1", "::1", "10.1.2.3", "fe80::1", "::ffff:10.1.2.3"):
            self.assertFalse(is_public(address(host)), host)
        self.assertFalse(is_public(UNIXAddress("/run/nanomdm.sock")))
