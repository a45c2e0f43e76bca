"""Which service each host and path leads to, and how URLs are written."""

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.fal.urls import FAL_HOSTS, Address, Service, is_fal_host, resolve, url_for

ENDPOINT = "/fal-ai/cosmos-predict-2.5/image-to-video"
STATUS = "/fal-ai/cosmos-predict-2.5/requests/an-id/status"
OPENAPI = "/api/openapi/queue/openapi.json"
JWKS = "/.well-known/jwks.json"


@pytest.mark.parametrize(
    ("host", "raw_path", "service", "path"),
    [
        ("fal.run", ENDPOINT, Service.RUN, ENDPOINT),
        ("fal.run:8443", ENDPOINT, Service.RUN, ENDPOINT),
        ("FAL.run.", ENDPOINT + "/stream", Service.RUN, ENDPOINT + "/stream"),
        ("falrun.com", ENDPOINT, Service.RUN, ENDPOINT),
        ("ws.fal.run", ENDPOINT, Service.RUN, ENDPOINT),
        ("queue.fal.run", ENDPOINT, Service.QUEUE, ENDPOINT),
        ("queue.fal.run.:443", STATUS, Service.QUEUE, STATUS),
        ("queue.falrun.com", STATUS + "/", Service.QUEUE, STATUS),
        ("rest.fal.ai", "/tokens/", Service.REST, "/tokens"),
        ("rest.fal.ai", JWKS, Service.REST, JWKS),
        ("rest.alpha.fal.ai", "/storage/auth/token", Service.REST, "/storage/auth/token"),
        ("v3.fal.media", "/files/upload", Service.FILES, "/upload"),
        ("v3b.fal.media:443", "/files/an-id/a.mp4", Service.FILES, "/an-id/a.mp4"),
        ("fal.ai", OPENAPI, Service.DISCOVERY, OPENAPI),
        ("api.fal.ai", "/v1/models/pricing", Service.V1, "/models/pricing"),
        ("fal.run", "/health/live", Service.HEALTH, "/live"),
        ("v3.fal.media", "/health/live", Service.HEALTH, "/live"),
        # On fal's hosts a path has no prefix, so this is an unknown endpoint.
        ("fal.run", "/queue" + ENDPOINT, Service.RUN, "/queue" + ENDPOINT),
        ("fal.run", "/api/fal/proxy", Service.RUN, "/api/fal/proxy"),
    ],
)
def test_a_host_of_fal_selects_the_service(
    host: str, raw_path: str, service: Service, path: str
) -> None:
    assert resolve(host, raw_path) == Address(service, path)


@pytest.mark.parametrize(
    ("host", "raw_path", "service", "path"),
    [
        ("localhost:8000", ENDPOINT, Service.RUN, ENDPOINT),
        ("localhost:8000", ENDPOINT + "/", Service.RUN, ENDPOINT),
        ("localhost:8000", "/%66" + ENDPOINT[2:], Service.RUN, ENDPOINT),
        ("localhost:8000", "/run" + ENDPOINT, Service.RUN, ENDPOINT),
        ("localhost:8000", "/queue" + ENDPOINT, Service.QUEUE, ENDPOINT),
        ("[::1]:8000", "/queue" + STATUS, Service.QUEUE, STATUS),
        ("localhost", "/queue" + STATUS + "/", Service.QUEUE, STATUS),
        ("localhost", "/rest/tokens/", Service.REST, "/tokens"),
        ("localhost", "/rest" + JWKS, Service.REST, JWKS),
        ("localhost", JWKS, Service.REST, JWKS),
        ("localhost", "/files/an-id/my%20video.mp4", Service.FILES, "/an-id/my video.mp4"),
        ("localhost", "/health/ready", Service.HEALTH, "/ready"),
        ("localhost", "/admin/queue/pause", Service.ADMIN, "/queue/pause"),
        ("localhost", "/v1/keys/an-id", Service.V1, "/keys/an-id"),
        ("localhost", "/queue", Service.QUEUE, "/"),
        ("localhost", "/v1/videos", Service.VIDEOS, "/"),
        ("queue.localhost", "/v1/videos/an-id/content/", Service.VIDEOS, "/an-id/content"),
        ("localhost", OPENAPI, Service.DISCOVERY, OPENAPI),
        ("localhost", "/openapi.json", Service.DISCOVERY, "/openapi.json"),
        ("localhost", "/docs/", Service.DISCOVERY, "/docs"),
        ("localhost", "/", Service.DISCOVERY, "/"),
        ("localhost", "/page/main.js", Service.DISCOVERY, "/page/main.js"),
        ("localhost", "/llms.txt", Service.DISCOVERY, "/llms.txt"),
        (
            "localhost",
            f"/models{ENDPOINT}/llms.txt",
            Service.DISCOVERY,
            f"/models{ENDPOINT}/llms.txt",
        ),
        ("localhost", "/api/fal/proxy", Service.PROXY, "/"),
        ("localhost", "/api/fal/proxy/", Service.PROXY, "/"),
        ("evil-fal.run", "/queue" + STATUS, Service.QUEUE, STATUS),
        ("queue.localhost:8443", ENDPOINT, Service.QUEUE, ENDPOINT),
        ("Queue.cosmos.example", STATUS, Service.QUEUE, STATUS),
        ("queue.cosmos.example", "/run" + ENDPOINT, Service.RUN, ENDPOINT),
        ("queue.cosmos.example", "/files/an-id/a.mp4", Service.FILES, "/an-id/a.mp4"),
    ],
)
def test_on_any_other_host_the_path_selects_it(
    host: str, raw_path: str, service: Service, path: str
) -> None:
    assert resolve(host, raw_path) == Address(service, path)


