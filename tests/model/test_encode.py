"""The files that come out: probed with PyAV and Pillow, which share no code with `encode.py`."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.video.frame import VideoFrame
from PIL import Image, ImageSequence

from pipeline.encode import EncodedVideo, encode_video
from pipeline.errors import EncodingFailed
from pipeline.spec import Container, Quality
from pipeline.thumbnail import thumbnail_of

Frame = npt.NDArray[np.uint8]

WIDTH = 96
HEIGHT = 64
NUM_FRAMES = 21
EVERY_ENCODING = list(itertools.product(Container, Quality))
TAGGED = [Container.X264, Container.VP9, Container.PRORES4444]

BT709 = 1
LIMITED = 1


@dataclass(frozen=True, slots=True)
class Expected:
    """What a probe says of one container."""

    content_type: str
    codec: str
    profile: str | None
    pixel_format: str


EXPECTED = {
    Container.X264: Expected("video/mp4", "h264", "High", "yuv420p"),
    Container.VP9: Expected("video/webm", "vp9", "Profile 0", "yuv420p"),
    # ffmpeg reads every 4444 stream as 12 bits, and one without alpha as yuv444p.
    Container.PRORES4444: Expected("video/quicktime", "prores", "4444", "yuv444p12le"),
    Container.GIF: Expected("image/gif", "gif", None, "bgra"),
}


def moving_frames(
    num_frames: int = NUM_FRAMES, width: int = WIDTH, height: int = HEIGHT
) -> Iterator[Frame]:
    """A drifting gradient with noise on it: no two frames, and no two pixels, agree."""
    noise = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    for index in range(num_frames):
        ramps = np.stack([x * 255 / width, y * 255 / height, (x + y + 5 * index) % 256], axis=-1)
        yield (ramps + noise.normal(0, 8, ramps.shape)).clip(0, 255).astype(np.uint8)


def encode(
    frames: Iterator[Frame], container: Container, quality: Quality, out: Path, **changes: int
) -> EncodedVideo:
    sizes = {"width": WIDTH, "height": HEIGHT, "num_frames": NUM_FRAMES} | changes
    return encode_video(frames, container, quality, out=out, check=lambda: None, **sizes)


def decoded(path: Path) -> list[VideoFrame]:
    with av.open(str(path)) as file:
        return list(file.decode(file.streams.video[0]))


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Container, Quality], Path]:
    """The same clip in all sixteen encodings."""
    folder = tmp_path_factory.mktemp("videos")
    paths = {}
    for container, quality in EVERY_ENCODING:
        paths[container, quality] = folder / f"{container.name}-{quality}"
        encode(moving_frames(), container, quality, paths[container, quality])
    return paths


@pytest.mark.parametrize(("container", "quality"), EVERY_ENCODING)
def test_a_probe_sees_the_codec_size_rate_and_every_frame(
    videos: dict[tuple[Container, Quality], Path], container: Container, quality: Quality
) -> None:
    expected = EXPECTED[container]
    with av.open(str(videos[container, quality])) as file:
        stream = file.streams.video[0]
        assert len(file.streams) == 1
        assert stream.codec_context.name == expected.codec
        assert stream.profile == expected.profile
        assert stream.codec_context.pix_fmt == expected.pixel_format
        assert (stream.width, stream.height) == (WIDTH, HEIGHT)
        assert sum(1 for _ in file.decode(stream)) == NUM_FRAMES
        assert file.duration is not None
        # GIF counts in hundredths of a second and WebM in thousandths.
        precision = 0.01 if container is Container.GIF else 0.001
        assert file.duration / av.time_base == pytest.approx(NUM_FRAMES / 16, abs=precision)
        if container is not Container.GIF:
            assert stream.average_rate == 16


@pytest.mark.parametrize("quality", Quality)
@pytest.mark.parametrize("container", TAGGED)
def test_the_file_says_that_its_colours_are_bt709_of_limited_range(
    videos: dict[tuple[Container, Quality], Path], container: Container, quality: Quality
) -> None:
    with av.open(str(videos[container, quality])) as file:
        codec = file.streams.video[0].codec_context
        assert codec.color_range == LIMITED
        assert codec.colorspace == BT709
        assert codec.color_primaries == BT709
        assert codec.color_trc == BT709


@pytest.mark.parametrize("quality", Quality)
@pytest.mark.parametrize("container", [Container.X264, Container.PRORES4444])
def test_a_player_can_start_before_it_has_the_whole_file(
    videos: dict[tuple[Container, Quality], Path], container: Container, quality: Quality
) -> None:
    boxes = _top_level_boxes(videos[container, quality].read_bytes())
    assert boxes.index(b"moov") < boxes.index(b"mdat")


@pytest.mark.parametrize("container", Container)
def test_a_better_quality_keeps_more_bytes(
    videos: dict[tuple[Container, Quality], Path], container: Container
) -> None:
    low, high = (videos[container, quality] for quality in (Quality.LOW, Quality.HIGH))
    assert low.stat().st_size < high.stat().st_size


@pytest.mark.parametrize("container", TAGGED)
def test_saturated_colours_and_greys_survive(container: Container, tmp_path: Path) -> None:
    patches, frame = _patches()
    out = tmp_path / "patches"
    encode(iter([frame] * 9), container, Quality.HIGH, out, num_frames=9)
    for shown in (decoded(out)[0], decoded(out)[-1]):
        seen = _bt709_limited_to_rgb(shown)[8::16, 8::16].reshape(-1, 3)
        # Reading these as BT.601, or as full range, is wrong by 15 levels or more somewhere.
        assert np.abs(seen - patches).max() <= 3


@pytest.mark.parametrize(("container", "quality"), EVERY_ENCODING)
def test_the_same_frames_give_the_same_bytes(
    videos: dict[tuple[Container, Quality], Path],
    container: Container,
    quality: Quality,
    tmp_path: Path,
) -> None:
    again = tmp_path / "under-another-name"
    encode(moving_frames(), container, quality, again)
    assert again.read_bytes() == videos[container, quality].read_bytes()


@pytest.mark.parametrize("container", Container)
def test_a_picture_that_stands_still_keeps_its_frames(container: Container, tmp_path: Path) -> None:
    (frame,) = moving_frames(1)
    out = tmp_path / "still"
    encode(iter([frame] * 10), container, Quality.LOW, out, num_frames=10)
    assert len(decoded(out)) == 10


@pytest.mark.parametrize("quality", Quality)
def test_a_gif_repeats_for_ever_at_16_frames_a_second_on_average(
    videos: dict[tuple[Container, Quality], Path], quality: Quality
) -> None:
    with Image.open(videos[Container.GIF, quality]) as gif:
        assert gif.info["loop"] == 0
        delays_ms = [frame.info["duration"] for frame in ImageSequence.Iterator(gif)]
    assert delays_ms[:-1] == ([60, 70, 60, 60] * 6)[: NUM_FRAMES - 1]
    assert delays_ms[-1] in (60, 70)


@pytest.mark.parametrize(
    ("quality", "size"),
    [
        (Quality.LOW, (480, 264)),
        (Quality.MEDIUM, (640, 352)),
        (Quality.HIGH, (960, 528)),
        (Quality.MAXIMUM, (1280, 704)),
    ],
)
def test_the_quality_of_a_gif_sets_its_size_and_its_colours(
    quality: Quality, size: tuple[int, int], tmp_path: Path
) -> None:
    out = tmp_path / "clip.gif"
    frames = moving_frames(2, 1280, 704)
    video = encode(frames, Container.GIF, quality, out, num_frames=2, width=1280, height=704)
    assert (video.width, video.height) == size
    with Image.open(out) as gif:
        assert gif.size == size
        colours = gif.convert("RGB").getcolors(maxcolors=256)
    assert colours is not None
    most = {Quality.LOW: 64, Quality.MEDIUM: 128}.get(quality, 256)
    assert most // 2 < len(colours) <= most


@pytest.mark.parametrize("quality", Quality)
def test_a_colour_that_one_frame_of_a_gif_has_is_shown(quality: Quality, tmp_path: Path) -> None:
    flash = (255, 0, 200)
    frames = [frame.mean(axis=2, keepdims=True).repeat(3, axis=2) for frame in moving_frames(93)]
    frames = [frame.astype(np.uint8) for frame in frames]
    frames[50][16:48, 24:72] = flash
    out = tmp_path / "clip.gif"

    encode(iter(frames), Container.GIF, quality, out, num_frames=93)

    with Image.open(out) as gif:
        gif.seek(50)
        shown = np.asarray(gif.convert("RGB"))[20:44, 28:68].reshape(-1, 3)
    assert np.abs(shown.mean(axis=0) - flash).max() <= 8


def test_a_long_gif_has_a_palette_for_each_part(tmp_path: Path) -> None:
    """ffmpeg keeps all frames of a part until it has their palette, and no more."""
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200)]
    frames = [np.full((HEIGHT, WIDTH, 3), colour, np.uint8) for colour in colours]
    shown = [frames[n // 93] for n in range(2 * 93 + 1)]
    out = tmp_path / "clip.gif"

    encode(iter(shown), Container.GIF, Quality.MAXIMUM, out, num_frames=len(shown))

    with Image.open(out) as gif:
        seen = [frame.convert("RGB").getpixel((5, 5)) for frame in ImageSequence.Iterator(gif)]
        gif.seek(0)
        duration = sum(frame.info["duration"] for frame in ImageSequence.Iterator(gif))
    assert list(dict.fromkeys(seen)) == colours
    assert duration == pytest.approx(1000 * len(shown) / 16, abs=20)


def test_a_gif_smaller_than_its_limit_is_not_enlarged(tmp_path: Path) -> None:
    frames, out = moving_frames(9, 95, 63), tmp_path / "clip.gif"
    video = encode(frames, Container.GIF, Quality.LOW, out, num_frames=9, width=95, height=63)
    assert (video.width, video.height) == (95, 63)
    assert (decoded(video.path)[0].width, decoded(video.path)[0].height) == (95, 63)


@pytest.mark.parametrize("container", Container)
def test_the_result_describes_the_file(container: Container, tmp_path: Path) -> None:
    out = tmp_path / "a name: with = signs, 100%"
    video = encode(moving_frames(9), container, Quality.HIGH, out, num_frames=9)
    assert video == EncodedVideo(
        path=out,
        content_type=EXPECTED[container].content_type,
        num_frames=9,
        width=WIDTH,
        height=HEIGHT,
        thumbnail=thumbnail_of(next(moving_frames(9))),
    )
    assert list(tmp_path.iterdir()) == [out]


def test_a_size_that_the_codec_refuses_is_reported_in_its_own_words(tmp_path: Path) -> None:
    frames, out = moving_frames(9, 95, 64), tmp_path / "odd.mp4"
    with pytest.raises(EncodingFailed, match="width not divisible by 2"):
        encode(frames, Container.X264, Quality.LOW, out, num_frames=9, width=95)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (lambda: moving_frames(8), "There are 8 frames, but 9"),
        (lambda: moving_frames(10), "more frames than the 9"),
        (lambda: moving_frames(9, HEIGHT, WIDTH), r"uint8 \[96, 64, 3\]; .* \[64, 96, 3\]"),
        (lambda: (f.astype(np.float32) for f in moving_frames(9)), "Frame 1 is float32"),
    ],
)
def test_frames_other_than_those_announced_are_refused(
    frames: Callable[[], Iterator[Frame]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        encode(frames(), Container.X264, Quality.LOW, tmp_path / "clip.mp4", num_frames=9)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_file_of_before(tmp_path: Path) -> None:
    out = tmp_path / "clip.mp4"
    out.write_bytes(b"the video of before")
    with pytest.raises(ValueError, match="but 9"):
        encode(moving_frames(3), Container.X264, Quality.LOW, out, num_frames=9)
    assert out.read_bytes() == b"the video of before"


def _top_level_boxes(data: bytes) -> list[bytes]:
    boxes = []
    start = 0
    while start < len(data):
        boxes.append(data[start + 4 : start + 8])
        start += int.from_bytes(data[start : start + 4], "big")
    return boxes


def _patches() -> tuple[npt.NDArray[np.float64], Frame]:
    """24 colours [24, 3], and a frame of 4 rows of 6 patches of them, 16 pixels wide each."""
    corners = list(itertools.product((0, 255), repeat=3))
    greys = [(level, level, level) for level in np.linspace(5, 250, 24 - len(corners)).astype(int)]
    colours = np.array(corners + greys, dtype=np.uint8)
    frame = colours.reshape(4, 6, 3).repeat(16, axis=0).repeat(16, axis=1)
    return colours.astype(np.float64), frame


def _bt709_limited_to_rgb(frame: VideoFrame) -> npt.NDArray[np.float64]:
    """What ITU-R BT.709 says that the samples mean: [height, width, 3], 0 to 255."""
    bits = frame.format.components[0].bits
    planes = []
    for plane in frame.planes:
        dtype = np.dtype("u1" if bits == 8 else "<u2")
        rows = np.frombuffer(bytes(plane), dtype).reshape(plane.height, -1)[:, : plane.width]
        repeat = frame.height // plane.height
        planes.append(rows.repeat(repeat, axis=0).repeat(repeat, axis=1) / 2 ** (bits - 8))
    y = (planes[0] - 16) / 219
    cb, cr = (planes[1] - 128) / 224, (planes[2] - 128) / 224
    red = y + 1.5748 * cr
    blue = y + 1.8556 * cb
    green = (y - 0.2126 * red - 0.0722 * blue) / 0.7152
    return 255 * np.stack([red, green, blue], axis=-1)
