"""What uploaded files say they are, what they are called, and which a browser may show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import picture

from server.errors import BadRequest
from server.fal.urls import Service, resolve, url_for
from server.files.content_types import content_type_of, file_name_of, is_shown, served_type

MP4 = b"\0\0\0\x20ftypisom\0\0\x02\0"


@pytest.mark.parametrize(
    "text", ["image/png", "text/plain;charset=utf-8", "application/vnd.a+b-c.d", "IMAGE/PNG"]
)
def test_a_content_type_stays_as_it_was_given(text: str) -> None:
    assert content_type_of(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *("text/javascript", "Text/JavaScript; charset=utf-8", "application/javascript"),
        *("application/x-javascript", "text/ecmascript", "application/ecmascript"),
        *("text/javascript1.5", "text/jscript", "text/livescript", "text/x-ecmascript"),
        *("text/css", "text/css; charset=utf-8"),
    ],
)
def test_a_script_or_a_stylesheet_is_served_as_a_text(text: str) -> None:
    assert served_type(text) == "text/plain"


@pytest.mark.parametrize("text", ["text/plain;charset=utf-8", "application/json", "video/mp4"])
def test_other_files_are_served_as_what_they_are(text: str) -> None:
    assert served_type(text) == text


@pytest.mark.parametrize("text", [None, ""])
def test_a_file_without_a_type_is_just_bytes(text: str | None) -> None:
    assert content_type_of(text) == "application/octet-stream"


@pytest.mark.parametrize(
    "text",
    ["png", "image/", "/png", "image/png\r\nX: y", "image/pn g", "bild/ü", "a/b;" + "x" * 200],
)
def test_what_is_no_content_type_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="is not a content type"):
        content_type_of(text)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("car.png", "car.png"),
        ('Käse "alt" & neu #1?.png', 'Käse "alt" & neu #1?.png'),
        ("100%.png", "100%.png"),
        ("C:\\pictures\\car.png", "car.png"),
        ("../../etc/passwd", "passwd"),
        ("a\r\nb\0c.png", "a__b_c.png"),
        ("\u202egnp.car", "_gnp.car"),
        ("\ud800.png", "_.png"),
        ("a" * 300 + ".png", "a" * 196 + ".png"),
        (None, "upload.png"),
        ("", "upload.png"),
        ("..", "upload.png"),
        ("folder/", "upload.png"),
    ],
)
def test_a_file_keeps_its_name_as_far_as_a_url_can_have_it(given: str | None, name: str) -> None:
    assert file_name_of(given, "image/png") == name


def test_a_file_without_a_name_and_a_known_type_has_no_suffix() -> None:
    assert file_name_of(None, "application/x-nothing") == "upload"


@given(st.text())
def test_a_url_leads_back_to_every_name(text: str) -> None:
    name = file_name_of(text, "image/png")
    url = url_for("http://localhost", Service.FILES, f"/id/{name}")

    address = resolve("localhost", url.removeprefix("http://localhost"))

    assert url.isascii()
    assert address is not None
    assert address.path == f"/id/{name}"


@pytest.mark.parametrize(
    ("content_type", "head"),
    [
        ("image/png", picture()),
        ("image/jpeg", b"\xff\xd8\xff\xe0"),
        ("image/gif", b"GIF89a"),
        ("image/webp", b"RIFF\0\0\0\0WEBPVP8 "),
        ("image/avif", b"\0\0\0\x20ftypavif"),
        ("image/png; x=y", b"\xff\xd8\xff\xe0"),
        ("video/mp4", MP4),
        ("video/quicktime", b"\0\0\0\x14ftypqt  "),
        ("video/webm", b"\x1aE\xdf\xa3"),
    ],
)
def test_images_and_videos_are_shown(content_type: str, head: bytes) -> None:
    assert is_shown(content_type, head)


@pytest.mark.parametrize(
    ("content_type", "head"),
    [
        ("text/html", picture()),
        ("image/svg+xml", b"<svg xmlns="),
        ("image/svg+xml", picture()),
        ("image/png", b"<html><script>"),
        ("image/png", b"<svg xmlns="),
        ("image/png", b""),
        ("image/png", MP4),
        ("video/mp4", picture()),
        ("application/octet-stream", picture()),
        ("application/pdf", b"%PDF-1.7"),
    ],
)
def test_nothing_else_is_shown(content_type: str, head: bytes) -> None:
    assert not is_shown(content_type, head)
