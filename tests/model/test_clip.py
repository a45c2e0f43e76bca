"""The last frames of a video file, as pixels of the model's size."""

import io
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from clips import H264, clip, copied, last_frames
from PIL import Image

from pipeline import image
from pipeline.clip import MAX_BYTES, prepare
from pipeline.errors import ClipTooShort, ClipUnreadable, FileTooLarge, ImageTooLarge
from pipeline.spec import CLIP_FRAMES

WIDTH, HEIGHT = 96, 64
SHORT_GROUPS = f"{H264} -bf 2 -g 8"
HEVC = "-c:v libx265 -preset ultrafast -x265-params log-level=none"

FILES: dict[str, Callable[[], bytes]] = {
    "mp4": partial(clip, "a.mp4", SHORT_GROUPS),
    "one group": partial(clip, "a.mp4", f"{H264} -bf 2 -g 999"),
    "mov": partial(clip, "a.mov", "-c:v prores_ks"),
    "webm": partial(clip, "a.webm", "-c:v libvpx -auto-alt-ref 1 -lag-in-frames 9 -b:v 200k -g 8"),
    "mkv": partial(clip, "a.mkv", "-c:v libvpx-vp9 -cpu-used 8 -b:v 200k"),
    "mkv without an index": lambda: copied(
        clip("a.mp4", SHORT_GROUPS), "live.mkv", options="-live 1"
    ),
    "avi": partial(clip, "a.avi", "-c:v mpeg4 -bf 2 -g 8"),
    "ts": partial(clip, "a.ts", SHORT_GROUPS),
    "ts of HEVC": partial(clip, "a.ts", f"{HEVC}:keyint=12"),
    "gif": partial(clip, "a.gif", ""),
    "frames of various lengths": partial(
        clip,
        "a.mkv",
        f"{H264} -fps_mode vfr",
        source="testsrc2=s=96x64:r=50:d=3,select='not(mod(n,7))+eq(n,148)+eq(n,149)'",
    ),
    "longer sound": partial(
        clip, "a.mp4", f"{H264} -filter_complex sine=d=9[a] -map 0:v -map [a] -c:a aac"
    ),
}


def prepared(data: bytes, width: int = WIDTH, height: int = HEIGHT, **options: Any) -> list[bytes]:
    """The pixels of each frame."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return [pixels.rgb for pixels in prepare(file, width, height, **options)]


@pytest.mark.parametrize("name", FILES)
def test_the_frames_are_the_last_that_are_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = FILES[name]()
    starts = noted_starts(monkeypatch)

    assert prepared(data) == last_frames(data)
    # Sought, and not decoded from the beginning.
    assert len(starts) == 1
    assert starts[0] is not None


def noted_starts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where each decoding begins, from now on."""
    from pipeline import clip

    starts = []
    decode = clip._Reader.decode

    def noting(self: Any, listing: Any, start: Any) -> Any:
        starts.append(start)
        return decode(self, listing, start)

    monkeypatch.setattr(clip._Reader, "decode", noting)
    return starts


# At another rate.

RATES: dict[str, tuple[Callable[[], bytes], Callable[[int], float]]] = {
    "30 a second": (lambda: at_rate("a.mp4", 30), lambda n: n / 30),
    "60 a second": (lambda: at_rate("a.mkv", 60), lambda n: n / 60),
    "120 a second, all of them keys": (
        partial(clip, "a.mov", "-c:v mjpeg -pix_fmt yuvj420p", source="testsrc2=s=96x64:r=120:d=3"),
        lambda n: n / 120,
    ),
    "10 a second": (lambda: at_rate("a.ts", 10), lambda n: n / 10),
    "16 a second": (FILES["mp4"], lambda n: n / 16),
    "a GIF": (
        partial(clip, "a.gif", "", source="testsrc2=s=96x64:r=25:d=3"),
        lambda n: n / 25,
    ),
    "various lengths": (
        FILES["frames of various lengths"],
        lambda n: [*range(0, 148, 7), 148, 149][n] / 50,
    ),
}


