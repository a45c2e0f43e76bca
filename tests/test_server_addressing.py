"""Which service each host and path leads to, and how URLs are written."""

import pytest

from server.addressing import Address, Service, file_id, is_well_formed, resolve, url_for

ENDPOINT = "/fal-ai/cosmos-predict-2.5/image-to-video"
STATUS = "/fal-ai/cosmos-predict-2.5/requests/an-id/status"


@pytest.mark.parametrize(
    ("host", "raw_path", "service", "path"),
    [
        ("fal.run", ENDPOINT, Service.RUN, ENDPOINT),
        ("fal.run:8443", ENDPOINT, Service.RUN, ENDPOINT),
        ("FAL.run.", ENDPOINT, Service.RUN, ENDPOINT),
        ("queue.fal.run", ENDPOINT, Service.QUEUE, ENDPOINT),
        ("queue.fal.run.:443", STATUS, Service.QUEUE, STATUS),
        ("queue.fal.run", "/files/an-id/video.mp4", Service.FILES, "/an-id/video.mp4"),
        ("fal.run", "/health/live", Service.HEALTH, "/live"),
        # On fal's hosts a path has no prefix, so this one is an endpoint's, and nobody's.
        ("fal.run", "/queue" + ENDPOINT, Service.RUN, "/queue" + ENDPOINT),
        ("localhost:8000", ENDPOINT, Service.RUN, ENDPOINT),
        ("localhost:8000", "/run" + ENDPOINT, Service.RUN, ENDPOINT),
        ("localhost:8000", "/queue" + ENDPOINT, Service.QUEUE, ENDPOINT),
        ("[::1]:8000", "/queue" + STATUS, Service.QUEUE, STATUS),
        ("localhost", "/queue" + STATUS + "/", Service.QUEUE, STATUS),
        ("localhost", "/files/an-id/my%20video.mp4", Service.FILES, "/an-id/my video.mp4"),
        ("evil-fal.run", "/queue" + STATUS, Service.QUEUE, STATUS),
        ("localhost", "/RUN" + ENDPOINT, Service.RUN, "/RUN" + ENDPOINT),
        ("localhost", "/", Service.RUN, "/"),
        ("localhost", "/queue", Service.QUEUE, "/"),
    ],
)
def test_host_and_path_select_a_service(
    host: str, raw_path: str, service: Service, path: str
) -> None:
    assert resolve(host, raw_path) == Address(service, path)


@pytest.mark.parametrize(
    "raw_path",
    [
        "",
        "*",
        "//",
        "/run//fal-ai/x",
        "/run/fal-ai/x//",
        "/files/../jobs.sqlite3",
        "/files/%2e%2e/jobs.sqlite3",
        "/files/an-id%2Fvideo.mp4",
        "/files/an-id%5cvideo.mp4",
        "/files/./video.mp4",
        "/files/an-id/a%00b",
        "/files/an-id/a%0d%0ab",
        "/files/an-id/%ff",
    ],
)
def test_a_path_that_nothing_has_leads_nowhere(raw_path: str) -> None:
    assert resolve("localhost", raw_path) is None


@pytest.mark.parametrize("host", ["localhost", "fal.run:443", "[::1]:80", "192.0.2.1", "a-b.c."])
def test_hosts_that_can_be(host: str) -> None:
    assert is_well_formed(host)


@pytest.mark.parametrize("host", ["", "a b", "a/b", "me@a", "a:b", "a:123456", 'a"', "a\n", "a..b"])
def test_hosts_that_cannot_be(host: str) -> None:
    assert not is_well_formed(host)


@pytest.mark.parametrize(
    ("base_url", "service", "url"),
    [
        ("http://localhost:8000", Service.QUEUE, f"http://localhost:8000/queue{ENDPOINT}"),
        ("https://cosmos.example/v", Service.RUN, f"https://cosmos.example/v/run{ENDPOINT}"),
        ("https://fal.run", Service.QUEUE, f"https://queue.fal.run{ENDPOINT}"),
        ("https://fal.run:8443", Service.QUEUE, f"https://queue.fal.run:8443{ENDPOINT}"),
        ("https://queue.fal.run", Service.RUN, f"https://fal.run{ENDPOINT}"),
        ("https://queue.fal.run", Service.FILES, f"https://queue.fal.run/files{ENDPOINT}"),
    ],
)
def test_urls_are_written_for_the_host_that_the_caller_used(
    base_url: str, service: Service, url: str
) -> None:
    assert url_for(base_url, service, ENDPOINT) == url


@pytest.mark.parametrize("base_url", ["http://localhost:8000", "https://queue.fal.run"])
@pytest.mark.parametrize("service", list(Service))
def test_a_url_leads_back_to_what_it_was_written_for(base_url: str, service: Service) -> None:
    path = "/an-id/gr\u00fc\u00dfe \u201cund\u201d %2F.mp4".replace("%2F", "50%")
    url = url_for(base_url, service, path)
    host, _, rest = url.removeprefix("https://").removeprefix("http://").partition("/")

    assert url.isascii()
    assert resolve(host, "/" + rest) == Address(service, path)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://localhost:8000/files/an-id/video.mp4", "an-id"),
        ("http://localhost:8000/files/an-id/my%20video.mp4", "an-id"),
        ("https://localhost:8000/files/an-id/video.mp4", None),
        ("http://localhost:8001/files/an-id/video.mp4", None),
        ("http://localhost:8000.evil.example/files/an-id/video.mp4", None),
        ("http://localhost:8000/files/an-id", None),
        ("http://localhost:8000/files/../an-id/video.mp4", None),
        ("http://localhost:8000/queue/an-id/video.mp4", None),
    ],
)
def test_only_a_url_of_our_own_files_names_one(url: str, found: str | None) -> None:
    assert file_id("http://localhost:8000", url) == found
