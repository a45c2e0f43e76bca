"""A way to a server on which the first request arrives and its answer does not."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

A_REQUEST = 3000
"""Bytes: more than a TLS handshake sends, less than a request with a long prompt."""
LONG_PROMPT = "; " + "waves and more waves, " * 200
QUIET_S = 0.3
_RESET = struct.pack("ii", 1, 0)


@contextmanager
def cutting(port: int) -> Iterator[int]:
    """The port of a way to `port`. The first connection is reset once its request is through."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener, port), daemon=True).start()
        yield listener.getsockname()[1]


def _serve(listener: socket.socket, port: int) -> None:
    is_first = True
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            target = _cut if is_first else _pass
            is_first = False
            threading.Thread(target=target, args=(client, port), daemon=True).start()


def _pass(client: socket.socket, port: int) -> None:
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        back = threading.Thread(target=_pump, args=(server, client), daemon=True)
        back.start()
        _pump(client, server)
        back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _cut(client: socket.socket, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as server:
        answers = threading.Event()
        answers.set()
        threading.Thread(target=_answer, args=(server, client, answers), daemon=True).start()
        received = 0
        with suppress(TimeoutError):
            while data := client.recv(65536):
                received += len(data)
                if received > A_REQUEST:
                    answers.clear()
                    client.settimeout(QUIET_S)
                server.sendall(data)
        server.shutdown(socket.SHUT_RDWR)
        # So the other side is told that the connection is gone, and not that it has ended.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        client.close()


def _answer(server: socket.socket, client: socket.socket, answers: threading.Event) -> None:
    with suppress(OSError):
        while (data := server.recv(65536)) and answers.is_set():
            client.sendall(data)
