import asyncio
import gzip
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from http_sites import (
    LOOPBACK,
    NAME,
    Script,
    Site,
    answer,
    fetch,
    fetcher,
    redirect,
    resolving,
    running,
)

from server.outbound.errors import FetchFailed, FetchRefused, FetchTooLarge
from server.outbound.fetch import FETCH_TRIES, Fetcher, trusted_roots


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async for running_site in running(Site(), None):
        yield running_site


async def test_a_file_is_fetched_by_its_path_and_query(site: Site) -> None:
    site.answers["/a.png?size=2"] = answer(b"picture", "Content-Type: image/png")

    fetched = await fetch(fetcher(), site.url("/a.png?size=2#top"), max_bytes=100)

    assert fetched == b"picture"


async def test_a_request_says_who_asks_and_nothing_more(site: Site) -> None:
    site.answers["/a.png"] = answer()

    await fetch(fetcher(["127.0.0.1"]), site.url("/a.png#secret", NAME), max_bytes=100)

    first, *headers = site.requests[0].strip().split("\r\n")
    assert first == "GET /a.png HTTP/1.1"
    names = {line.partition(":")[0].lower() for line in headers}
    assert names == {"host", "user-agent", "accept", "accept-encoding", "connection"}
    assert f"Host: {NAME}:{site.port}" in headers
    assert "Accept-Encoding: identity" in headers
    assert any(line.startswith("User-Agent: cosmos-serve/0.") for line in headers)


async def test_cookies_are_not_kept_between_redirects(site: Site) -> None:
    site.answers["/"] = answer(b"", "Location: /a", "Set-Cookie: id=1", status="302 Found")
    site.answers["/a"] = answer()

    await fetch(fetcher(), site.url(), max_bytes=100)

    assert "cookie" not in site.requests[1].lower()


async def test_proxies_of_the_environment_are_ignored(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.answers["/"] = answer()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert await fetch(fetcher(), site.url(), max_bytes=100) == b"picture"


async def test_the_address_that_was_vetted_is_the_one_connected_to(site: Site) -> None:
    site.answers["/"] = answer()
    changing = fetcher(["127.0.0.1"], ["10.0.0.1"])

    assert await fetch(changing, site.url("/", NAME), max_bytes=100) == b"picture"


async def test_a_redirect_to_a_name_that_is_now_private_is_refused(
    site: Site,
) -> None:
    site.answers["/"] = redirect("/again")
    changing = fetcher(["127.0.0.1"], ["10.0.0.1"])

    with pytest.raises(FetchRefused):
        await fetch(changing, site.url("/", NAME), max_bytes=100)
    assert len(site.requests) == 1


async def test_the_next_address_is_tried_when_one_does_not_answer(site: Site) -> None:
    site.answers["/"] = answer()

    fetched = await fetch(fetcher(["127.0.0.99", "127.0.0.1"]), site.url("/", NAME), max_bytes=100)

    assert fetched == b"picture"


async def test_a_server_that_is_not_there_is_a_failure_and_not_a_refusal(site: Site) -> None:
    with pytest.raises(FetchFailed, match="cannot be reached"):
        await fetch(fetcher(["127.0.0.99"]), site.url("/", NAME), max_bytes=100)


@pytest.mark.parametrize("status", ["301 x", "302 x", "303 x", "307 x", "308 x"])
async def test_redirects_are_followed(site: Site, status: str) -> None:
    site.answers["/"] = redirect("b/c?d=1#e", status)
    site.answers["/b/c?d=1"] = answer(b"the file")

    assert await fetch(fetcher(), site.url(), max_bytes=100) == b"the file"


async def test_five_redirects_are_followed_and_a_sixth_is_not(site: Site) -> None:
    for hop in range(6):
        site.answers[f"/{hop}"] = redirect(f"/{hop + 1}")
    site.answers["/6"] = answer()

    assert await fetch(fetcher(), site.url("/1"), max_bytes=100) == b"picture"
    with pytest.raises(FetchFailed, match="5 redirects"):
        await fetch(fetcher(), site.url("/0"), max_bytes=100)


async def test_a_redirect_to_itself_ends(site: Site) -> None:
    site.answers["/"] = redirect("/")

    with pytest.raises(FetchFailed, match="redirects"):
        await fetch(fetcher(), site.url(), max_bytes=100)
    assert len(site.requests) == 6


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "//192.168.0.1/",
        "file:///etc/passwd",
        "http://user:password@127.0.0.1/",
        "http://[::1",
    ],
)
async def test_a_redirect_is_vetted_like_the_first_url(site: Site, location: str) -> None:
    site.answers["/"] = redirect(location)

    with pytest.raises(FetchRefused):
        await fetch(fetcher(), site.url(), max_bytes=100)