@pytest.mark.parametrize(
    ("host", "raw_path"),
    [
        ("localhost", ""),
        ("localhost", "*"),
        ("localhost", "//"),
        ("localhost", "//localhost/run" + ENDPOINT),
        ("localhost", "/run//fal-ai/x"),
        ("localhost", "/run/fal-ai/x//"),
        ("localhost", "/queue" + STATUS.replace("/requests", "//requests")),
        ("localhost", "/files/../jobs.sqlite3"),
        ("localhost", "/files/%2e%2e/jobs.sqlite3"),
        ("localhost", "/files/.%2E/jobs.sqlite3"),
        ("localhost", "/run/../queue" + ENDPOINT),
        ("localhost", "/run%2f" + ENDPOINT[1:]),
        ("localhost", "/fal-ai%2Fcosmos-predict-2.5/image-to-video"),
        ("localhost", "/files/an-id%2Fvideo.mp4"),
        ("localhost", "/files/an-id%5cvideo.mp4"),
        ("localhost", "/files\\an-id\\video.mp4"),
        ("localhost", "/files/./video.mp4"),
        ("localhost", "/files/an-id/a%00b"),
        ("localhost", "/files/an-id/a%0d%0ab"),
        ("localhost", "/files/an-id/%ff"),
        ("localhost", "/files/an-id/\u00fc"),
        ("localhost", "/files/an-id/%e2%80%ae4pm.exe"),
        ("localhost", "/RUN" + ENDPOINT),
        ("localhost", ENDPOINT.upper()),
        ("localhost", "/Queue" + STATUS),
        ("localhost", "/fal-ai"),
        ("localhost", "/fal-ai/flux/dev"),
        ("localhost", "/discovery/docs"),
        ("localhost", "/proxy"),
        ("localhost", "/api%2ffal%2fproxy"),
        ("localhost", "/administrator"),
        ("v3.fal.media", "/an-id/a.mp4"),
        ("v3.fal.media", "/upload"),
        ("api.fal.ai", "/models"),
        ("fal.run", "/"),
        ("fal.ai", "/"),
        ("localhost", ""),
        ("fal.run", "/fal-ai//cosmos-predict-2.5"),
    ],
)
def test_a_path_that_nothing_has_leads_nowhere(host: str, raw_path: str) -> None:
    assert resolve(host, raw_path) is None


@given(
    st.sampled_from([*FAL_HOSTS, "localhost:8000", "queue.localhost", "[::1]"]) | st.text(),
    st.text() | st.text("/.%2fe-runqueufilsth5cFE\\", max_size=40).map(lambda path: f"/{path}"),
)
@example("localhost", "/run/\ud800")
@example("localhost", "/files/%ed%a0%80")
def test_no_host_and_no_path_break_it(host: str, raw_path: str) -> None:
    address = resolve(host, raw_path)

    if address is not None:
        _, *segments = address.path.split("/")
        assert segments == [""] or not {"", ".", ".."} & set(segments)
        assert address.path.isprintable() and "\\" not in address.path


