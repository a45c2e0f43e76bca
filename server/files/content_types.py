"""What files say they are, what they are called, and whether a browser may show them.

A file that somebody sent is shown in a browser's window only if both its type and its first bytes
are those of a picture or a video; HTML and SVG, which run scripts, never are. Nor is it served as a
script or a stylesheet: its origin is that of the server's own page.
"""

import mimetypes
import re
from pathlib import PurePosixPath

from server.errors import BadRequest

UNKNOWN = "application/octet-stream"
HEAD_BYTES = 32
"""As many first bytes as `is_shown` looks at."""

_CONTENT_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(?:;[\x20-\x7e]*)?", re.ASCII)
_SCRIPT = r"(?:application|text)/(?:x-)?(?:java|ecma|j|live)script[\d.]*"
"""The content types of the WHATWG's "JavaScript MIME type"."""
_USED_BY_PAGES = re.compile(rf"{_SCRIPT}|text/css", re.ASCII)

_LONGEST = 200
_SHOWN = frozenset(
    {"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"}
    | {"video/mp4", "video/webm", "video/quicktime"}
)


def content_type_of(text: str | None) -> str:
    """A content type as a caller gave it; what is unknown if none was given.

    Raises:
        BadRequest: it is none.
    """
    if not text:
        return UNKNOWN
    if len(text) > _LONGEST or not _CONTENT_TYPE.fullmatch(text):
        raise BadRequest(f"{text[:_LONGEST]!r} is not a content type such as image/png.")
    return text


def served_type(content_type: str) -> str:
    """The content type that a file is served with: its own, unless a page could use it."""
    return "text/plain" if _USED_BY_PAGES.fullmatch(essence_of(content_type)) else content_type


def essence_of(content_type: str) -> str:
    """The content type without its parameters, to compare."""
    return content_type.partition(";")[0].strip().lower()


def file_name_of(text: str | None, content_type: str) -> str:
    """The name that a file gets, from the one that a caller gave, if any: it goes into a URL.

    Folders are dropped and what nobody can see is replaced; all else stays as it is.
    """
    last = re.split(r"[/\\]", text or "")[-1].strip()
    name = "".join(each if each.isprintable() else "_" for each in last)
    if name in ("", ".", ".."):
        return "upload" + (mimetypes.guess_extension(essence_of(content_type)) or "")
    suffix = PurePosixPath(name).suffix[:20]
    return name if len(name) <= _LONGEST else name[: _LONGEST - len(suffix)] + suffix


def may_be_shown(content_type: str) -> bool:
    """Whether a file of this type is one that browsers show, and run nothing of."""
    return essence_of(content_type) in _SHOWN


def is_shown(content_type: str, head: bytes) -> bool:
    """Whether a browser may show the file that begins with `head`, or should only keep it."""
    kind = essence_of(content_type)
    return may_be_shown(content_type) and kind.partition("/")[0] == family_of(head)


def family_of(head: bytes) -> str | None:
    """What a file is by its first bytes: an image, a video, or neither."""
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")):
        return "image"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image"
    if head[4:8] == b"ftyp":
        return "image" if head[8:12] in (b"avif", b"avis") else "video"
    return "video" if head.startswith(b"\x1aE\xdf\xa3") else None
