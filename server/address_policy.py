"""Which addresses outbound requests may go to: public ones, and those that the operator allows."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


_IPV6_UNICAST = ip_network("2000::/3")

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
    address: Address, host: str, *, nets: Iterable[Network], hosts: Iterable[str]
) -> bool:
    """Whether a connection to `address` is allowed when it is wanted for `host`.

    `nets` are networks allowed besides the public ones; `hosts` are exact names that may lead to
    private addresses, but neither to loopback nor to a cloud's metadata.
    """
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
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
