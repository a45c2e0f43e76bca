"""The signatures of files' URLs: whose they are, what they are good for, and how long."""

import hashlib
import hmac
from urllib.parse import parse_qs

from hypothesis import given
from hypothesis import strategies as st
from job_fixtures import Clock

from server.files.links import FileLinks, LinkSigner

FILE, OTHER = "0" * 32, "1" * 32
SECRET = b"a secret of the server's own"
WEEK_S = 7 * 86_400


def signer_at(clock: Clock, seconds: int = WEEK_S, secret: bytes = SECRET) -> LinkSigner:
    return LinkSigner(secret, seconds=seconds, now=clock)


def test_a_signature_is_good_for_its_file_its_end_and_its_secret_alone(clock: Clock) -> None:
    signer = signer_at(clock)
    query = signer.query(FILE)

    assert signer.end_of(FILE, query) == clock.now + WEEK_S
    assert signer.end_of(FILE, f"download=1&{query}&x=%20") == clock.now + WEEK_S
    assert signer.end_of(OTHER, query) is None
    assert signer.end_of(FILE, query.replace("expires=6", "expires=7")) is None
    assert signer_at(clock, secret=b"another").end_of(FILE, query) is None


def test_what_is_no_signature_is_none(clock: Clock) -> None:
    signer = signer_at(clock)
    expires, _, signature = signer.query(FILE).partition("&")
    forged = ["", "&", expires, signature, f"{expires}&signature=", f"{signature}&expires="]
    forged += [f"{expires}&{signature[:-1]}", f"{expires}&{signature}0", f"{expires}&{signature}ü"]
    forged += [f"{expires}&{signature.upper()}", f"{expires}0&{signature}", f"{expires}&{expires}"]
    forged += [f"expires=inf&{signature}", f"expires=-1&{signature}", f"{expires}&signature=%ff"]
    forged += [f"{expires}&{signature}&expires=99999999999"]

    assert [signer.end_of(FILE, query) for query in forged] == [None] * len(forged)


@given(st.text(), st.text())
def test_no_query_at_all_does_harm(file_id: str, query: str) -> None:
    assert signer_at(Clock()).end_of(file_id, query) is None


def test_the_secret_itself_signs_no_url(clock: Clock) -> None:
    given = parse_qs(signer_at(clock).query(FILE))
    message = f"{FILE}\n{given['expires'][0]}".encode()

    assert given["signature"] != [hmac.digest(SECRET, message, hashlib.sha256).hex()]


@given(st.integers(60, 10 * WEEK_S), st.floats(0, 1e9), st.floats(0, 1e9))
def test_a_url_is_good_for_half_of_its_seconds_at_least(
    seconds: int, since: float, age: float
) -> None:
    clock = Clock()
    clock.now = since + age
    signer = signer_at(clock, seconds)
    end = signer.end_of(FILE, signer.query(FILE, since=since))

    assert end is not None
    # A second, for ends are whole.
    assert seconds / 2 - 1 <= end - clock.now <= seconds + 1


def test_it_changes_with_every_half_of_its_time(clock: Clock) -> None:
    signer, since = signer_at(clock, 1000), clock.now
    queries = []
    for age in (0, 499, 500, 999, 1000, 5000, 5499):
        clock.now = since + age
        queries.append(signer.query(FILE, since=since))

    assert queries[0] == queries[1] != queries[2] == queries[3] != queries[4]
    assert queries[5] == queries[6] not in queries[:5]
    assert signer.end_of(FILE, queries[0]) == since + 1000


def test_links_without_a_signer_are_plain() -> None:
    url = FileLinks().url("http://gpu:8000/x", FILE, "a b.png")
    assert url == f"http://gpu:8000/x/files/{FILE}/a%20b.png"
