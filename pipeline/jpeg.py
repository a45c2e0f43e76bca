"""How often a JPEG file makes its decoder pass over the picture.

A progressive JPEG comes in scans, each of which refines the whole picture; encoders write about
ten. A scan of a few bytes still costs a pass, so a small file can keep a decoder busy for long.
"""

import re

MAX_SCANS = 100

_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01
# The next marker, as libjpeg looks for it: past entropy-coded data, in which FF is followed by 00
# or by a restart marker.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")


def has_too_many_scans(data: bytes) -> bool:
    """Whether a JPEG file has more than `MAX_SCANS` scans; what it carries along does not count."""
    scans, at = 0, 0
    while scans <= MAX_SCANS and (found := _MARKER.search(data, at)):
        marker, at = found[1][0], found.end()
        if marker == _EOI:
            break
        scans += marker == _SOS
        if marker not in (_SOI, _TEM):
            at += int.from_bytes(data[at : at + 2], "big")
    return scans > MAX_SCANS
