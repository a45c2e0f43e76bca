"""Which URLs name files of this server."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import settings_in

from server.files.public import base_urls_of, own_file

ID = "0123456789abcdef0123456789abcdef"
BASES = ["http://gpu:8000", "https://videos.example.com/cosmos"]


@pytest.mark.parametrize(
    ("url", "segments"),
    [
        (f"http://gpu:8000/files/{ID}/car.png", [ID, "car.png"]),
        (f"HTTP://GPU:8000/files/{ID}/car.png", [ID, "car.png"]),
        (f"http://gpu.:8000/files/{ID}/car.png?download#now", [ID, "car.png"]),
        (f"http://gpu:8000/files/{ID}/a%20%22b%22%20%C3%BC.png", [ID, 'a "b" ü.png']),
        (f"https://videos.example.com/cosmos/files/{ID}/car.png", [ID, "car.png"]),
        (f"https://videos.example.com:443/cosmos/files/{ID}/car.png", [ID, "car.png"]),
        # Ours, though no file has it: it must not be fetched.
        ("http://gpu:8000/files/nothing", ["nothing"]),
        ("http://gpu:8000/files/a/b/c", ["a", "b", "c"]),
        # A server that is known by fal's names has its files there.
        (f"https://v3.fal.media/files/{ID}/car.png", [ID, "car.png"]),
        (f"http://v3b.fal.media:8443/files/{ID}/car.png", [ID, "car.png"]),
    ],
)
def test_own_urls_are_known_by_scheme_host_and_prefix(url: str, segments: list[str]) -> None:
    assert own_file(url, BASES) == segments


@pytest.mark.parametrize(
    "url",
    [
        f"https://gpu:8000/files/{ID}/car.png",
        f"http://gpu:8001/files/{ID}/car.png",
        f"http://gpu/files/{ID}/car.png",
        f"http://gpu:8000.example.com/files/{ID}/car.png",
        f"http://gpu:8000@example.com/files/{ID}/car.png",
        f"http://me@gpu:8000/files/{ID}/car.png",
        f"http://example.com/files/{ID}/car.png",
        f"https://videos.example.com/files/{ID}/car.png",
        f"http://gpu:8000/filesystem/{ID}/car.png",
        f"http://gpu:8000/other/files/{ID}/car.png",
        f"ftp://gpu:8000/files/{ID}/car.png",
        f"//gpu:8000/files/{ID}/car.png",
        f"http://gpu:port/files/{ID}/car.png",
        "http://[::1/files/x/y",
        "",
        # Files of fal's own.
        "https://v3.fal.media/files/penguin/car.png",
        f"https://v3b.fal.media/files/b/{ID}/car.png",
        f"https://fal.media/files/{ID}/car.png",
    ],
)
def test_every_other_url_is_somebody_elses(url: str) -> None:
    assert own_file(url, BASES) is None


@given(st.text() | st.text().map("http://gpu:8000/files/{}".format))
def test_any_text_is_a_url_of_this_server_or_none(text: str) -> None:
    segments = own_file(text, BASES)

    assert (segments is not None) == text.startswith("http://gpu:8000/files/")


@pytest.mark.parametrize(
    "base", ["https://queue.fal.run", "https://fal.run", "https://rest.fal.ai"]
)
def test_fals_own_files_stay_fals_for_a_caller_who_knows_us_by_fals_names(base: str) -> None:
    assert own_file("https://v3.fal.media/files/penguin/car.png", [base]) is None
    assert own_file(f"https://v3.fal.media/files/{ID}/car.png", [base]) == [ID, "car.png"]


def test_callers_know_a_server_by_its_public_url_or_else_by_its_ports(tmp_path: Path) -> None:
    private = base_urls_of(settings_in(tmp_path, port=9000, allowed_hosts=("gpu",)))
    public = base_urls_of(settings_in(tmp_path, public_url="https://videos.example.com/"))

    assert {"http://localhost:9000", "http://127.0.0.1:9000", "http://gpu:9000"} <= set(private)
    assert public == ["https://videos.example.com"]
