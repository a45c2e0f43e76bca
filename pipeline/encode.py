"""Frames to mp4, webm, mov or gif through ffmpeg, while later frames are still being decoded.

What each container and quality asks of ffmpeg stands here; `ffmpeg.py` runs it. The same frames
give the same bytes with the same ffmpeg. No sound, and no torch.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.ffmpeg import feed_ffmpeg
from pipeline.spec import FPS, MAX_FRAMES, Container, Quality
from pipeline.thumbnail import Thumbnail, thumbnail_of

# x264's output depends on the number of threads, so it is a constant and not the machine's. Eight
# are all that 704 lines keep busy, and cost little where there are only two cores.
NUM_THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedVideo:
    """A finished file. Width and height are the file's; a GIF may be smaller than its frames.

    `thumbnail` is of the first frame.
    """

    path: Path
    content_type: str
    num_frames: int
    width: int
    height: int
    thumbnail: Thumbnail


@dataclass(frozen=True, slots=True)
class _Format:
    """What the four qualities of one container share; `options` are ffmpeg's."""

    muxer: str
    content_type: str
    options: str


_FORMATS = {
    Container.X264: _Format(
        "mp4", "video/mp4", "-c:v libx264 -pix_fmt yuv420p -movflags +faststart"
    ),
    Container.VP9: _Format(
        "webm",
        "video/webm",
        "-c:v libvpx-vp9 -pix_fmt yuv420p -b:v 0 -row-mt 1 -tile-columns 2 -deadline good",
    ),
    Container.PRORES4444: _Format(
        "mov",
        "video/quicktime",
        "-c:v prores_ks -profile:v 4444 -vendor apl0 "
        "-pix_fmt yuva444p10le -alpha_bits 0 -movflags +faststart",
    ),
    Container.GIF: _Format("gif", "image/gif", "-c:v gif -loop 0"),
}

# fal publishes the names of the qualities and not the settings behind them: these are ours.
_QUALITIES = {
    (Container.X264, Quality.LOW): "-crf 28 -preset veryfast",
    (Container.X264, Quality.MEDIUM): "-crf 23 -preset medium",
    (Container.X264, Quality.HIGH): "-crf 18 -preset medium",
    (Container.X264, Quality.MAXIMUM): "-crf 10 -preset slow",
    (Container.VP9, Quality.LOW): "-crf 40 -cpu-used 5",
    (Container.VP9, Quality.MEDIUM): "-crf 34 -cpu-used 4",
    (Container.VP9, Quality.HIGH): "-crf 28 -cpu-used 3",
    (Container.VP9, Quality.MAXIMUM): "-crf 15 -cpu-used 2",
    (Container.PRORES4444, Quality.LOW): "-qscale:v 16",
    (Container.PRORES4444, Quality.MEDIUM): "-qscale:v 9",
    (Container.PRORES4444, Quality.HIGH): "-qscale:v 6",
    (Container.PRORES4444, Quality.MAXIMUM): "-qscale:v 2",
}


@dataclass(frozen=True, slots=True)
class _Palette:
    """How a GIF is reduced. `max_width` None keeps the frames' size; a GIF is never enlarged."""

    max_width: int | None
    num_colours: int
    dither: str


# Ordered dithering packs better and does not shimmer; error diffusion hides the palette better.
_PALETTES = {
    Quality.LOW: _Palette(480, 64, "bayer:bayer_scale=4"),
    Quality.MEDIUM: _Palette(640, 128, "bayer:bayer_scale=3"),
    Quality.HIGH: _Palette(960, 256, "sierra2_4a"),
    Quality.MAXIMUM: _Palette(None, 256, "floyd_steinberg"),
}

# The palette is found on all frames, for a colour may be seen in one of them alone, and on copies
# of this width. Their pixels are picked and not averaged: an average is a colour of no frame.
_PALETTE_WIDTH = 240


