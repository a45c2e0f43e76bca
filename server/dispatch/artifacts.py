"""The files of a run: each is kept only if it is what its worker described."""

import re

from pipeline.spec import FPS
from server.fal.endpoints import Limits
from server.files.store import IncomingFile
from server.models import StoredArtifact
from server.workers.messages import Artifact

_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
_CONTENT_TYPES = {
    "video": re.compile(r"(video|image)/[a-z0-9.+-]+"),
    "thumbnail": re.compile("image/webp"),
}
"""By the kinds of files that a worker may send."""


class ArtifactMismatch(Exception):
    """What a worker sent is not the file that it described; the message says how."""


def keep(incoming: IncomingFile, described: Artifact) -> StoredArtifact:
    """Give the file of a run its name.

    Raises:
        ArtifactMismatch: the bytes are not what the worker says it sent.
    """
    if (incoming.size, incoming.sha256) != (described.size, described.sha256):
        raise ArtifactMismatch(
            f"The worker described a file of {described.size:,} bytes with the hash "
            f"{described.sha256[:12]}…, and sent {incoming.size:,} bytes with the hash "
            f"{incoming.sha256[:12]}…."
        )
    incoming.content_type = described.content_type
    incoming.keep()
    return StoredArtifact(
        id=incoming.id,
        kind=described.kind,
        name=described.name,
        content_type=described.content_type,
        size=described.size,
        sha256=described.sha256,
        width=described.width,
        height=described.height,
        frames=described.frames,
        fps=FPS if described.kind == "video" else None,
    )


def is_of_video(described: Artifact, limits: Limits) -> bool:
    """Whether a file that a worker describes can be a video of this server, or its thumbnail."""
    return (
        described.kind in _CONTENT_TYPES
        and _NAME.fullmatch(described.name) is not None
        and _CONTENT_TYPES[described.kind].fullmatch(described.content_type) is not None
        and 0 < described.width <= limits.width
        and 0 < described.height <= limits.height
    )
