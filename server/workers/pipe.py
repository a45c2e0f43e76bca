"""The pipe between the server and one worker: whole messages, each after its length.

It knows nothing of what the messages mean; that is `server.workers.messages`.
"""

import os
import socket
import struct
import threading

from server.workers.messages import MAX_CHUNK_BYTES, BadMessage

MAX_EVENT_BYTES = MAX_CHUNK_BYTES + 64 * 1024
"""The longest message that a worker may send: a chunk and its header."""

_LENGTH = struct.Struct(">I")


class Pipe:
    """One end. Any thread may send; one thread receives."""

    def __init__(self, end: socket.socket) -> None:
        """Take over a connected stream socket."""
        self._socket = end
        self._stream = end.makefile("rb")
        self._sending = threading.Lock()

    @classmethod
    def at(cls, descriptor: int) -> "Pipe":
        """Take over the descriptor that this process was started with, for itself alone."""
        os.set_inheritable(descriptor, False)
        return cls(socket.socket(fileno=descriptor))

    def send(self, message: bytes) -> None:
        """Send one message; waits while the other side does not read.

        Raises:
            OSError: the other side has ended, or `finish` was called.
        """
        with self._sending:
            self._socket.sendall(_LENGTH.pack(len(message)) + message)

    def receive(self, max_bytes: int | None = None) -> bytes | None:
        """Wait for one message; None when the other side has finished or ended.

        Raises:
            BadMessage: the message is longer than `max_bytes`, as text read as a length will be.
        """
        try:
            head = self._stream.read(_LENGTH.size)
            if len(head) < _LENGTH.size:
                return None
            (length,) = _LENGTH.unpack(head)
            if max_bytes is not None and length > max_bytes:
                raise BadMessage(
                    f"A worker announced a message of {length:,} bytes; at most {max_bytes:,} are "
                    f"taken. Something wrote to its pipe that is no message: {head!r}…"
                )
            message = self._stream.read(length)
        except ConnectionError:
            return None
        return message if len(message) == length else None

    def finish(self) -> None:
        """Send no more, so that the other side receives None; what it sends still arrives."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Let go of the socket. Nobody may be sending or receiving any more."""
        self._stream.close()
        self._socket.close()
