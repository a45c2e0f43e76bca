"""Sending something to a URL that a stranger gave: vetted like a fetch, and nothing comes back."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from http_sites import LOOPBACK, NAME, NO_ROOTS, Site, answer, fetcher, redirect, resolving, running

from server.outbound.errors import FetchFailed, FetchRefused, HostRefused
from server.outbound.fetch import Fetcher
from server.tasks import FairSemaphore


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async for running_site in running(Site(), None):
        yield running_site


async def post(sender: Fetcher, url: str, deadline_s: float = 30.0) -> int:
    return await sender.post(url, b'{"a":1}', {"X-Test": "yes"}, deadline_s=deadline_s)


async def test_the_body_arrives_as_it_is_with_the_headers(site: Site) -> None:
    site.answers["/hook?a=b%26c"] = answer(status="204 No Content")

    status = await post(fetcher(["127.0.0.1"]), site.url("/hook?a=b%26c#top", NAME))

    assert status == 204
    assert site.bodies == [b'{"a":1}']
    first, *headers = site.requests[0].strip().split("\r\n")
    assert first == "POST /hook?a=b%26c HTTP/1.1"
    assert {"X-Test: yes", f"Host: {NAME}:{site.port}", "Content-Length: 7"} <= set(headers)


@pytest.mark.parametrize("status", [200, 299, 302, 404, 500, 503])
async def test_whatever_the_status_is_it_is_told(site: Site, status: int) -> None:
    site.answers["/"] = answer(status=f"{status} x")

    assert await post(fetcher(), site.url()) == status


async def test_a_redirect_is_not_followed(site: Site) -> None:
    site.answers["/"] = redirect("/b", "307 x")
    site.answers["/b"] = answer()

    assert await post(fetcher(), site.url()) == 307
    assert len(site.requests) == 1


async def test_the_answers_body_is_not_waited_for(site: Site) -> None:
    async def never_ends(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nno more")
        await writer.drain()
        await asyncio.sleep(3600)

    site.answers["/"] = never_ends

    assert await post(fetcher(), site.url()) == 200


async def test_a_receiver_that_is_silent_is_left_at_the_deadline(site: Site) -> None:
    async def hangs(_writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600)

    site.answers["/"] = hangs

    with pytest.raises(FetchFailed, match=r"within 0\.05 seconds"):
        await post(fetcher(), site.url(), deadline_s=0.05)


async def test_a_receiver_that_is_not_there_is_a_failure() -> None:
    with pytest.raises(FetchFailed, match="cannot be reached"):
        await post(fetcher(["127.0.0.99"]), f"http://{NAME}:9/")


@pytest.mark.parametrize("answers", [["10.0.0.1"], ["8.8.8.8", "127.0.0.1"], []])
async def test_a_host_that_is_not_public_is_refused(site: Site, answers: Sequence[str]) -> None:
    public_only = Fetcher(ssl_context=NO_ROOTS, resolve=resolving(answers))

    with pytest.raises(HostRefused, match="COSMOS_FETCH_ALLOW_NETS"):
        await post(public_only, site.url("/", NAME))
    assert site.requests == []


async def no_look_up(_host: str, _port: int) -> Sequence[str]:
    raise AssertionError("a name was looked up")


@pytest.mark.parametrize("host", [NAME, "db", "nowhere.invalid", "8.8.8.8", "[2001:4860::1]"])
def test_the_check_passes_every_name_without_a_look_up(host: str) -> None:
    """So it does not tell which names there are in a private network."""
    public_only = Fetcher(ssl_context=NO_ROOTS, resolve=no_look_up)

    assert public_only.check(f"https://{host}/hook#top") == f"https://{host}/hook"


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "0x7f.1", "2130706433", "[::1]", "localhost", "LOCALHOST.", "a" * 64]
)
def test_the_check_refuses_addresses_that_are_not_public(host: str) -> None:
    public_only = Fetcher(ssl_context=NO_ROOTS, resolve=no_look_up)

    with pytest.raises(HostRefused):
        public_only.check(f"https://{host}/")


async def test_look_ups_that_hang_leave_room_for_those_of_other_keys() -> None:
    asked: list[str] = []
    hang = asyncio.Event()

    async def resolve(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        await hang.wait()
        return []

    sender = Fetcher(ssl_context=NO_ROOTS, resolve=resolve, lookups=FairSemaphore(3))
    for number in range(4):
        # The look-up goes on when its request was given up.
        with pytest.raises(FetchFailed):
            await sender.post(f"http://{number}.example/", b"", {}, deadline_s=0.02, key_id="mine")
    yours = asyncio.create_task(sender.vetted("yours.example", 80, "yours"))
    while "yours.example" not in asked:
        await asyncio.sleep(0.005)

    assert asked == ["0.example", "1.example", "yours.example"]
    hang.set()
    with pytest.raises(HostRefused):
        await yours
    with pytest.raises(HostRefused):
        await sender.vetted("again.example", 80, "mine")


@pytest.mark.parametrize("url", ["", "ftp://a.b/", "http://a:b@c.d/", "http://", "http://a.b:0/"])
async def test_a_url_of_another_kind_is_refused_without_a_look_up(url: str) -> None:
    sender = Fetcher(ssl_context=NO_ROOTS, allow_nets=LOOPBACK, resolve=no_look_up)

    with pytest.raises(FetchRefused):
        sender.check(url)
    with pytest.raises(FetchRefused):
        await post(sender, url)
