"""The markers of a JPEG file: how many scans there are, and whether its pixels are all there.

A progressive JPEG comes in scans, each of which refines the whole picture; encoders write about
ten. A scan of a few bytes still costs a pass, so a small file can keep a decoder busy for long.

libjpeg fills pixels that are missing with zeros, and Pillow does not pass its warning on.
"""

import hashlib
import io
import re
import struct
from collections.abc import Iterator
from itertools import islice

from PIL import Image

END = b"\xff\xd9"
MAX_SCANS = 100

_FILLER = bytes(range(254, 0, -1))
"""Bytes without a marker that decode to anything but what zeros decode to."""

# What follows the 0xFF is neither stuffing, a restart within the scan, nor padding.
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SCAN = 0xDA
_RESTARTS = range(0xD0, 0xD8)
_BARE = frozenset({0x01, 0xD8})
"""Markers without a segment: a temporary one, and that of the start."""


class CutJpeg(Exception):
    """A part of the scans is missing."""


def has_too_many_scans(data: bytes) -> bool:
    """Whether a JPEG file has more than `MAX_SCANS` scans; what it carries along does not count."""
    scans = (1 for marker, *_ in _segments(data) if marker == _SCAN)
    return sum(islice(scans, MAX_SCANS + 1)) > MAX_SCANS


def has_end(data: bytes) -> bool:
    """Whether the end marker is there. What comes behind it is not looked at."""
    return any(marker == END[1] for marker, *_ in _segments(data))


def ended(data: bytes) -> bytes:
    """The file with the end marker that it lacks. Decodes it twice, at its full size.

    Raises:
        CutJpeg: pixels are missing, too.
    """
    data = data.rstrip(b"\xff")
    if not _has_all_scans(data):
        raise CutJpeg("A scan is missing.")
    # A decoder that needs more bits than there are takes them from the filler, which shows. One
    # that waits for a restart passes over the first half, and takes them from the second.
    filler = _FILLER + _next_restart(data) + _FILLER
    if _digest(data + END) != _digest(data + filler + END):
        raise CutJpeg("The last scan is not complete.")
    return data + END


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Each marker, the place behind it, and its segment, up to the end marker."""
    position = 2
    while found := _MARKER.search(data, position):
        marker, position = found[1][0], found.end()
        if marker == END[1]:
            yield marker, position, b""
            return
        if marker in _BARE:
            continue
        if position + 2 > len(data):
            return
        (length,) = struct.unpack_from(">H", data, position)
        yield marker, position, data[position + 2 : position + length]
        position += max(length, 2)


def _next_restart(data: bytes) -> bytes:
    """The marker that would come next in the last scan if it restarts: they count from 0 to 7."""
    scan = max(start for marker, start, _ in _segments(data) if marker == _SCAN)
    _, last = max((data.rfind(bytes((0xFF, each)), scan), each) for each in _RESTARTS)
    return bytes((0xFF, _RESTARTS[last - 0xCF & 7]))


def _has_all_scans(data: bytes) -> bool:
    """Whether there is a scan for each component and, if the file is progressive, for each of its
    coefficients up to the last bit."""
    components: set[int] = set()
    wanted: set[tuple[int, int]] = set()
    is_progressive = False
    for marker, _, segment in _segments(data):
        if marker in _FRAMES:
            is_progressive = marker in _PROGRESSIVE
            components = {segment[place] for place in range(6, 6 + 3 * segment[5], 3)}
            coefficients = range(64) if is_progressive else range(1)
            wanted = {(each, index) for each in components for index in coefficients}
        elif marker == _SCAN:
            count = segment[0]
            scanned = {segment[place] for place in range(1, 1 + 2 * count, 2)}
            first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
            if not is_progressive:
                wanted -= {(each, 0) for each in scanned}
            elif bits & 15 == 0:
                wanted -= {(each, index) for each in scanned for index in range(first, last + 1)}
    return bool(components) and not wanted


def _digest(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return hashlib.sha256(image.tobytes()).digest()
