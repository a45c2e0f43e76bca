"""What a worker sends becomes a file only if it is what the worker described."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from server.dispatch.artifacts import ArtifactMismatch, is_of_video, keep
from server.fal.endpoints import Limits
from server.files.local import IncomingLocalFile, LocalFiles
from server.workers.messages import Artifact

DATA = b"a video, or so"


def described(data: bytes = DATA, *, size: int | None = None, sha256: str = "") -> Artifact:
    return Artifact(
        kind="video",
        name="video.mp4",
        content_type="video/mp4",
        size=len(data) if size is None else size,
        sha256=sha256 or hashlib.sha256(data).hexdigest(),
        width=96,
        height=64,
        frames=9,
    )


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(tmp_path / "files")


@pytest.fixture
def incoming(files: LocalFiles) -> Iterator[IncomingLocalFile]:
    with files.receive() as incoming:
        incoming.write(DATA)
        yield incoming


def test_a_file_that_is_what_was_described_is_published(
    files: LocalFiles, incoming: IncomingLocalFile
) -> None:
    stored = keep(incoming, described())

    assert files.read(stored.id) == DATA
    assert (stored.size, stored.frames, stored.width, stored.fps) == (len(DATA), 9, 96, 16)


@pytest.mark.parametrize(
    "lie", [described(size=len(DATA) + 1), described(sha256="0" * 64), described(b"another video")]
)
def test_a_file_that_is_not_what_was_described_is_not_published(
    files: LocalFiles, incoming: IncomingLocalFile, lie: Artifact
) -> None:
    with pytest.raises(ArtifactMismatch, match="sent 14 bytes"):
        keep(incoming, lie)

    assert list(files.ids()) == []


@pytest.mark.parametrize(
    ("changes", "is_taken"),
    [
        ({}, True),
        ({"kind": "thumbnail", "content_type": "image/webp"}, True),
        ({"kind": "thumbnail"}, False),
        ({"kind": "upload"}, False),
        ({"content_type": "text/html"}, False),
        ({"width": 97}, False),
    ],
)
def test_only_videos_and_their_thumbnails_are_taken(
    changes: dict[str, object], is_taken: bool
) -> None:
    assert is_of_video(replace(described(), **changes), Limits(96, 64)) is is_taken  # type: ignore[arg-type]
