"""
Which peers may tell, in a header, whose client certificate a TLS connection had.
"""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

from attrs import frozen
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress

from nanomdm.errors import ConfigError

#: Loopback, private and link-local networks (RFC 6890).
PRIVATE_NETWORKS: Final = (
    "127.0.0.0/8,::1/128,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,169.254.0.0/16,fc00::/7,fe80::/10"
)


@frozen
class Networks:
    """
    A set of networks.

    @ivar members: the networks, none of them of IPv4 addresses mapped into IPv6.
    """

    members: tuple[IPv4Network | IPv6Network, ...]

    def has_peer(self, peer: IAddress) -> bool:
        """
        @param peer: the other end of a connection.
        @return: whether it is in one of the networks, or of this machine, at a
            Unix socket.
        """
        if isinstance(peer, UNIXAddress):
            return True
        address = _ip(peer)
        return address is not None and self.has(address)

    def has(self, address: IPv4Address | IPv6Address) -> bool:
        """
        @return: whether the address is in one of the networks.
        """
        return any(address in network for network in self.members)


def parse_networks(value: str) -> Networks:
    """
    @param value: networks such as C{10.0.0.0/8} or C{fd00::/8}, or single
        addresses, with commas between them.
    @raise ConfigError: it is something else.
    """
    return Networks(tuple(_network(part.strip()) for part in value.split(",")))


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ConfigError(f"{text!r} is to be written as a network of IPv4 addresses")
    return network


PRIVATE: Final = parse_networks(PRIVATE_NETWORKS)


def is_public(host: IAddress) -> bool:
    """
    @param host: where a port listens.
    @return: whether others than this machine and private networks may reach it:
        it is all interfaces, or an address that is not private.
    """
    address = _ip(host)
    return address is not None and not PRIVATE.has(address)


def _ip(end: IAddress) -> IPv4Address | IPv6Address | None:
    """
    The IP address of one end of a connection; an IPv4 address that a socket of
    IPv6 shows (RFC 4291 section 2.5.5.2) as the former.
    """
    try:
        address = ip_address(getattr(end, "host", ""))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
