"""Files that are two things at once, or claim to be what nobody can hold, sent as first frames."""

import io
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import httpx
import pytest
from image_files import encoded, png, png_chunk, png_rows, scene
from PIL import Image
from queue_calls import RUN
from servers import data_uri, request_of, serving, settings_in
from upload_calls import upload

from pipeline.errors import ImageUnreadable, InputError
from pipeline.image import prepare
from pipeline.jpeg import MAX_SCANS

SCRIPT = b"<html><script>alert(document.domain)</script></html>"
MIB = 1024 * 1024


def clean(format: str) -> bytes:
    return encoded(scene(100, 80), format)


def jpeg_with(comment: bytes) -> bytes:
    """A JPEG with the comment right at its front."""
    return b"\xff\xd8\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + clean("JPEG")[2:]


def png_with(text: bytes) -> bytes:
    """A PNG with the text right behind its header."""
    data = clean("PNG")
    return data[:33] + png_chunk(b"tEXt", b"Comment\0" + text) + data[33:]


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("run.html", SCRIPT)
    return file.getvalue()


def gif_that_is_a_program() -> bytes:
    """Its width and height begin a comment that ends behind the last frame."""
    data = bytearray(encoded(Image.new("L", (0x2A2F, 64), 9), "GIF"))
    assert data[6:8] == b"/*"
    return bytes(data) + b"*/=1;alert(document.domain)"


PDF = b"%PDF-1.7\n1 0 obj<</Type/Catalog/OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\n"

POLYGLOTS = {
    "JPEG and HTML": (jpeg_with(SCRIPT), "JPEG"),
    "JPEG and PDF": (jpeg_with(PDF), "JPEG"),
    "JPEG and ZIP": (clean("JPEG") + archive(), "JPEG"),
    "PNG and HTML": (png_with(SCRIPT), "PNG"),
    "PNG and ZIP": (clean("PNG") + archive(), "PNG"),
    "PNG and GIF": (clean("PNG") + clean("GIF"), "PNG"),
    "WebP and HTML": (clean("WEBP") + SCRIPT, "WEBP"),
    "GIF and HTML": (clean("GIF") + SCRIPT, "GIF"),
    "GIF and a program": (gif_that_is_a_program(), None),
}
"""Each with the format whose clean file has the same pixels."""

CLAIMS = [
    *["text/html", "application/pdf", "application/zip", "text/javascript", "image/svg+xml"],
    *["application/xhtml+xml", "image/png;text/html", "multipart/related"],
]


@pytest.fixture(params=POLYGLOTS)
def polyglot(request: pytest.FixtureRequest) -> tuple[bytes, str | None]:
    return POLYGLOTS[request.param]


def test_a_file_that_is_two_things_gives_the_pixels_of_the_image(
    polyglot: tuple[bytes, str | None],
) -> None:
    data, format = polyglot

    pixels = prepare(data, 96, 64)

    assert len(pixels.rgb) == 96 * 64 * 3
    if format is not None:
        assert pixels == prepare(clean(format), 96, 64)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("claim", CLAIMS)
async def test_a_file_that_is_two_things_never_runs_as_the_other(
    client: httpx.AsyncClient, polyglot: tuple[bytes, str | None], claim: str
) -> None:
    data, _ = polyglot

    answer = await client.get(await upload(client, data, claim, "picture.html"))

    assert answer.content == data
    is_script = claim == "text/javascript"
    assert answer.headers["content-type"] == ("text/plain" if is_script else claim)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    is_picture = claim == "image/png;text/html"
    disposition = answer.headers["content-disposition"].partition(";")[0]
    # What is shown is a picture alone: browsers follow the type, and are told not to guess.
    assert disposition == ("inline" if is_picture else "attachment")