@pytest.mark.parametrize(
    ("status", "reason"),
    [("302 Found", "without saying where")]
    + [(f"{status} x", str(status)) for status in (204, 206, 304, 401, 404, 500)],
)
async def test_a_status_without_a_file_is_a_failure_that_says_why(
    site: Site, status: str, reason: str
) -> None:
    site.answers["/"] = answer(b"", status=status)

    with pytest.raises(FetchFailed, match=reason):
        await fetch(fetcher(), site.url(), max_bytes=100)


async def test_a_file_of_the_largest_size_is_accepted(site: Site) -> None:
    site.answers["/"] = answer(bytes(100))

    assert len(await fetch(fetcher(), site.url(), max_bytes=100)) == 100


async def test_a_declared_size_over_the_limit_is_refused_before_the_body(site: Site) -> None:
    # The body never comes: waiting for it would end at the deadline, as another error.
    site.answers["/"] = b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n"

    with pytest.raises(FetchTooLarge, match="100 bytes"):
        await fetch(fetcher(), site.url(), max_bytes=100)


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"3e8\r\n" + bytes(1000) + b"\r\n")
        await writer.drain()


async def test_a_body_without_end_is_cut_at_the_limit(site: Site) -> None:
    site.answers["/"] = endless

    with pytest.raises(FetchTooLarge):
        await fetch(fetcher(), site.url(), max_bytes=1_000_000)


async def silent(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def dripping_header(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Drip: 1\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def dripping_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def always_early(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("script", [silent, dripping_header, dripping_body, always_early])
async def test_a_server_that_never_finishes_is_left_at_the_deadline(
    site: Site, script: Script
) -> None:
    site.answers["/"] = script

    with pytest.raises(FetchFailed, match=r"within 0\.3 seconds"):
        await fetch(fetcher(), site.url(), max_bytes=2_000_000, deadline_s=0.3)


async def test_the_deadline_covers_the_look_up_of_the_name() -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(FetchFailed, match="within"):
        await fetch(Fetcher(resolve=resolve), f"http://{NAME}/", max_bytes=100, deadline_s=0.1)


async def test_a_compressed_answer_is_refused_and_never_expanded(site: Site) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    site.answers["/"] = answer(bomb, "Content-Encoding: gzip")

    with pytest.raises(FetchFailed, match="compresses"):
        await fetch(fetcher(), site.url(), max_bytes=100_000)


@pytest.mark.parametrize("label", ["", "Identity", "aws-chunked", "aws-chunked,", "UTF-8", "none"])
async def test_a_content_encoding_that_changes_no_byte_is_only_a_label(
    site: Site, label: str
) -> None:
    site.answers["/"] = answer(b"picture", f"Content-Encoding: {label}")

    assert await fetch(fetcher(), site.url(), max_bytes=100) == b"picture"


@pytest.mark.parametrize("label", ["gzip", "aws-chunked,gzip", "X-GZIP", "br", "zstd"])
async def test_a_content_encoding_that_changes_bytes_is_refused(site: Site, label: str) -> None:
    site.answers["/"] = answer(b"picture", f"Content-Encoding: {label}")

    with pytest.raises(FetchFailed, match="compresses"):
        await fetch(fetcher(), site.url(), max_bytes=100)


@pytest.mark.parametrize("extension", ["", ";chunk-signature=" + 64 * "0"])
async def test_a_file_in_the_frames_of_aws_chunked_is_refused(site: Site, extension: str) -> None:
    framed = f"7{extension}\r\npicture\r\n0{extension}\r\n\r\n".encode()
    site.answers["/"] = answer(framed, "Content-Encoding: aws-chunked")

    with pytest.raises(FetchFailed, match="in the frames of aws-chunked"):
        await fetch(fetcher(), site.url(), max_bytes=1000)


def in_turn(*answers: bytes) -> Script:
    """One answer after the other; nothing at all is a connection that breaks."""
    left = list(answers)

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0))
        await writer.drain()

    return write


@pytest.mark.parametrize(
    "first",
    [
        answer(b"", status="429 Too Many Requests"),
        answer(b"", "Retry-After: 0", status="503 Service Unavailable"),
        answer(b"", "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT", status="503 Service Unavailable"),
        answer(b"", "Retry-After: soon", status="502 Bad Gateway"),
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
    ],
    ids=["429", "503", "a date", "502", "dropped", "broken off"],
)
async def test_a_host_that_is_unavailable_once_is_asked_again(site: Site, first: bytes) -> None:
    site.answers["/"] = in_turn(first, answer(b"picture"))

    assert await fetch(fetcher(), site.url(), max_bytes=100) == b"picture"
    assert len(site.requests) == 2


async def test_a_host_that_stays_unavailable_is_given_up(site: Site) -> None:
    site.answers["/"] = answer(b"", status="503 Service Unavailable")

    with pytest.raises(FetchFailed, match="status 503"):
        await fetch(fetcher(), site.url(), max_bytes=100)
    assert len(site.requests) == FETCH_TRIES


@pytest.mark.parametrize(
    ("status", "header"),
    [("503 Service Unavailable", "Retry-After: 31"), ("404 Not Found", "Retry-After: 0")],
)
async def test_a_host_is_not_asked_again_too_late_nor_for_what_it_does_not_have(
    site: Site, status: str, header: str
) -> None:
    site.answers["/"] = answer(b"", header, status=status)

    with pytest.raises(FetchFailed, match=f"status {status[:3]}"):
        await fetch(fetcher(), site.url(), max_bytes=100)
    assert len(site.requests) == 1


async def test_a_request_can_say_whom_to_ask(site: Site) -> None:
    site.answers["/"] = answer()

    await fetch(fetcher(contact="admin@example.com"), site.url(), max_bytes=100)

    assert re.search(
        r"^User-Agent: cosmos-serve/\S+ \(admin@example\.com\)\r$", site.requests[0], re.MULTILINE
    )


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000,
    ],
)
async def test_an_answer_that_is_broken_is_a_failure(site: Site, sent: bytes) -> None:
    site.answers["/"] = sent

    with pytest.raises(FetchFailed):
        await fetch(fetcher(), site.url(), max_bytes=100)


