"""Files that are no video, or a hostile one, sent to be continued."""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest
from clips import H264, clip, copied, ffmpeg, without_its_media
from http_sites import Site, answer, running
from servers import picture

from pipeline import clip as clip_module
from pipeline.errors import ClipTooShort, ClipUnreadable, ImageUnreadable, InputError
from pipeline.spec import Pixels
from server.inputs.decoder import DecoderUnusable, MediaDecoder
from server.inputs.media import DecodeLimits

FORMATS = ["mp4", "mov", "webm", "mkv", "avi", "ts", "gif"]


async def prepared(
    data: bytes,
    name: str = "video",
    limits: DecodeLimits | None = None,
    fps: int | None = None,
) -> Sequence[Pixels]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return await MediaDecoder(limits).prepare(name, file, 96, 64, field=f"{name}_url", fps=fps)


def of_format(name: str) -> bytes:
    options = {"webm": "-c:v libvpx -b:v 200k", "gif": ""}.get(name, f"{H264} -movflags +faststart")
    return clip(f"a.{name}", options, source="testsrc2=s=96x64:r=16:d=1")


@pytest.mark.parametrize("name", FORMATS)
def test_a_clip_that_is_cut_anywhere_is_used_as_far_as_it_is_whole_or_refused(name: str) -> None:
    whole = of_format(name)
    for part in (0.01, 0.4, 0.95):
        place = int(len(whole) * part)
        for left in (whole[:place], whole[place:]):
            with tempfile.TemporaryFile() as file:
                file.write(left)
                file.flush()
                try:
                    assert len(clip_module.prepare(file, 96, 64)) == 5
                except (ClipUnreadable, ClipTooShort) as refused:
                    assert str(refused)


OLD = "#!/bin/sh\necho 'fd:: Protocol not found' >&2\nexit 1\n"
OF_ANOTHER_MACHINE = "\x7fELF and nothing more"


@pytest.mark.parametrize("program", [None, OLD, OF_ANOTHER_MACHINE])
async def test_an_ffmpeg_that_does_not_run_is_not_the_callers_error(
    program: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ffmpeg"
    whole = of_format("mp4")
    if program is not None:
        path.write_text(program)
        path.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(path))

    with pytest.raises(DecoderUnusable, match="cosmos-serve doctor"):
        await prepared(whole)


@pytest.mark.parametrize(
    ("before", "fps"),
    [("-stream_loop 1562", None), ("-itsscale 16 -stream_loop 562", 16)],
    ids=["100,000 frames", "1 frame a second for ten hours"],
)
async def test_of_a_long_clip_the_end_alone_is_decoded(before: str, fps: int | None) -> None:
    long = copied(
        clip("a.mp4", f"{H264} -g 16", source="testsrc2=s=96x64:r=16:d=4"), "b.mp4", before
    )

    limits = DecodeLimits(memory_bytes=2**30, cpu_s=10)
    assert len(await prepared(long, limits=limits, fps=fps)) == 5


async def test_a_clip_that_is_16k_wide_is_used() -> None:
    wide = clip("a.mov", "-c:v mjpeg -pix_fmt yuvj420p", source="color=teal:s=16384x256:r=5:d=1")

    assert len(await prepared(wide)) == 5


async def test_a_clip_that_is_given_up_leaves_no_process() -> None:
    def ffmpegs() -> list[psutil.Process]:
        children = psutil.Process().children(recursive=True)
        return [child for child in children if "ffmpeg" in child.name()]

    short = clip("a.mp4", f"{H264} -g 16", source="testsrc2=s=96x64:r=16:d=4")
    decoding = asyncio.create_task(prepared(copied(short, "b.mp4", "-stream_loop 1562")))
    while not (running := ffmpegs()):
        await asyncio.sleep(0.01)
    decoding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await decoding

    psutil.wait_procs(running, timeout=10)
    assert ffmpegs() == []


async def test_a_clip_that_needs_too_much_memory_is_the_callers_error() -> None:
    large = clip("a.mp4", H264, source="testsrc2=s=3840x2160:r=16:d=0.5")

    with pytest.raises(ClipUnreadable, match="memory"):
        await prepared(large, limits=DecodeLimits(memory_bytes=250 * 2**20, cpu_s=60))


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
async def test_a_picture_is_no_video(format: str) -> None:
    data = (
        picture()
        if format == "PNG"
        else ffmpeg(
            *["-f", "lavfi", "-i", "testsrc2=s=96x64", "-frames:v", "1", "-f", "mjpeg", "pipe:1"]
        )
    )
    with pytest.raises(ClipUnreadable, match=f"a {format} file"):
        await prepared(data)


@pytest.mark.parametrize("name", ["mp4", "webm", "mkv", "avi"])
async def test_a_video_is_no_picture(name: str) -> None:
    with pytest.raises(ImageUnreadable, match="is a video"):
        await prepared(of_format(name), "image")


async def test_sound_alone_and_a_cover_are_no_video() -> None:
    sound = clip("a.m4a", "-c:a aac", source="sine=d=1")
    with pytest.raises(ClipUnreadable, match="has no pictures"):
        await prepared(sound)


REFERENCES: dict[str, Callable[[str], str]] = {
    "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n".format,
    "list of files": "ffconcat version 1.0\nfile '{}'\n".format,
    "concat": "concat:{0}|{0}".format,
    "DASH": (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
        '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
        "<BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    ).format,
}


@pytest.mark.parametrize("kind", REFERENCES)
async def test_a_file_that_names_others_opens_none(kind: str, tmp_path: Path) -> None:
    other = tmp_path / "other.ts"
    other.write_bytes(of_format("ts"))
    async for site in running(Site(), None):
        site.answers["/other.ts"] = answer(of_format("ts"), "Content-Type: video/mp2t")
        for named in (str(other), f"file:{other}", site.url("/other.ts")):
            with pytest.raises(InputError) as refused:
                await prepared(REFERENCES[kind](named).encode())
            assert isinstance(refused.value, ClipUnreadable)
        assert site.requests == []


async def test_ffmpeg_would_have_opened_them(tmp_path: Path) -> None:
    """What the test before shows: opened by its path, the very same playlist is a video."""
    (tmp_path / "other.ts").write_bytes(of_format("ts"))
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(REFERENCES["playlist"](str(tmp_path / "other.ts")))
    frames = ffmpeg("-i", playlist, *["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"])

    assert len(frames) == 16 * 96 * 64 * 3


async def test_a_movie_whose_pictures_are_in_another_file_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.mov"
    other.write_bytes(clip("a.mov"))
    empty = without_its_media(other.read_bytes(), other)

    with pytest.raises(ClipUnreadable):
        await prepared(empty)
    # ffmpeg would have found them there, if it had looked.
    path = tmp_path / "empty.mov"
    path.write_bytes(empty)
    looking, shown = ["-enable_drefs", "1", "-use_absolute_path", "1"], ["-f", "rawvideo", "pipe:1"]
    assert ffmpeg(*looking, "-i", path, *shown) == ffmpeg("-i", other, *shown)


@pytest.mark.parametrize(
    ("name", "options"), [("a.flv", H264), ("a.mkv", "-c:v huffyuv")], ids=["format", "codec"]
)
async def test_what_is_not_listed_is_refused_though_ffmpeg_reads_it(
    name: str, options: str
) -> None:
    with pytest.raises(ClipUnreadable):
        await prepared(clip(name, options))
