from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import pytest
from http_sites import LOOPBACK, NAME, NO_ROOTS, fetch, resolving
from hypothesis import given, settings
from hypothesis import strategies as st

from server.outbound.errors import FetchError, FetchRefused
from server.outbound.fetch import Fetcher

HOSTILE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.170",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::10.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::8.8.8.8",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::1",
    "64:ff9b:1:a9fe:a9:fe00::",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "4000::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%1",
    "fe80::5efe:127.0.0.1",
    "2606:4700::5efe:127.0.0.1",
    "2606:4700::200:5efe:10.0.0.1",
    "::1%1",
    "::ffff:127.0.0.1%1",
    "fec0::1%2",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", HOSTILE)
async def test_what_is_not_public_is_refused(address: str) -> None:
    strict = Fetcher(ssl_context=NO_ROOTS, resolve=resolving([address]))

    with pytest.raises(FetchRefused):
        await fetch(strict, f"http://{NAME}/", max_bytes=100)


@pytest.mark.parametrize("address", ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert Fetcher(ssl_context=NO_ROOTS).allows(ip_address(address), NAME)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.1",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:7f00:1]",
        "[fe80::1%25lo]",
        "localhost",
        "LOCALHOST.",
        "169.254.169.254",
        "[fd00:ec2::254]",
        # Names that DNS cannot express.
        "a" * 64 + ".example",
        "a..example",
    ],
)
async def test_every_spelling_of_an_inner_address_is_refused(host: str) -> None:
    with pytest.raises(FetchRefused):
        await fetch(Fetcher(ssl_context=NO_ROOTS), f"http://{host}/", max_bytes=100)


@pytest.mark.parametrize(
    "answers", [("8.8.8.8", "10.0.0.1"), ("10.0.0.1", "8.8.8.8"), ("2606:4700::1", "::1")]
)
async def test_an_answer_of_public_and_private_addresses_is_refused_whole(
    answers: Sequence[str],
) -> None:
    with pytest.raises(FetchRefused):
        await Fetcher(ssl_context=NO_ROOTS, resolve=resolving(answers)).vetted(NAME, 443)


async def test_the_refusal_tells_nothing_about_the_private_network() -> None:
    async def unknown(_host: str, _port: int) -> Sequence[str]:
        raise OSError("Name or service not known")

    resolvers = [resolving(["10.0.0.1"]), resolving(["::1"]), resolving(["8.8.8.8", "::1"])]
    sentences = set()
    for resolve in (*resolvers, resolving([]), unknown):
        with pytest.raises(FetchRefused) as caught:
            await fetch(
                Fetcher(ssl_context=NO_ROOTS, resolve=resolve), f"http://{NAME}/", max_bytes=100
            )
        sentences.add(str(caught.value))

    assert len(sentences) == 1


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.1.2.3", True),
        ("172.16.0.1", True),
        ("192.168.0.1", True),
        ("100.64.0.1", True),
        ("fd12::1", True),
        ("8.8.8.8", True),
        ("127.0.0.1", False),
        ("::1", False),
        ("169.254.169.254", False),
        ("169.254.1.1", False),
        ("fe80::1", False),
        ("100.100.100.200", False),
        ("fd00:ec2::254", False),
        ("fd20:ce::254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::ffff:10.1.2.3", False),
        ("64:ff9b::7f00:1", False),
    ],
)
def test_an_allowed_host_may_be_private_but_not_this_machine_or_its_cloud(
    address: str, allowed: bool
) -> None:
    trusting = Fetcher(ssl_context=NO_ROOTS, allow_hosts=(NAME,))

    assert trusting.allows(ip_address(address), NAME) == allowed


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        (NAME, True),
        (NAME.upper() + ".", True),
        ("www." + NAME, False),
        ("example", False),
        (NAME + ".evil.example", False),
    ],
)
def test_an_allowed_host_is_an_exact_name(host: str, allowed: bool) -> None:
    assert (
        Fetcher(ssl_context=NO_ROOTS, allow_hosts=(NAME,)).allows(ip_address("10.1.2.3"), host)
        == allowed
    )


