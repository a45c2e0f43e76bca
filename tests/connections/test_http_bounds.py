"""What a connection may cost a server that runs in a process of its own, byte by byte."""

import json
from collections.abc import Iterator
from contextlib import suppress

import pytest
from raw_http import answer_on, assert_refused, connected, is_closed
from servers import APP, ENDPOINT, RunningServer, request_of, start_server

LIVE = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n"
POST = f"POST /run/{ENDPOINT} HTTP/1.1\r\nhost: localhost\r\n".encode()
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
LIMIT = 64 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(tmp_path_factory.mktemp("bounds"))
    yield running
    assert running.end() == 0


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that waits for nobody."""
    running = start_server(
        tmp_path_factory.mktemp("hasty"), COSMOS_READ_TIMEOUT="0.5", COSMOS_KEEP_ALIVE="3600"
    )
    yield running
    assert running.end() == 0


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET /" + b"a" * LIMIT + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", id="path"),
        pytest.param(LIVE + b"x: " + b"a" * LIMIT + b"\r\n\r\n", id="one header"),
        pytest.param(LIVE + b"x: abcdefgh\r\n" * (LIMIT // 8) + b"\r\n", id="many headers"),
        pytest.param(b"GET /" + b"a" * LIMIT, id="a path without end"),
        pytest.param(LIVE + b"a" * LIMIT, id="a header's name without end"),
        pytest.param(LIVE + b"x: " + b"a" * LIMIT, id="a header's value without end"),
        pytest.param(LIVE + b"x: a\r\n" * (LIMIT // 4), id="headers without end"),
        pytest.param(CHUNKED + b"1\r\nx\r\n0\r\n" + b"x: a\r\n" * LIMIT, id="trailers"),
        pytest.param(CHUNKED + b"1;" + b"a" * 6 * LIMIT, id="a chunk's extension"),
    ],
)
def test_more_than_fits_into_a_head_is_refused(server: RunningServer, sent: bytes) -> None:
    with connected(server.http) as connection:
        connection.sendall(sent)

        assert_refused(answer_on(connection), 431, "65,536 bytes")
        assert is_closed(connection)


def test_a_head_that_fits_is_answered(server: RunningServer) -> None:
    with connected(server.http) as connection:
        connection.sendall(LIVE + b"x: " + b"a" * (LIMIT - 1000) + b"\r\n\r\n")
        assert answer_on(connection).status == 200
        # Every request of a connection has as much.
        connection.sendall(LIVE + b"x: " + b"a" * (LIMIT - 1000) + b"\r\n\r\n")
        assert answer_on(connection).status == 200


def test_a_body_in_tiny_chunks_is_no_head(server: RunningServer) -> None:
    body = json.dumps(request_of("x" * 20_000)).encode()
    with connected(server.http) as connection:
        connection.sendall(CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in body))
        connection.sendall(b"0\r\n\r\n")

        assert answer_on(connection, "POST").status == 200


def test_what_follows_a_body_does_not_count_as_headers(server: RunningServer) -> None:
    """A proxy looks at the headers, and may let trailers pass."""
    with connected(server.http) as connection:
        connection.sendall(CHUNKED + b"2\r\n{}\r\n0\r\nx-forwarded-for: 10.0.0.1\r\n\r\n")

        # As a header it would be refused with 403.
        assert answer_on(connection, "POST").status == 422


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"BREW / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: localhost\r\n\r\n",
        LIVE + b"a b: c\r\n\r\n",
        LIVE + b"a: \0\r\n\r\n",
        POST + b"content-length: -1\r\n\r\n",
        POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
        POST + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        CHUNKED + b"many\r\n",
    ],
)
def test_what_is_not_http_is_refused_in_our_form(server: RunningServer, sent: bytes) -> None:
    with connected(server.http) as connection:
        connection.sendall(sent)

        assert_refused(answer_on(connection), 400, "not proper HTTP")
        assert is_closed(connection)


def test_bytes_that_are_no_request_do_not_get_into_another_ones_answer(
    server: RunningServer,
) -> None:
    body = json.dumps(request_of("sleep 0.05")).encode()
    stream = POST.replace(b" HTTP", b"/stream HTTP")
    with connected(server.http) as connection:
        connection.sendall(stream + b"content-length: %d\r\n\r\n" % len(body) + body)
        heard = connection.recv(65536)
        connection.sendall(b"no request at all\r\n\r\n")
        while piece := connection.recv(65536):
            heard += piece

    assert heard.startswith(b"HTTP/1.1 200") and heard.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("half", [LIVE, b"G", b"\r\n"])
def test_a_head_that_does_not_end_in_time_is_given_up(hasty: RunningServer, half: bytes) -> None:
    with connected(hasty.http) as connection:
        connection.sendall(half)

        assert_refused(answer_on(connection), 408, "0.5 seconds")
        assert is_closed(connection)


def test_dripping_bytes_win_no_time(hasty: RunningServer) -> None:
    heard = b""
    with connected(hasty.http) as connection:
        connection.sendall(LIVE)
        connection.settimeout(0.02)
        while not heard:
            connection.sendall(b"x: y\r\n")
            with suppress(TimeoutError):
                heard = connection.recv(65536)

    assert heard.startswith(b"HTTP/1.1 408")


def test_a_connection_that_asks_nothing_is_closed(hasty: RunningServer) -> None:
    with connected(hasty.http) as connection:
        assert is_closed(connection)


def test_a_body_that_does_not_come_is_given_up(hasty: RunningServer) -> None:
    with connected(hasty.http) as connection:
        connection.sendall(POST + b"content-length: 100\r\n\r\n{")

        answer = answer_on(connection, "POST")
        assert (answer.status, answer.json()["error_type"]) == (408, "bad_request")
        assert is_closed(connection)


def test_so_is_a_file_that_does_not_come(hasty: RunningServer) -> None:
    with connected(hasty.http) as connection:
        head = "POST /files/upload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n"
        connection.sendall(head.encode() + b"half")

        assert answer_on(connection, "POST").status == 408


@pytest.mark.parametrize("more", [b"", b"x"])
def test_the_body_of_a_request_that_was_answered_is_not_waited_for(
    hasty: RunningServer, more: bytes
) -> None:
    with connected(hasty.http) as connection:
        connection.sendall(
            b"POST /nothing HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n"
        )
        assert answer_on(connection, "POST").status == 404

        connection.sendall(more)

        assert is_closed(connection)


def test_a_caller_who_waits_for_a_video_has_all_the_time(hasty: RunningServer) -> None:
    body = json.dumps(request_of("sleep 0.3")).encode()
    with connected(hasty.http) as connection:
        connection.sendall(POST + b"content-length: %d\r\n\r\n" % len(body) + body)

        assert answer_on(connection, "POST").status == 200


def test_a_websocket_is_refused_whatever_is_installed(server: RunningServer) -> None:
    upgrade = (
        f"GET /{APP}/image-to-video/realtime HTTP/1.1\r\nhost: localhost\r\nupgrade: WebSocket\r\n"
        "connection: Upgrade\r\nsec-websocket-version: 13\r\n"
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with connected(server.http) as connection:
        connection.sendall(upgrade.encode())

        assert_refused(answer_on(connection), 403, "WebSocket")
        assert is_closed(connection)


def test_a_request_that_offers_http_2_is_answered_in_http_1(server: RunningServer) -> None:
    """curl's --http2 does, also with a body."""
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
    with connected(server.http) as connection:
        connection.sendall(POST + offer + b"content-length: 2\r\n\r\n{}")

        answer = answer_on(connection, "POST")
        assert (answer.status, answer.headers["connection"]) == (422, "close")
        assert is_closed(connection)


def test_a_server_with_unfinished_requests_ends(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = start_server(tmp_path_factory.mktemp("ending"))
    with connected(server.http) as idle, connected(server.http) as half:
        half.sendall(LIVE)

        assert server.end() == 0
        assert is_closed(idle)
        assert is_closed(half)
