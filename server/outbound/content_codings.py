"""What Content-Encoding says of a body, and what it only seems to say."""

import re
from collections.abc import Iterable

AWS_CHUNKED = "aws-chunked"
"""S3 stores this name with many objects that were sent in its frames, and stores them unframed."""

FRAME_BYTES = 128
"""As many first bytes as `is_framed` looks at."""

_APPLIED = frozenset(
    {"aes128gcm", "br", "compress", "dcb", "dcz", "deflate", "exi", "gzip", "pack200-gzip"}
    | {"x-compress", "x-gzip", "zstd"}
)
"""The codings of the IANA's registry that change the bytes."""

_FRAME = re.compile(rb"[0-9a-fA-F]{1,16}(;chunk-signature=[0-9a-f]{64})?\r\n")


def codings_of(headers: Iterable[str]) -> frozenset[str]:
    """The names in the Content-Encoding headers of a message, in lower case."""
    names = (name.strip().lower() for header in headers for name in header.split(","))
    return frozenset(filter(None, names))


def applied(codings: frozenset[str]) -> frozenset[str]:
    """Those that change the bytes. Other names are labels, such as `identity` and `utf-8`."""
    return codings & _APPLIED


def is_framed(codings: frozenset[str], start: bytes) -> bool:
    """Whether a body that begins so is in the frames of aws-chunked, and not only called so."""
    return AWS_CHUNKED in codings and _FRAME.match(start) is not None
