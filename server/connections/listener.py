"""Sockets that listen, and the connections that come by them.

A connection takes a descriptor as soon as it is accepted, before its TLS handshake and also if it
is then refused. So this is where connections are counted, and where room is made for another.
"""

import asyncio
import errno
import socket
import time
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

import structlog

REFUSED_AT_ONCE = 32
"""How many are told of the limit at once. Others are closed without a word."""

ENDED_IN_A_TURN = 16
"""How many idle ones are ended in one turn of the event loop: after two more they are closed."""

LEAVING_AT_ONCE = REFUSED_AT_ONCE + 3 * ENDED_IN_A_TURN
"""Connections beyond the limit: those that are refused, and idle ones that end."""

REFUSAL_S = 5.0
"""How long one that is refused may take to hear it, its TLS handshake included."""

ERRORS_EVERY_S = 1.0

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""After these asyncio accepts nothing for a second."""

_log = structlog.get_logger("server")


class Connection(socket.socket):
    """An accepted socket, which counts until it is closed."""

    def __init__(self, descriptor: int, counted: "Connections") -> None:
        super().__init__(fileno=descriptor)
        self._counted = counted
        self.idle_since: float | None = time.monotonic()
        """Since when it has had no request; None while it has one."""
        self.is_refused = False
        self.is_ending = False

    def end(self) -> None:
        """End it in both directions. asyncio then reads its end, and closes it."""
        self.is_ending = True
        with suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._counted.forget(self)
        super().close()


class Connections:
    """All connections of one server, whichever port they came by.

    Beyond `limit` the one that has been idle the longest makes room for a new one; if all of them
    have requests, the new one is refused. A caller may take `read_timeout_s` seconds over the head
    of a request, and may for `write_timeout_s` seconds take nothing of an answer.
    """

    def __init__(self, limit: int, *, read_timeout_s: float, write_timeout_s: float) -> None:
        self.limit = limit
        self.read_timeout_s = read_timeout_s
        self.write_timeout_s = write_timeout_s
        self._open: WeakValueDictionary[int, Connection] = WeakValueDictionary()
        self._ended_in_turn = 0
        self._next_complaint = 0.0

    def of(self, transport: asyncio.BaseTransport) -> Connection:
        """The connection that a transport has, with or without TLS."""
        return self._open[transport.get_extra_info("socket").fileno()]

    def admit(self, connection: Connection) -> bool:
        """Count a new connection, and make room for it or mark it as refused.

        False if too many are being refused already: then it has to be closed at once.
        """
        refused = [each for each in self._open.values() if each.is_refused]
        staying = [each for each in self._open.values() if not each.is_refused | each.is_ending]
        idle = [each for each in staying if each.idle_since is not None]
        loop = asyncio.get_running_loop()
        if len(staying) >= self.limit:
            if idle:
                min(idle, key=lambda each: each.idle_since or 0.0).end()
                self._ended_in_turn += 1
                loop.call_soon(self._begin_turn)
            elif len(refused) < REFUSED_AT_ONCE:
                connection.is_refused = True
                loop.call_later(REFUSAL_S, connection.end)
            else:
                return False
        self._open[connection.fileno()] = connection
        return True

    @property
    def may_admit(self) -> bool:
        """Whether another connection may be accepted in this turn of the loop."""
        return self._ended_in_turn < ENDED_IN_A_TURN

    def _begin_turn(self) -> None:
        self._ended_in_turn = 0

    def forget(self, connection: Connection) -> None:
        """Count a connection no more: its descriptor is about to be closed."""
        if self._open.get(connection.fileno()) is connection:
            del self._open[connection.fileno()]

    def complain(self, error: OSError) -> None:
        """Log that a connection could not be accepted, once a second at most."""
        now = time.monotonic()
        if now >= self._next_complaint:
            self._next_complaint = now + ERRORS_EVERY_S
            _log.error("A connection could not be accepted", reason=str(error))


class Listener(socket.socket):
    """A listening socket that gives asyncio the connections that its `Connections` admit."""

    def __init__(self, listening: socket.socket, connections: Connections) -> None:
        super().__init__(fileno=listening.detach())
        self._connections = connections
        self._next_try = 0.0
        # Connections inherit these. asyncio sets the first only on sockets that name their
        # protocol; without it the second answer on a connection may wait 40 ms.
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The system drops a connection whose other side acknowledges nothing for so long, or has
        # no room for more, and that also after it was closed here.
        timeout_ms = max(1, int(connections.write_timeout_s * 1000))
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection.

        Raises:
            BlockingIOError: there is none for now; asyncio takes that as the end of the queue.
            OSError: the system is short of something. asyncio tries again after a second.
        """
        # After an error asyncio goes on to the length of its backlog before it begins to wait.
        if time.monotonic() < self._next_try or not self._connections.may_admit:
            raise BlockingIOError
        try:
            accepted, address = super().accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            raise
        except OSError as error:
            self._connections.complain(error)
            if error.errno not in _SHORTAGES:
                # The system reports here what became of a connection that is gone.
                raise BlockingIOError from error
            self._next_try = time.monotonic() + ERRORS_EVERY_S / 2
            raise
        connection = Connection(accepted.detach(), self._connections)
        if not self._connections.admit(connection):
            connection.close()
            # One in each turn of the loop: there is other work.
            raise BlockingIOError
        return connection, address


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The loop's exception handler, without what `Listener` has logged."""
    if context["message"] != "socket.accept() out of system resource":
        loop.default_exception_handler(context)
