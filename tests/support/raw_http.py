"""HTTP as bytes on a socket: what httpx would not send, and what really comes back."""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer as it came; the names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def assert_refused(answer: RawAnswer, status: int, words: str) -> None:
    """The answer is the server's own, in fal's form."""
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["connection"] == "close"
    assert len(answer.headers["x-fal-request-id"]) == 36
    assert words in answer.json()["detail"]


@contextmanager
def connected(url: str, timeout_s: float = 60.0) -> Iterator[socket.socket]:
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    with socket.create_connection((parts.hostname, parts.port), timeout_s) as connection:
        yield connection


def answer_on(connection: socket.socket, method: str = "GET") -> RawAnswer:
    """The next answer on a connection that is asked nothing else meanwhile."""
    response = HTTPResponse(connection, method=method)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return RawAnswer(response.status, headers, response.read())


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side ends the connection without another byte. Waits until it does."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def exchange(url: str, sent: bytes) -> RawAnswer | None:
    """Send bytes and wait; the first answer, None if the server ends the connection without one.

    Raises:
        http.client.HTTPException: what came back is not HTTP.
    """
    with connected(url) as connection:
        try:
            connection.sendall(sent)
            return answer_on(connection, sent.partition(b" ")[0].decode("latin-1"))
        except ConnectionError:
            return None