@given(st.lists(st.sampled_from(["fal-ai", "cosmos", "Run", "docs ", "api", "fal", "etc"])))
def test_only_the_listed_beginnings_lead_to_a_service(segments: list[str]) -> None:
    address = resolve("localhost", "/" + "/".join(map(quote, segments)))

    if address is not None:
        assert segments[:1] in ([], ["api"])


@pytest.mark.parametrize(
    ("base_url", "service", "url"),
    [
        ("http://localhost:8000", Service.QUEUE, f"http://localhost:8000/queue{ENDPOINT}"),
        ("http://[::1]:8000", Service.REST, f"http://[::1]:8000/rest{ENDPOINT}"),
        ("https://cosmos.example/v", Service.RUN, f"https://cosmos.example/v/run{ENDPOINT}"),
        ("https://cosmos.example/v", Service.DISCOVERY, f"https://cosmos.example/v{ENDPOINT}"),
        (
            "https://queue.cosmos.example",
            Service.RUN,
            f"https://queue.cosmos.example/run{ENDPOINT}",
        ),
        ("https://fal.run", Service.QUEUE, f"https://queue.fal.run{ENDPOINT}"),
        ("https://fal.run:8443", Service.QUEUE, f"https://queue.fal.run:8443{ENDPOINT}"),
        ("http://queue.fal.run", Service.RUN, f"http://fal.run{ENDPOINT}"),
        ("https://queue.fal.run", Service.FILES, f"https://v3.fal.media/files{ENDPOINT}"),
        ("https://rest.alpha.fal.ai", Service.FILES, f"https://v3.fal.media/files{ENDPOINT}"),
        ("https://v3.fal.media", Service.REST, f"https://rest.fal.ai{ENDPOINT}"),
        ("https://falrun.com", Service.QUEUE, f"https://queue.falrun.com{ENDPOINT}"),
        ("https://queue.falrun.com", Service.FILES, f"https://v3.fal.media/files{ENDPOINT}"),
        ("https://notfalrun.com", Service.QUEUE, f"https://notfalrun.com/queue{ENDPOINT}"),
        ("https://fal.run", Service.DISCOVERY, f"https://fal.ai{ENDPOINT}"),
        ("https://fal.run", Service.V1, f"https://api.fal.ai/v1{ENDPOINT}"),
        ("https://fal.run", Service.HEALTH, f"https://fal.run/health{ENDPOINT}"),
    ],
)
def test_urls_are_written_for_the_host_that_the_caller_used(
    base_url: str, service: Service, url: str
) -> None:
    assert url_for(base_url, service, ENDPOINT) == url


NAMED_BY_FAL = [
    service
    for service in Service
    if service not in (Service.PROXY, Service.DISCOVERY, Service.ADMIN, Service.VIDEOS, Service.MCP)
]
"""The services that fal has, too, and whose URLs are handed out."""


@pytest.mark.parametrize(
    "base_url", ["http://localhost:8000", *(f"https://{host}" for host in FAL_HOSTS)]
)
@pytest.mark.parametrize("service", NAMED_BY_FAL)
def test_a_url_leads_back_to_what_it_was_written_for(base_url: str, service: Service) -> None:
    path = "/an-id/gr\u00fc\u00dfe \u201cund\u201d %2F.mp4".replace("%2F", "50%")
    url = url_for(base_url, service, path)
    host, _, rest = url.removeprefix("https://").removeprefix("http://").partition("/")

    assert url.isascii()
    assert resolve(host, "/" + rest) == Address(service, path)


@pytest.mark.parametrize(
    ("base_url", "is_fal"),
    [
        ("https://queue.fal.run:8443", True),
        ("http://FALRUN.com.", True),
        ("https://xfal.run", False),
        ("https://cosmos.example/fal.run", False),
        ("http://[::1]:8000", False),
    ],
)
def test_a_base_url_is_fal_s_or_our_own(base_url: str, is_fal: bool) -> None:
    assert is_fal_host(base_url) == is_fal
