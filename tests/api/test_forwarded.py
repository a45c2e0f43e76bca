"""How a request came, and whose word counts for it."""

from ipaddress import ip_network
from typing import Any

import pytest
from starlette.datastructures import Headers

from server.api.forwarded import PublicOrigin, client_of, forwarded_header, origin_of_request
from server.errors import BadRequest

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("::1"))
PROXY = ("10.1.2.3", 4711)
TOLD: Any = {
    "x_forwarded_proto": "https",
    "x_forwarded_host": "videos.example",
    "x_forwarded_prefix": "/cosmos",
}


def scope(client: tuple[str, int] | None = PROXY, **headers: str) -> dict[str, Any]:
    """A request with a Host and these headers, each with _ for - in its name."""
    named = {"host": "backend:8000"} | headers
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]
    return {"type": "http", "scheme": "http", "client": client, "headers": raw}


def test_a_trusted_proxy_says_how_the_request_came() -> None:
    assert origin_of_request(scope(**TOLD), TRUSTED).base_url == "https://videos.example/cosmos"


def test_what_the_proxy_does_not_say_is_as_it_came() -> None:
    arrival = origin_of_request(scope(x_forwarded_proto="https"), TRUSTED)

    assert arrival == PublicOrigin("https", "backend:8000")


@pytest.mark.parametrize("client", [("11.0.0.1", 1), ("::2", 1), ("10.1.2.3x", 1), None])
def test_nobody_else_is_believed(client: tuple[str, int] | None) -> None:
    given = scope(client, **TOLD, x_forwarded_for="203.0.113.9")

    assert origin_of_request(given, TRUSTED) == PublicOrigin("http", "backend:8000")
    assert client_of(given, TRUSTED) == client


def test_by_default_nobody_is_believed() -> None:
    assert origin_of_request(scope(("127.0.0.1", 1), **TOLD), ()) == PublicOrigin(
        "http", "backend:8000"
    )


def test_of_several_values_the_last_counts() -> None:
    """The caller may have written the others."""
    given = scope(
        x_forwarded_proto="http,https",
        x_forwarded_host="evil.example, videos.example",
        x_forwarded_prefix="/evil, /cosmos/",
    )
    given["headers"].append((b"x-forwarded-host", b"other.example"))

    assert origin_of_request(given, TRUSTED).base_url == "https://other.example/cosmos"


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ({"x_forwarded_proto": "ftp"}, "X-Forwarded-Proto is 'ftp'"),
        ({"x_forwarded_proto": ""}, "X-Forwarded-Proto is ''"),
        ({"x_forwarded_host": "a/b"}, "'a/b' is not a host's name"),
        ({"x_forwarded_host": ""}, "'' is not a host's name"),
        ({"x_forwarded_prefix": "cosmos"}, "X-Forwarded-Prefix is 'cosmos'"),
        ({"x_forwarded_prefix": "//evil.example"}, "X-Forwarded-Prefix is '//evil.example'"),
        ({"x_forwarded_prefix": "/a/../b"}, "X-Forwarded-Prefix is '/a/../b'"),
        ({"x_forwarded_prefix": "/.."}, "X-Forwarded-Prefix is '/..'"),
        ({"x_forwarded_prefix": '/a"<'}, "X-Forwarded-Prefix"),
        ({"x_forwarded_prefix": "/a?b#c"}, "X-Forwarded-Prefix"),
        ({"host": ""}, "The Host header '' is not a host's name"),
        ({"host": "x" * 1000}, "x…'"),
    ],
)
def test_what_cannot_be_is_refused(headers: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRequest) as refused:
        origin_of_request(scope(**headers), TRUSTED)

    assert sentence in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("hosts", [[], [b"localhost", b"localhost"]])
def test_no_host_is_as_bad_as_two(hosts: list[bytes]) -> None:
    given = scope() | {"headers": [(b"host", host) for host in hosts]}

    with pytest.raises(BadRequest):
        origin_of_request(given, ())


@pytest.mark.parametrize(
    ("scheme", "host", "base_url"),
    [
        ("http", "LocalHost:80", "http://localhost"),
        ("https", "localhost.:443", "https://localhost"),
        ("https", "localhost:80", "https://localhost:80"),
        ("http", "[::1]:8000", "http://[::1]:8000"),
        ("http", "[::1]", "http://[::1]"),
    ],
)
def test_a_host_is_written_in_one_way(scheme: str, host: str, base_url: str) -> None:
    assert origin_of_request(scope(host=host) | {"scheme": scheme}, ()).base_url == base_url


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Videos.example:443/cosmos", "https://videos.example"),
        ("http://videos.example:8080", "http://videos.example:8080"),
    ],
)
def test_the_origin_of_a_url_is_as_browsers_write_it(url: str, origin: str) -> None:
    assert PublicOrigin.from_url(url).origin == origin


@pytest.mark.parametrize(
    ("client", "forwarded_for", "found"),
    [
        (PROXY, "203.0.113.9", "203.0.113.9"),
        (PROXY, "192.0.2.1, 203.0.113.9, 10.9.9.9", "203.0.113.9"),
        (PROXY, "192.0.2.1, nonsense", "10.1.2.3"),
        (PROXY, "nonsense, 10.9.9.9", "10.9.9.9"),
        (PROXY, "", "10.1.2.3"),
        (PROXY, "10.7.7.7", "10.7.7.7"),
        (("::ffff:10.1.2.3", 1), "2001:db8::9", "2001:db8::9"),
        (("203.0.113.1", 1), "192.0.2.1", "203.0.113.1"),
    ],
)
def test_the_caller_is_the_last_who_is_no_proxy(
    client: tuple[str, int], forwarded_for: str, found: str
) -> None:
    address = client_of(scope(client, x_forwarded_for=forwarded_for), TRUSTED)

    assert address is not None
    assert address[0] == found


@pytest.mark.parametrize(
    "name",
    [
        *("Forwarded", "Via", "CDN-Loop", "X-Forwarded", "X-Forwarded-For", "x-forwarded-host"),
        *("X-Forwarded-Port", "X-Original-Forwarded-For", "X-Real-IP", "X-Client-IP", "Client-IP"),
        *("True-Client-IP", "X-Cluster-Client-IP", "Fastly-Client-IP", "Fly-Client-IP"),
        *("CF-Connecting-IP", "CF-Connecting-IPv6", "X-Azure-ClientIP", "X-Azure-SocketIP"),
        *("X-Appengine-User-IP", "X-ProxyUser-Ip", "WL-Proxy-Client-IP", "X-Remote-Addr"),
        *("X-Envoy-External-Address", "CloudFront-Viewer-Address"),
    ],
)
def test_headers_that_a_proxy_adds_are_found(name: str) -> None:
    assert forwarded_header(Headers({"accept": "*/*", name: "x"})) == name.lower()


@pytest.mark.parametrize("name", ["x-fal-target-url", "x-fal-client-proxy", "zip", "x-trip"])
def test_other_headers_are_no_proxy_s(name: str) -> None:
    assert forwarded_header(Headers({"host": "a", name: "x"})) is None
