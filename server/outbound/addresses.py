"""Which addresses outbound requests may go to: public ones, and those that the operator allows."""

import errno
import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


_IPV6_UNICAST = ip_network("2000::/3")
_NAT64 = ip_network("64:ff9b::/96")

_NOT_PUBLIC = _networks(
    # `ipaddress.is_global` calls these global, in some or all versions of Python.
    "192.0.0.0/24",  # protocol assignments
    "192.31.196.0/24",  # AS112
    "192.52.193.0/24",  # automatic multicast tunnels
    "192.88.99.0/24",  # 6to4 relays
    "192.175.48.0/24",  # AS112
    "198.18.0.0/15",  # benchmarks
    "2001::/23",  # protocol assignments, Teredo among them: an IPv4 address inside
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4: an IPv4 address inside
    "2620:4f:8000::/48",  # AS112
    "3fff::/20",  # documentation
)
"""Besides what `is_global` refuses; other IPv6 ranges, NAT64 too, are not in 2000::/3."""

_PRIVATE = _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
"""Where the machines of a site live: what a name that the operator allows may lead to."""

_GUARDED = _networks(
    "127.0.0.0/8",
    "::1/128",
    "169.254.0.0/16",
    "fe80::/10",
    # A connection to either goes to loopback.
    "0.0.0.0/8",
    "::/128",
    # IPv4 addresses inside IPv6 ones: by NAT64, by a site's own NAT64, by 6to4, by Teredo, by
    # automatic tunnels.
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "2002::/16",
    "2001::/32",
    "::/96",
    # The clouds' metadata services, which hand out credentials.
    "169.254.169.254/32",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.192/32",
    "fd00:ec2::254/128",
    "fd20:ce::254/128",
)
"""Reached only if an allowed network is one of these or lies within; a wider one opens none of
them."""


def is_allowed(
    address: Address, host: str, *, nets: Sequence[Network], hosts: Sequence[str]
) -> bool:
    """Whether a connection to `address` is allowed when it is wanted for `host`.

    `nets` are networks allowed besides the public ones; `hosts` are exact names that may lead to
    private addresses, but neither to loopback nor to a cloud's metadata. An IPv6 address that
    leads to an IPv4 one is allowed if both are.
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return False
        inner = _inner(address)
        if inner is not None and not is_allowed(inner, host, nets=nets, hosts=hosts):
            return False
    naming = [network for network in nets if address in network]
    guards = [network for network in _GUARDED if address in network]
    if guards:
        return any(all(_within(network, guard) for guard in guards) for network in naming)
    if naming:
        return True
    if _is_host(host, hosts) and any(address in network for network in _PRIVATE):
        return True
    return _is_public(address)


def names(network: Network, address: Address) -> bool:
    """Whether an allowed network is this very address, and no other."""
    return network.num_addresses == 1 and address in network


def is_named(address: Address, host: str, *, nets: Sequence[Network], hosts: Sequence[str]) -> bool:
    """Whether the address lies in a network that the operator allows, or the host is allowed."""
    return any(address in network for network in nets) or _is_host(host, hosts)


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a gateway makes of an IPv6 one, where the form tells which."""
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    last = IPv4Address(address.packed[12:])
    is_isatap = address.packed[8:12] in (b"\0\0\x5e\xfe", b"\x02\0\x5e\xfe")
    return last if is_isatap or address in _NAT64 else None


def _within(network: Network, other: Network) -> bool:
    return network.network_address in other and network.prefixlen >= other.prefixlen


def _is_host(host: str, names: Iterable[str]) -> bool:
    plain = host.lower().removesuffix(".")
    return any(plain == name.lower().removesuffix(".") for name in names)


def _is_public(address: Address) -> bool:
    """Whether anyone on the internet can reach this address: global unicast, nothing embedded."""
    if isinstance(address, IPv6Address) and address not in _IPV6_UNICAST:
        return False
    if not address.is_global or address.is_multicast:
        return False
    return not any(address in network for network in _NOT_PUBLIC)


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