@pytest.mark.parametrize(
    ("network", "address", "allowed"),
    [
        ("10.1.0.0/16", "10.1.2.3", True),
        ("10.1.0.0/16", "10.2.0.1", False),
        ("0.0.0.0/0", "10.2.0.1", True),
        ("0.0.0.0/0", "127.0.0.1", False),
        ("0.0.0.0/0", "169.254.169.254", False),
        ("127.0.0.0/8", "127.0.0.1", True),
        ("127.0.0.1/32", "127.0.0.1", True),
        ("127.0.0.1/32", "127.0.0.2", False),
        ("fd00::/8", "fd12::1", True),
        ("fd00::/8", "fd00:ec2::254", False),
        ("169.254.0.0/16", "169.254.1.1", True),
        ("169.254.0.0/15", "169.254.1.1", False),
        ("169.254.0.0/16", "169.254.169.254", False),
        ("169.254.169.254/32", "169.254.169.254", True),
        ("10.0.0.0/8", "::ffff:10.0.0.1", False),
        ("::/0", "::ffff:127.0.0.1", False),
        ("0.0.0.0/0", "0.0.0.0", False),
        ("0.0.0.0/8", "0.0.0.0", True),
        ("::/0", "::", False),
        ("::/0", "::1%1", False),
        ("::/0", "::127.0.0.1", False),
        ("::/0", "64:ff9b::8.8.8.8", False),
        ("64:ff9b::/96", "64:ff9b::8.8.8.8", True),
        ("64:ff9b::/96", "64:ff9b::10.0.0.1", False),
        ("64:ff9b::/96", "64:ff9b::169.254.169.254", False),
        ("::/0", "64:ff9b:1::1", False),
        ("64:ff9b:1::/48", "64:ff9b:1::1", True),
        ("2000::/3", "2002:808:808::1", False),
        ("2002::/16", "2002:808:808::1", True),
        ("2002::/16", "2002:7f00:1::", False),
        ("2001::/16", "2001:0:4136:e378:8000:63bf:f7f7:f7f7", False),
        ("2001::/32", "2001:0:4136:e378:8000:63bf:f7f7:f7f7", True),
        ("2001::/32", "2001:0:4136:e378:8000:63bf:80ff:fffe", False),
        ("fd00::/8", "fd12::5efe:10.0.0.1", False),
        ("fd00::/8", "fd12::5efe:8.8.8.8", True),
    ],
)
def test_an_allowed_network_opens_itself_and_what_is_guarded_only_by_name(
    network: str, address: str, allowed: bool
) -> None:
    assert (
        Fetcher(ssl_context=NO_ROOTS, allow_nets=(ip_network(network),)).allows(
            ip_address(address), NAME
        )
        == allowed
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "picture.png",
        "//127.0.0.1/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "gopher://127.0.0.1:6379/_INFO",
        "unix:///var/run/docker.sock",
        "data:image/png;base64,AAAA",
        "http:///etc/passwd",
        "http://user@127.0.0.1/",
        "http://user:password@127.0.0.1/",
        "http://127.0.0.1\\@example.com/",
        "http://example.com\\.127.0.0.1/",
        "http://127.0.0.1 example.com/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:65536/",
        "http://127.0.0.1:x/",
        "http://[::1/",
        "http://127.0.0.1/\r\nHost: example.com",
        "http://\ud800/",
        "http://127.0.0.1/\ud800",
        "http://" + "a" * 300 + "/",
    ],
)
async def test_urls_of_other_kinds_are_refused_before_any_look_up(url: str) -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        raise AssertionError("looked up")

    with pytest.raises(FetchRefused):
        await fetch(
            Fetcher(ssl_context=NO_ROOTS, allow_nets=LOOPBACK, resolve=resolve), url, max_bytes=100
        )


@settings(max_examples=200, deadline=None)
@given(url=st.text(max_size=50) | st.text(max_size=50).map(lambda rest: "http://" + rest))
async def test_no_text_makes_anything_but_our_errors(url: str) -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ["10.0.0.1"]

    with pytest.raises(FetchError):
        await fetch(Fetcher(ssl_context=NO_ROOTS, resolve=resolve), url, max_bytes=1)
