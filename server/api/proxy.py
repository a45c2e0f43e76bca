"""The proxy's protocol: a request whose real address is the URL in the header x-fal-target-url.

fal's JavaScript client sends this to its `proxyUrl`. A target is one of fal's own hosts, and each
of those is this server: the request is given the target's address and goes on as if it had come
there, with the caller's key or none. Nothing is sent anywhere.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from server.fal.urls import FAL_HOSTS, Address, resolve

TARGET_HEADER = "x-fal-target-url"
METHODS = ("GET", "POST", "PUT")

# No userinfo, port, fragment or backslash. The path is looked at by `resolve`.
_TARGET = re.compile(r"https://(?P<host>[a-z0-9.]+)(?P<path>/[!-~]*?)(?:\?(?P<query>[!-~]*))?")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request through the proxy is meant to go."""

    address: Address
    query: str


def target_of(urls: Sequence[str]) -> Target | None:
    """The target that the headers of one request name, None if they name none that is ours."""
    if len(urls) != 1:
        return None
    match = _TARGET.fullmatch(urls[0])
    if match is None or match["host"] not in FAL_HOSTS or not {"\\", "#"}.isdisjoint(urls[0]):
        return None
    address = resolve(match["host"], match["path"])
    return None if address is None else Target(address, match["query"] or "")