def encode_video(
    frames: Iterable[npt.NDArray[np.uint8]],
    container: Container,
    quality: Quality,
    *,
    width: int,
    height: int,
    num_frames: int,
    out: Path,
    check: Callable[[], None],
) -> EncodedVideo:
    """Encode frames as they come; `out` appears whole or not at all, and replaces what was there.

    The frames are taken on the calling thread, a few ahead of ffmpeg. ffmpeg has ended when this
    returns or raises.

    Args:
        frames: `num_frames` arrays [height, width, 3] of uint8, full-range sRGB.
        check: called for each frame and while waiting for ffmpeg; what it raises ends the work.

    Raises:
        EncodingFailed: ffmpeg is missing or failed; the message has the end of its stderr.
        ValueError: there were more or fewer frames, or one of another shape or type.
    """
    shown_width, shown_height = width, height
    max_width = _PALETTES[quality].max_width
    if container is Container.GIF and max_width is not None:
        shown_width, shown_height = _fit(max_width, width, height)
    part = out.with_name(f"{out.name}.part")
    arguments = [
        *_input_options(width, height),
        *("-vf", _filters(container, quality, shown_width, shown_height, num_frames)),
        *_output_options(container, quality),
        f"file:{part}",
    ]
    try:
        checked = _exactly(frames, num_frames, (height, width, 3))
        first = next(checked)
        feed_ffmpeg(arguments, chain([first], checked), check)
        part.replace(out)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return EncodedVideo(
        path=out,
        content_type=_FORMATS[container].content_type,
        num_frames=num_frames,
        width=shown_width,
        height=shown_height,
        thumbnail=thumbnail_of(first),
    )


def _exactly(
    frames: Iterable[npt.NDArray[np.uint8]], num_frames: int, shape: tuple[int, int, int]
) -> Iterator[npt.NDArray[np.uint8]]:
    count = 0
    for count, frame in enumerate(frames, start=1):
        if count > num_frames:
            raise ValueError(f"There are more frames than the {num_frames} that were announced.")
        if frame.shape != shape or frame.dtype != np.uint8:
            raise ValueError(
                f"Frame {count} is {frame.dtype} {list(frame.shape)}; "
                f"it must be uint8 {list(shape)}."
            )
        yield frame
    if count < num_frames:
        raise ValueError(f"There are {count} frames, but {num_frames} were announced.")


def _input_options(width: int, height: int) -> list[str]:
    options = "-hide_banner -loglevel error -nostdin -y -f rawvideo -pix_fmt rgb24"
    return [*options.split(), "-s", f"{width}x{height}", "-framerate", str(FPS), "-i", "pipe:0"]


def _output_options(container: Container, quality: Quality) -> list[str]:
    shared = (
        f"-fps_mode passthrough -threads {NUM_THREADS} -filter_threads {NUM_THREADS} "
        "-fflags +bitexact -flags:v +bitexact -map_metadata -1"
    )
    kind = _FORMATS[container]
    chosen = "" if container is Container.GIF else _QUALITIES[container, quality]
    return f"{kind.options} {chosen} {shared} -f {kind.muxer}".split()


def _filters(
    container: Container, quality: Quality, width: int, height: int, num_frames: int
) -> str:
    if container is Container.GIF:
        return _gif_filters(_PALETTES[quality], width, height, num_frames)
    # The tags come last: the properties of the frames win over options of the output, and the
    # options alone leave primaries and transfer unknown in the file.
    return (
        "scale=in_range=full:out_range=tv:out_color_matrix=bt709"
        ":flags=accurate_rnd+full_chroma_int+lanczos,"
        "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
    )


def _gif_filters(palette: _Palette, width: int, height: int, num_frames: int) -> str:
    """One palette for each `MAX_FRAMES` frames: ffmpeg keeps as many until it has their palette."""
    starts = range(0, num_frames, MAX_FRAMES)
    if len(starts) == 1:
        return _one_palette(palette, width, height)
    parts = "".join(f"[part{start}]" for start in starts)
    shown = "".join(f"[shown{start}]" for start in starts)
    cuts = [
        f"[part{start}]trim=start_frame={start}:end_frame={start + MAX_FRAMES},setpts=PTS-STARTPTS,"
        f"{_one_palette(palette, width, height, name=str(start))}[shown{start}]"
        for start in starts
    ]
    return ";".join([f"split={len(starts)}{parts}", *cuts, f"{shown}concat=n={len(starts)}"])


def _one_palette(palette: _Palette, width: int, height: int, name: str = "") -> str:
    sample_width, sample_height = _fit(_PALETTE_WIDTH, width, height)
    return (
        f"split[sample{name}][frames{name}];"
        f"[sample{name}]scale={sample_width}:{sample_height}:flags=neighbor,"
        f"palettegen=max_colors={palette.num_colours}[colours{name}];"
        f"[frames{name}]scale={width}:{height}:flags=lanczos[scaled{name}];"
        f"[scaled{name}][colours{name}]paletteuse=dither={palette.dither}:diff_mode=rectangle"
    )


def _fit(max_width: int, width: int, height: int) -> tuple[int, int]:
    """The size at most `max_width` wide, with an even height if it is scaled at all."""
    if width <= max_width:
        return width, height
    return max_width, max(2, 2 * round(height * max_width / width / 2))
