"""Which Host headers can be one, and which of those a server answers to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.hosts import HostRule, is_loopback, is_well_formed, name_of, read_name

OPEN = HostRule(frozenset({"fal.run", "cosmos.example"}), addresses=False, every_name=False)
CLOSED = HostRule(frozenset({"fal.run", "cosmos.example"}), addresses=True, every_name=False)


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "fal.run:443", "FAL.RUN.", "a-b.c.", "a-b.c.:8000", "cosmos_serve:8000"),
        *("192.0.2.1", "192.0.2.1:80", "[::1]", "[::1]:80", "[2001:DB8::1]", "[::ffff:1.2.3.4]"),
        *("127.1", "2130706433", "0x7f.1", "xn--bcher-kva.example", f"{'a' * 63}.example"),
    ],
)
def test_hosts_that_can_be(host: str) -> None:
    assert is_well_formed(host)


@pytest.mark.parametrize(
    "host",
    [
        *("", ".", ":80", "a b", "a/b", "me@a", "a:b", "a:", "a:65536", "a:123456", "a:80:80"),
        *('a"', "a\n", "a..b", ".a", "-a", "a-", "a..", "a,b", "a%2eb", "b\u00fccher.example"),
        *("[::1", "::1", "[]", "[1]", "[127.0.0.1]", "[fe80::1%25eth0]", "[::1]x", "a[::1]"),
        *(f"{'a' * 64}.example", "a." * 127 + "a", "http://a", "a\\b", "a#b", "a?b", "a\u212a"),
    ],
)
def test_hosts_that_cannot_be(host: str) -> None:
    assert not is_well_formed(host)


@given(st.text() | st.text("[]:.-_0f%@ \n", max_size=12))
def test_no_host_breaks_it(host: str) -> None:
    if is_well_formed(host):
        assert name_of(host) and CLOSED.allows(host) in (True, False)


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST.", "queue.localhost", "127.0.0.1", "[::1]:8"]
)
def test_loopback_is_always_known(host: str) -> None:
    assert OPEN.allows(host)


@pytest.mark.parametrize("host", ["fal.run", "Cosmos.Example.:8000", "queue.cosmos.example"])
def test_names_that_are_listed_are_known(host: str) -> None:
    assert OPEN.allows(host)


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil-cosmos.example", "cosmos.example.evil.example", "x.fal.run"),
        *("localhost.evil.example", "127.0.0.1.evil.example", "run", "queue.queue.fal.run"),
        # Which a browser would take for loopback, but never sends; a name server may not.
        *("127.1", "0x7f.0.0.1", "2130706433", "0177.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]"),
        *("192.168.1.20", "[fe80::1]"),
    ],
)
def test_other_names_are_not_known(host: str) -> None:
    assert is_well_formed(host)
    assert not OPEN.allows(host)


def test_every_address_is_known_where_callers_have_keys() -> None:
    assert CLOSED.allows("192.168.1.20:8000")
    assert CLOSED.allows("[2001:db8::1]")
    assert not CLOSED.allows("evil.example")


def test_every_name_is_known_where_nothing_says_which() -> None:
    assert HostRule(frozenset(), addresses=True, every_name=True).allows("evil.example")


@pytest.mark.parametrize("name", ["localhost", "a.localhost", "127.8.9.1", "[::1]"])
def test_what_is_loopback(name: str) -> None:
    assert is_loopback(name)


@pytest.mark.parametrize("name", ["localhost.example", "xlocalhost", "::1", "128.0.0.1", "[::2]"])
def test_what_is_not_loopback(name: str) -> None:
    assert not is_loopback(name)


def test_a_name_is_read_without_its_case_and_trailing_dot() -> None:
    assert read_name("GPU.example.") == "gpu.example"
    assert read_name("[2001:db8::1]") == "[2001:db8::1]"


@pytest.mark.parametrize("text", ["gpu.example:8000", "http://gpu.example", "*.example", "a/b"])
def test_what_is_no_name_alone_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a host's name: give each without scheme, port"):
        read_name(text)