def at_rate(name: str, rate: int) -> bytes:
    return clip(name, SHORT_GROUPS, source=f"testsrc2=s=96x64:r={rate}:d=3")


@pytest.mark.parametrize("name", RATES)
def test_frames_can_be_taken_at_16_a_second_whatever_the_clip_has(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are shown in the middle of each of the last five sixteenths of a second."""
    data, shown_at = RATES[name][0](), RATES[name][1]
    frames = last_frames(data, count=1000)
    wanted = []
    for back in (4, 3, 2, 1, 0):
        moment = 3 - 1 / 32 - back / 16
        wanted.append([n for n in range(len(frames)) if shown_at(n) <= moment][-1])
    starts = noted_starts(monkeypatch)

    assert [frames.index(frame) for frame in prepared(data, fps=16)] == wanted
    # Sought, and not decoded from the beginning.
    assert len(starts) == 1
    assert starts[0] is not None


def test_frames_are_taken_from_a_short_clip_too() -> None:
    data = clip("a.mp4", H264, source="testsrc2=s=96x64:r=60:d=0.3")
    frames = last_frames(data, count=1000)

    assert [frames.index(frame) for frame in prepared(data, fps=16)] == [1, 4, 8, 12, 16]


def test_a_clip_of_many_frames_can_be_too_short() -> None:
    with pytest.raises(ClipTooShort, match="At 16 frames a second the video has 4; 5 are needed"):
        prepared(clip("a.mp4", H264, source="testsrc2=s=96x64:r=60:d=0.25"), fps=16)


@pytest.mark.parametrize("seconds", [0.3125, 0.5])
def test_all_of_a_clip_that_is_short_is_decoded(seconds: float) -> None:
    data = clip("a.mp4", H264, source=f"testsrc2=s=96x64:r=16:d={seconds}")

    assert prepared(data) == last_frames(data)


@pytest.mark.parametrize("size", [(40, 40), (300, 20)])
def test_a_frame_fills_the_video_as_a_picture_does(size: tuple[int, int]) -> None:
    data = FILES["mp4"]()

    for rgb, frame in zip(prepared(data, *size), last_frames(data), strict=True):
        assert rgb == image.prepare(png(frame), *size).rgb


def png(rgb: bytes) -> bytes:
    file = io.BytesIO()
    Image.frombytes("RGB", (WIDTH, HEIGHT), rgb).save(file, "PNG")
    return file.getvalue()


# How it is shown. Left and right half have a colour each.

HALVES = "color=red:s={}x{}:r=16:d=1,drawbox=w=iw/2:h=ih:color=blue:t=fill"
RED, BLUE, WHITE = (254, 0, 0), (0, 0, 254), (255, 255, 255)


def corners(rgb: bytes, width: int = WIDTH, height: int = HEIGHT) -> list[tuple[int, ...]]:
    """The colours near the left end of the first row and near the right end of the last one."""
    places = [(1 * width + 1) * 3, ((height - 2) * width + width - 2) * 3]
    return [tuple(rgb[place : place + 3]) for place in places]


def is_near(colours: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]], by: int = 4) -> bool:
    return all(
        abs(one - other) <= by
        for pair in zip(colours, wanted, strict=True)
        for one, other in zip(*pair, strict=True)
    )


def test_a_clip_that_lies_on_its_side_is_turned_upright() -> None:
    lying = copied(
        clip("a.mp4", H264, source=HALVES.format(96, 64)), "b.mp4", "-display_rotation 90"
    )

    # A quarter to the left: what was at the right is at the top.
    assert is_near(corners(prepared(lying, 64, 96)[-1], 64, 96), [RED, BLUE])


def test_pixels_that_are_not_square_are_made_square() -> None:
    wide = clip("a.mp4", H264, source=f"{HALVES.format(48, 64)},setsar=2")

    assert is_near(corners(prepared(wide)[-1]), [BLUE, RED])
    # With square pixels it would be cropped to 48x32, and scaled.
    told: list[str] = []
    prepared(wide, tell=told.append)
    assert told == []


def test_what_is_transparent_is_white() -> None:
    holed = clip("a.mov", "-c:v qtrle", source="color=red@0:s=96x64:r=10:d=1,format=argb")

    assert corners(prepared(holed)[-1]) == [WHITE, WHITE]


ORANGE = (200, 90, 40)


@pytest.mark.parametrize(
    ("height", "matrix", "limits", "tagged"),
    [
        (64, "bt709", "tv", True),
        (64, "bt709", "pc", True),
        (64, "smpte170m", "tv", False),
        (720, "bt470bg", "tv", True),
        (720, "bt709", "tv", False),
        (64, "bt2020nc", "tv", True),
    ],
)
def test_colours_are_those_that_were_encoded(
    height: int, matrix: str, limits: str, tagged: bool
) -> None:
    name = {"bt2020nc": "bt2020", "bt470bg": "bt470bg"}.get(matrix, matrix)
    tag = f"{matrix}:color_primaries=bt709:color_trc=bt709" if tagged else "unknown"
    source = (
        f"color=#C85A28:s=96x{height}:r=16:d=0.5,format=gbrp,"
        f"scale=out_color_matrix={name}:out_range={limits},format=yuv444p,"
        f"setparams=range={limits}:colorspace={tag}"
    )
    data = clip("a.mkv", "-c:v ffv1", source=source)

    assert is_near(corners(prepared(data)[-1]), [ORANGE, ORANGE], by=2)


@pytest.mark.parametrize(
    ("transfer", "white", "bright"),
    [("smpte2084", "949494", "C0C0C0"), ("arib-std-b67", "BFBFBF", "FFFFFF")],
)
def test_hdr_is_mapped_to_the_range_of_srgb(transfer: str, white: str, bright: str) -> None:
    """203 cd/m², the white of graphics, is bright, and what is brighter is told from it."""
    source = (
        f"color=#{white}:s=96x64:r=16:d=0.5,format=gbrp10le,"
        f"drawbox=w=iw/2:h=ih:color=#{bright}:t=fill,"
        "scale=out_color_matrix=bt2020:out_range=tv,format=yuv420p10le,"
        f"setparams=range=tv:colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}"
    )
    data = clip(
        "a.mkv", f"{HEVC}:colorprim=bt2020:colormatrix=bt2020nc:transfer={transfer}", source=source
    )
    (brighter, *_), (white_, *_) = corners(prepared(data)[-1])

    assert 200 < white_ < 235 < brighter < 255


def test_what_a_sender_may_not_expect_is_told() -> None:
    told: list[str] = []
    prepared(clip("a.mp4", H264, source="testsrc2=s=16x64:r=16:d=1"), tell=told.append)

    assert len(told) == 2
    assert told[0].startswith("83% of the video is cropped away")
    assert told[1].startswith("The video is small: it is enlarged 6 times")


# What is refused.


def test_four_frames_are_too_few() -> None:
    with pytest.raises(ClipTooShort, match=f"4 of .* {CLIP_FRAMES} are needed") as refused:
        prepared(clip("a.mp4", H264, source="testsrc2=s=96x64:r=16:d=0.25"))

    assert (refused.value.code, refused.value.field) == ("video_duration_too_short", "video_url")


def test_a_file_of_too_many_bytes_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.clip.find_ffmpeg", lambda: pytest.fail("it was read"))
    with tempfile.TemporaryFile() as file:
        file.truncate(MAX_BYTES + 1)
        with pytest.raises(FileTooLarge) as refused:
            prepare(file, WIDTH, HEIGHT)

    assert refused.value.context == {"max_size": MAX_BYTES}


def test_frames_of_more_than_36_megapixels_are_refused() -> None:
    one = clip("a.mov", "-c:v mjpeg -pix_fmt yuvj420p", source="color=teal:s=16384x4096:r=5:d=0.2")

    with pytest.raises(ImageTooLarge, match="16,384x4,096"):
        prepared(copied(one, "b.mov", "-stream_loop 9"))


def test_a_clip_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(ClipUnreadable, match="takes more than"):
        prepared(clip("a.mp4", "-c:v mpeg4", source="testsrc2=s=640x480:r=16:d=2"), cpu_s=-1)
