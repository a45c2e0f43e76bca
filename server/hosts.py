"""Names in Host headers: which can be one at all, and which of them are this server's.

A page that a browser got from elsewhere can be made to call this machine under a name of its own
(DNS rebinding), and a link can be poisoned by a forged Host. So a name is served if it is known.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

DEFAULT_PORTS = {"http": 80, "https": 443}

_HOST = re.compile(r"(?P<name>[a-z0-9_.-]{1,253}|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


@dataclass(frozen=True, slots=True)
class HostRule:
    """Which Host headers are answered."""

    names: frozenset[str]
    """Names that are known. With each, the name that begins with `queue.` before it is, too."""

    addresses: bool
    """Whether every IP address is known, or only the loopback ones."""

    every_name: bool
    """Whether any name will do."""

    def allows(self, host: str) -> bool:
        """Whether a Host header that is well formed is to be answered."""
        name = name_of(host)
        if self.every_name or is_loopback(name):
            return True
        if is_address(name) and self.addresses:
            return True
        return name in self.names or name.removeprefix("queue.") in self.names


def is_well_formed(host: str) -> bool:
    """Whether a Host header can be one: a name or an address, and perhaps a port."""
    # Lower case of some letters beyond ASCII is ASCII.
    match = _HOST.fullmatch(host.lower()) if host.isascii() else None
    if match is None or int(match["port"] or 0) > 65535:
        return False
    if match["name"].startswith("["):
        return is_address(match["name"])
    labels = match["name"].removesuffix(".").split(".")
    return all(_LABEL.fullmatch(label) for label in labels)


def name_of(host: str) -> str:
    """The host without its port and trailing dot, in lower case."""
    return re.sub(r":[0-9]*$", "", host.lower()).removesuffix(".")


def read_name(text: str) -> str:
    """A name as `name_of` gives it.

    Raises:
        ValueError: it is not one, or has a port; the message is a sentence.
    """
    if not is_well_formed(text) or name_of(text) != text.lower().removesuffix("."):
        raise ValueError(f"{text!r} is not a host's name: give each without scheme, port and path")
    return name_of(text)


def is_loopback(name: str) -> bool:
    """Whether the name leads to the caller's own machine, wherever it is looked up."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    if not is_address(name):
        return False
    address = ip_address(name.strip("[]"))
    # 127.0.0.1 within an IPv6 address is loopback to some versions of Python only.
    is_mapped = isinstance(address, IPv6Address) and address.ipv4_mapped is not None
    return address.is_loopback and not is_mapped


def is_address(name: str) -> bool:
    """Whether the name is an IP address, an IPv6 one in brackets."""
    bracketed = name.startswith("[") and name.endswith("]")
    try:
        version = ip_address(name[1:-1] if bracketed else name).version
    except ValueError:
        return False
    return bracketed == (version == 6)


_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[^/]+)")


def read_origin(text: str) -> str:
    """An origin as browsers write it in the Origin header.

    Raises:
        ValueError: it is not one; the message is a sentence.
    """
    origin = text.lower()
    match = _ORIGIN.fullmatch(origin)
    if match is None or not is_well_formed(match["host"]):
        raise ValueError(
            f"{text!r} is not an origin: give each as https://app.example, with its port if "
            "that is not the scheme's own, and without a path"
        )
    return origin.removesuffix(f":{DEFAULT_PORTS.get(match['scheme'])}")
