"""Frames as they come of a pipeline, where they are not encoded: there may be no ffmpeg."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from pipeline.encode import EncodedVideo
from pipeline.guardrail import Frame
from pipeline.thumbnail import Thumbnail


@contextmanager
def frames_go_to(take: Callable[[Frame], object], width: int, height: int) -> Iterator[None]:
    """Meanwhile `take` is called with every frame of a pipeline, which may use its memory again."""

    def encode_video(frames: Iterable[Frame], *, out: Path, **_: object) -> EncodedVideo:
        num_frames = 0
        for frame in frames:
            take(frame)
            num_frames += 1
        return EncodedVideo(
            path=out,
            content_type="",
            num_frames=num_frames,
            width=width,
            height=height,
            thumbnail=Thumbnail(b"", 0, 0),
        )

    with patch("pipeline.generate.encode_video", encode_video):
        yield
