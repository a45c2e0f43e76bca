"""Which addresses are this machine's own: asked before a connection to a port that we listen on.

What cannot be seen from here: a port that a container's host, a router or a load balancer maps to
one of ours under an address of its own.
"""

import errno
import socket
from ipaddress import ip_address
from typing import Any

from server.address_policy import Address

_NOBODYS = (ip_address("192.0.2.1"), ip_address("2001:db8::1"))
"""Addresses that are kept for documentation: no machine has one."""

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def is_own(address: Address) -> bool:
    """Whether packets to this address stay on this machine.

    It is if a socket can be bound to it. Where the system lets sockets be bound to any address
    (`ip_nonlocal_bind`) that tells nothing, and what is asked is whether it would be its own
    sender; of the further addresses of one network card that is not always true.
    """
    if address.is_loopback or address.is_unspecified:
        return True
    [nobodys] = [each for each in _NOBODYS if each.version == address.version]
    return sends_to_itself(address) if can_bind(nobodys) else can_bind(address)


def can_bind(address: Address) -> bool:
    """Whether a socket can have this address; yes, too, where the system does not say."""
    try:
        with _socket(address) as probe:
            probe.bind(_socket_address(address))
    except OSError as error:
        return error.errno not in _NOT_HERE
    return True


def sends_to_itself(address: Address) -> bool:
    """Whether what is sent to this address has it as the sender, too. Nothing is sent."""
    try:
        with _socket(address) as probe:
            probe.connect(_socket_address(address, port=9))
            sender = ip_address(probe.getsockname()[0])
    except OSError:
        # There is no way to it.
        return False
    return sender.packed == address.packed


def _socket(address: Address) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    return socket.socket(family, socket.SOCK_DGRAM)


def _socket_address(address: Address, port: int = 0) -> Any:
    """As `bind` and `connect` want it: the zone of an IPv6 address becomes a number."""
    [*_, found] = socket.getaddrinfo(
        str(address), port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
    )[0]
    return found
