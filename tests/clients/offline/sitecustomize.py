"""Loaded by Python at its start: ends a program that looks for a host beyond this machine.

An audit hook sees every lookup and connection, whatever module makes it, and an exit cannot be
taken for a fault of the network and be tried again.
"""

import os
import sys
from ipaddress import ip_address
from typing import Any

LOOKED_OUTSIDE = 86
_ALSO = set(filter(None, os.environ.get("OFFLINE_ALSO", "").split(",")))
_EVENTS = {"socket.getaddrinfo": 0, "socket.gethostbyname": 0}
_EVENTS |= {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1}


def _is_here(host: str) -> bool:
    if host == "localhost" or host in _ALSO:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    place = _EVENTS.get(event)
    if place is None:
        return
    target = arguments[place]
    # A connection names host and port; to a socket of the file system, a path.
    host = target[0] if isinstance(target, tuple) else target
    if place == 1 and not isinstance(target, tuple):
        return
    if isinstance(host, bytes):
        host = host.decode()
    if host is not None and not _is_here(host):
        print(f"This program looked for {host}.", file=sys.stderr, flush=True)
        os._exit(LOOKED_OUTSIDE)


sys.addaudithook(_watch)
