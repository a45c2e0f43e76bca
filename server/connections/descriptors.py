"""How many descriptors this process may open, and how many connections that leaves room for."""

import resource

from server.connections.listener import LEAVING_AT_ONCE

RESERVED = 256
"""For our own work: the database, workers, decoders, pictures that are fetched, webhooks."""

PER_CONNECTION = 2
"""Its socket, and the file that is sent or received by it."""


def raise_limit() -> int:
    """Allow this process as many descriptors as it may have (`ulimit -Hn`); how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def connections_within(descriptors: int) -> int:
    """How many connections a process of so many descriptors can serve; below 1, none."""
    return (descriptors - RESERVED - LEAVING_AT_ONCE) // PER_CONNECTION