@dataclass
class SecureSite:
    site: Site
    authority: trustme.CA
    trust: ssl.SSLContext
    names_asked_for: list[str | None]


@pytest.fixture
async def secure() -> AsyncIterator[SecureSite]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(context)
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    async for site in running(Site(answers={"/": answer()}), context):
        yield SecureSite(site, authority, trust, asked)


async def test_tls_is_checked_against_the_name_and_not_the_address(secure: SecureSite) -> None:
    url = secure.site.url("/", NAME, "https")

    fetched = await fetch(fetcher(["127.0.0.1"], ssl_context=secure.trust), url, max_bytes=100)

    assert fetched == b"picture"
    assert secure.names_asked_for == [NAME]


async def test_a_certificate_for_another_name_is_a_failure(secure: SecureSite) -> None:
    url = secure.site.url("/", "other.example", "https")

    with pytest.raises(FetchFailed):
        await fetch(fetcher(["127.0.0.1"], ssl_context=secure.trust), url, max_bytes=100)
    assert secure.site.requests == []


async def test_a_certificate_of_an_unknown_authority_is_a_failure(secure: SecureSite) -> None:
    url = secure.site.url("/", NAME, "https")

    with pytest.raises(FetchFailed):
        await fetch(
            Fetcher(allow_nets=LOOPBACK, resolve=resolving(["127.0.0.1"])), url, max_bytes=100
        )


def test_the_public_roots_are_trusted() -> None:
    assert trusted_roots().get_ca_certs()


async def test_an_authority_that_the_operating_system_was_given_is_trusted(
    secure: SecureSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "authorities.pem"
    secure.authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    url = secure.site.url("/", NAME, "https")
    # Without the cache: they are read once for a process.
    roots = trusted_roots.__wrapped__()

    fetched = await fetch(fetcher(["127.0.0.1"], ssl_context=roots), url, max_bytes=100)

    assert fetched == b"picture"