async def test_of_a_file_that_is_two_things_the_pixels_alone_are_kept(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        url = await upload(client, jpeg_with(SCRIPT), "image/jpeg")
        for image_url in (url, data_uri(png_with(SCRIPT))):
            answer = await client.post(RUN, json=request_of(image_url=image_url))
            assert answer.status_code == 200, answer.text
            video = (await client.get(answer.json()["video"]["url"])).content
            assert b"script" not in video


def with_jpeg_size(width: int, height: int) -> bytes:
    data = bytearray(clean("JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def with_gif_size(width: int, height: int) -> bytes:
    data = bytearray(clean("GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    frame = data.index(b"\x2c\0\0\0\0")
    data[frame + 5 : frame + 9] = struct.pack("<HH", width, height)
    return bytes(data)


def webp(name: bytes, chunk: bytes) -> bytes:
    chunk += bytes(len(chunk) % 2)
    body = b"WEBP" + name + struct.pack("<I", len(chunk)) + chunk
    return b"RIFF" + struct.pack("<I", len(body)) + body


def lossy_webp(width: int, height: int) -> bytes:
    return webp(b"VP8 ", b"\x10\x02\0\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(200))


def lossless_webp(width: int, height: int) -> bytes:
    return webp(b"VP8L", b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(200))


def with_avif_size(width: int, height: int) -> bytes:
    data = bytearray(clean("AVIF"))
    start = data.index(b"ispe")
    data[start + 8 : start + 16] = struct.pack(">II", width, height)
    return bytes(data)


def extended_webp(width: int, height: int) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    inner = lossy_webp(min(width, 16383), min(height, 16383))[12:]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + sides + inner
    return b"RIFF" + struct.pack("<I", len(body)) + body


ABSURD = [
    *[
        (png(w, h, 8, 2, png_rows(b"")), f"PNG {w}x{h}")
        for w, h in [(2**31 - 1, 1), (2**32 - 1, 9)]
    ],
    *[
        (png(w, h, 8, 2, png_rows(b"")), f"PNG {w}x{h}")
        for w, h in [(0, 0), (0, 99), (65535, 65535)]
    ],
    *[(with_jpeg_size(*size), f"JPEG {size}") for size in [(65535, 65535), (0, 0), (99, 0)]],
    *[(with_gif_size(*size), f"GIF {size}") for size in [(65535, 65535), (0, 0), (0, 99)]],
    *[(lossy_webp(*size), f"WebP {size}") for size in [(16383, 16383), (0, 0)]],
    (lossless_webp(16384, 16384), "lossless WebP"),
    *[(extended_webp(*size), f"extended WebP {size}") for size in [(2**24, 2**24), (9000, 9000)]],
    *[(with_avif_size(*size), f"AVIF {size}") for size in [(30000, 30000), (2**32 - 1, 9), (0, 9)]],
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("data", [pytest.param(data, id=name) for data, name in ABSURD])
def test_absurd_dimensions_are_refused_by_the_header_alone(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: object) -> None:
        pytest.fail("the image was decoded")

    monkeypatch.setattr("pipeline.image._upright_and_scaled", decode)
    with pytest.raises(InputError) as refused:
        prepare(data, 96, 64)

    assert refused.value.code in {"image_too_large", "image_load_error"}


def progressive(num_scans: int) -> bytes:
    """A JPEG with so many scans more than it needs, each of a few bytes."""
    data = encoded(scene(100, 80), "JPEG", progressive=True)
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * num_scans + data[end:]


@pytest.mark.parametrize("num_scans", [MAX_SCANS, 50_000])
def test_a_jpeg_of_many_scans_is_refused_before_any_is_decoded(
    num_scans: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("it was opened"))

    with pytest.raises(ImageUnreadable, match="more than 100 scans"):
        prepare(progressive(num_scans), 96, 64)


@pytest.mark.parametrize(
    "data",
    [
        progressive(MAX_SCANS - 10),
        # A thumbnail, and the video behind a photograph, may look like scans.
        jpeg_with(b"\xff\xda\x00\x02" * 200),
        clean("JPEG") + b"\xff\xda\x00\x02" * 200,
    ],
    ids=["few scans", "a comment", "behind the end"],
)
def test_what_is_no_scan_does_not_count(data: bytes) -> None:
    assert len(prepare(data, 96, 64).rgb) == 96 * 64 * 3


def hidden_bomb(name: bytes, before: bytes) -> bytes:
    """A good PNG with a chunk that would grow to 200 MiB."""
    data = clean("PNG")
    squeezed = zlib.compress(bytes(200 * MIB), 9)
    return data[:33] + png_chunk(name, before + squeezed) + data[33:]


@pytest.mark.parametrize(
    ("name", "before"),
    [(b"iCCP", b"icc\0\0"), (b"zTXt", b"Comment\0\0"), (b"iTXt", b"XML\0\1\0\0\0")],
)
def test_what_an_image_carries_along_is_not_unpacked_without_bound(
    name: bytes, before: bytes
) -> None:
    data = hidden_bomb(name, before)
    tracemalloc.start()
    try:
        prepared_or_refused(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 80 * MIB


def prepared_or_refused(data: bytes) -> None:
    try:
        prepare(data, 96, 64)
    except ImageUnreadable as error:
        assert error.code == "image_load_error"


REFUSED_FORMATS = ["BMP", "DDS", "EPS", "ICNS", "ICO", "JPEG2000", "PCX", "PDF"]
REFUSED_FORMATS += ["PPM", "SGI", "SPIDER", "TGA", "TIFF", "XBM"]


@pytest.mark.parametrize("format", REFUSED_FORMATS)
def test_the_decoders_of_other_formats_are_out_of_reach(format: str) -> None:
    mode = {"XBM": "1", "SPIDER": "F", "EPS": "L"}.get(format, "RGB")
    data = encoded(scene(128, 128).convert(mode), format)

    with pytest.raises(ImageUnreadable):
        prepare(data, 96, 64)
