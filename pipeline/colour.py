"""ICC profiles of colours that a picture declares in numbers: primaries, white and curve.

Pure Python: numpy takes longer to import than Pillow, and few pictures need this.
"""

import struct
from typing import NamedTuple

_Matrix = tuple[tuple[float, ...], ...]


class Chromaticities(NamedTuple):
    """CIE x and y of the white and the primaries, in the order of PNG's cHRM."""

    white: tuple[float, float]
    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]


_D65 = (0.3127, 0.3290)
SRGB = Chromaticities(_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))

_D50_XYZ = (0.9642, 1.0, 0.8249)
_BRADFORD: _Matrix = (
    (0.8951, 0.2664, -0.1614),
    (-0.7502, 1.7135, 0.0367),
    (0.0389, -0.0685, 1.0296),
)

# The numbers of ITU-T H.273, which PNG's cICP and AVIF's nclx share.
_PRIMARIES = {
    1: SRGB,
    5: Chromaticities(_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: Chromaticities(_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    9: Chromaticities(_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: Chromaticities(_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
# What is coded for BT.709 is shown with the curve of sRGB, as browsers do. None is that curve.
_EXPONENTS = {1: None, 6: None, 13: None, 14: None, 15: None, 4: 2.2, 5: 2.8, 8: 1.0}
_HDR = {16: "PQ", 18: "HLG"}
_UNSPECIFIED = 2


class UnusableColour(Exception):
    """The colours cannot be converted; the message says what they are."""


def numbered_profile(primaries: int, transfer: int) -> bytes | None:
    """The profile of colours that are numbered as in ITU-T H.273; None for those of sRGB.

    Raises:
        UnusableColour: the numbers are of HDR, or others that are not known here.
    """
    if transfer in _HDR:
        raise UnusableColour(f"HDR ({_HDR[transfer]})")
    if _UNSPECIFIED in (primaries, transfer):
        return None
    if primaries not in _PRIMARIES or transfer not in _EXPONENTS:
        raise UnusableColour(f"of primaries {primaries} and transfer {transfer}")
    if primaries == 1 and _EXPONENTS[transfer] is None:
        return None
    return matrix_profile(_PRIMARIES[primaries], _EXPONENTS[transfer])


def matrix_profile(colours: Chromaticities, exponent: float | None) -> bytes:
    """An ICC profile of RGB whose light is value ** `exponent`, or sRGB's curve if that is None.

    Raises:
        UnusableColour: no light can have these colours.
    """
    try:
        columns = _adapted_primaries(colours)
    except ZeroDivisionError as error:
        raise UnusableColour("of impossible primaries") from error
    curve = _curve(exponent)
    tags = {b"wtpt": _xyz(*_D50_XYZ)}
    for index, name in enumerate((b"r", b"g", b"b")):
        tags[name + b"XYZ"] = _xyz(*(row[index] for row in columns))
        tags[name + b"TRC"] = curve
    return _profile(tags)


def _adapted_primaries(colours: Chromaticities) -> _Matrix:
    """XYZ of the primaries as columns, adapted from their white to D50."""
    unscaled = _transposed(tuple(_xyz_of(*each) for each in colours[1:]))
    white = _xyz_of(*colours.white)
    scale = _times(_inverse(unscaled), white)
    primaries = tuple(
        tuple(value * factor for value, factor in zip(row, scale, strict=True)) for row in unscaled
    )
    here, wanted = _times(_BRADFORD, white), _times(_BRADFORD, _D50_XYZ)
    gains = tuple(to / of for to, of in zip(wanted, here, strict=True))
    gained = tuple(
        tuple(value * gain for value in row) for row, gain in zip(_BRADFORD, gains, strict=True)
    )
    adaptation = _product(_inverse(_BRADFORD), gained)
    return _product(adaptation, primaries)


def _xyz_of(x: float, y: float) -> tuple[float, float, float]:
    return x / y, 1.0, (1.0 - x - y) / y


def _times(matrix: _Matrix, vector: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)


def _product(left: _Matrix, right: _Matrix) -> _Matrix:
    return _transposed(tuple(_times(left, column) for column in _transposed(right)))


def _transposed(matrix: _Matrix) -> _Matrix:
    return tuple(zip(*matrix, strict=True))


def _inverse(matrix: _Matrix) -> _Matrix:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    cofactors = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    return tuple(tuple(value / determinant for value in row) for row in cofactors)


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _curve(exponent: float | None) -> bytes:
    if exponent is not None:
        return b"para\0\0\0\0" + struct.pack(">HH", 0, 0) + _fixed(exponent)
    parameters = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + _fixed(*parameters)


def _profile(tags: dict[bytes, bytes]) -> bytes:
    """A version 4 profile of a display: a header of 128 bytes, the table of tags, the tags."""
    offset = 128 + 4 + 12 * len(tags)
    table, bodies = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += struct.pack(">4sII", name, offset + len(bodies), len(body))
        bodies += body + bytes(-len(body) % 4)
    size = offset + len(bodies)
    header = struct.pack(">I4xI4s4s4s12x4s", size, 0x04200000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    header += bytes(28) + _fixed(*_D50_XYZ)
    return header.ljust(128, b"\0") + table + bodies
