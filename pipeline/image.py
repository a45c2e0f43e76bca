"""Turn the bytes of a picture into an exact-size sRGB first frame.

Pillow only. What is not here: fetching the bytes, and the process that the server decodes in.
"""

import io
import logging
import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from PIL import AvifImagePlugin, ExifTags, Image, ImageCms

from pipeline.colour import UnusableColour, numbered_profile
from pipeline.errors import FileTooLarge, ImageTooLarge, ImageUnreadable
from pipeline.image_kind import ACCEPTED, READ, kind_of
from pipeline.jpeg import MAX_SCANS, ended, has_end, has_too_many_scans
from pipeline.png import SIGNATURE, PngFile
from pipeline.spec import Pixels

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")
"""The formats decoded, by Pillow's names; every other decoder stays out of reach."""

_JPEG = b"\xff\xd8\xff"

MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 50_000_000

MUCH_CROPPED = 1 / 3
"""What is told when more than this of a picture is cropped away; a square loses 45 %."""
MUCH_ENLARGED = 4
"""What is told when a pixel of the picture becomes more than so many of the frame, each way."""

# Each thread of the decoder would reserve address space of its own, of which there is little.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

# Transparent pictures are drawn for a blank page, and that is what their author saw behind them.
BACKGROUND = (255, 255, 255)

# libjpeg may shrink a JPEG by 2, 4 or 8 while it decodes. It is left at least this many times
# the size wanted, so that our own filter makes the last and visible step.
_DRAFT_MARGIN = 2.0

_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to the transposition that makes the picture upright; 5 to 8 lie on a side."""

_UNREADABLE = (
    "The image cannot be read: it is broken, cut short, or not a picture. "
    f"Send a whole {ACCEPTED} file."
)

_TOO_LITTLE_MEMORY = (
    "The image cannot be decoded in the memory that this server has for it. Send a smaller one."
)

# The standard library's: structlog takes longer to import than Pillow, in every picture process.
log = logging.getLogger(__name__)


Tell = Callable[[str], object]
"""Takes a sentence for the person who sent the picture."""


def prepare(
    data: bytes, width: int, height: int, *, field: str = "image_url", tell: Tell = log.warning
) -> Pixels:
    """Decode a picture into `width` x `height` pixels of sRGB.

    The picture is turned upright by its EXIF orientation, scaled to cover the frame, cropped at
    the centre, converted to sRGB from the colours that it says it has, and laid on white where it
    is transparent. Of an animation the first frame counts. Scaling is NVIDIA's: bilinear with
    antialiasing, max(width / w, height / h). A picture of the wanted size keeps its pixels.

    Metadata that cannot be read does not lose the picture: it counts as upright and as sRGB. Pixels
    that are missing do.

    Args:
        tell: called with what its sender may not expect: much of it is cropped or enlarged, or
            metadata is ignored.

    Raises:
        FileTooLarge: more than 20 MiB; nothing was decoded, as with the next one.
        ImageTooLarge: more than 50 megapixels.
        ImageUnreadable: the file is broken, cut short, or not a picture that we read, or is a JPEG
            of more than 100 scans.
    """
    image, icc_profile = _open(data, field, tell)
    with _decoding(field, data):
        frame = _upright_and_scaled(image, width, height, tell)
        frame = _flat_srgb(frame, icc_profile, tell)
        return Pixels(width, height, frame.tobytes())


def _open(data: bytes, field: str, tell: Tell) -> tuple[Image.Image, bytes | None]:
    """The picture with its header read and checked, and no pixel kept; and its ICC profile."""
    if len(data) > MAX_BYTES:
        raise FileTooLarge(
            field,
            f"The image is {len(data):,} bytes; the limit is {MAX_BYTES:,}.",
            {"max_size": MAX_BYTES},
        )
    if not data:
        raise ImageUnreadable(field, "The image is empty: it has 0 bytes.")
    _check_scans(data, field)
    with _decoding(field, data):
        png = PngFile(data) if data.startswith(SIGNATURE) else None
        image = Image.open(io.BytesIO(png.reduced if png else data), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(field, f"The image is {image.width:,}x{image.height:,} pixels, which")
    with _decoding(field, data):
        if png is not None:
            png.check_pixels()
        elif image.format in ("JPEG", "MPO") and not has_end(data):
            image = Image.open(io.BytesIO(ended(data)), formats=FORMATS)
        return image, _icc_profile(image, png, data, tell)


def _icc_profile(image: Image.Image, png: PngFile | None, data: bytes, tell: Tell) -> bytes | None:
    try:
        if png is not None:
            return png.icc_profile()
        profile: bytes | None = image.info.get("icc_profile")
        if profile is None and image.format == "AVIF" and (place := data.find(b"colrnclx")) >= 0:
            return numbered_profile(*struct.unpack_from(">HH", data, place + 8))
        return profile
    except UnusableColour as error:
        tell(
            f"The picture says that its colours are {error}, which this server does not convert: "
            "they are taken as sRGB. Send it as sRGB if they look wrong."
        )
        return None


def _check_scans(data: bytes, field: str) -> None:
    if data.startswith(_JPEG) and has_too_many_scans(data):
        raise ImageUnreadable(
            field, f"The JPEG has more than {MAX_SCANS} scans. Save it again as an ordinary one."
        )


@contextmanager
def _decoding(field: str, data: bytes) -> Iterator[None]:
    """Turn whatever a decoder raises into the caller's error.

    Hostile bytes make Pillow raise OSError, SyntaxError, ValueError, TypeError, KeyError,
    EOFError, struct.error, zlib.error and, over the years, others: no list of them is complete,
    and each means the same to the caller. So this is for Pillow's calls only.
    """
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(field, "The image") from error
    except MemoryError as error:
        raise ImageUnreadable(field, _TOO_LITTLE_MEMORY) from error
    except Exception as error:
        raise ImageUnreadable(field, _unreadable(kind_of(data))) from error


def _unreadable(kind: str | None) -> str:
    if kind is None:
        return _UNREADABLE
    if kind in READ:
        return f"The image is {kind} that is broken or cut short. Send a whole {ACCEPTED} file."
    return f"The image is {kind}, which this server does not read. Send a {ACCEPTED} file."


def _too_large(field: str, subject: str) -> ImageTooLarge:
    # fal's context speaks of sides: a square of this side is the largest that passes.
    side = math.isqrt(MAX_PIXELS)
    return ImageTooLarge(
        field,
        f"{subject} has more than {MAX_PIXELS // 1_000_000} megapixels. Send a smaller one.",
        {"max_height": side, "max_width": side},
    )


def _upright_and_scaled(image: Image.Image, width: int, height: int, tell: Tell) -> Image.Image:
    """The part of the picture that fills the frame, in the file's own colours.

    Everything that costs memory per pixel comes after the scaling, so orientation is applied to
    the small picture, and a picture on its side is scaled to the frame's size on its side.
    """
    orientation = _orientation(image, tell)
    if orientation >= 5:
        width, height = height, width
    tell_of_size("picture", image.size, (width, height), tell)
    stored_size = _decode(image, width, height)
    scaled = _scaled(_interpolable(image), stored_size, width, height)
    transposition = _ORIENTATIONS.get(orientation)
    return scaled if transposition is None else scaled.transpose(transposition)


def fill(image: Image.Image, width: int, height: int) -> Image.Image:
    """The part of an upright picture that fills the frame."""
    return _scaled(image, image.size, width, height)


def _scaled(image: Image.Image, size: tuple[float, float], width: int, height: int) -> Image.Image:
    """Scale to cover the frame and crop at the centre, a picture of `size` in its own pixels."""
    return image.resize(
        (width, height), Image.Resampling.BILINEAR, box=_cover_box(*size, width, height)
    )


def tell_of_size(what: str, size: tuple[int, int], frame: tuple[int, int], tell: Tell) -> None:
    """Tell how much is cropped and enlarged, if it is much.

    Args:
        what: what it is of, a picture or a video.
        size: its width and height in pixels.
        frame: width and height of the frame that it is to fill.
    """
    across, down = frame[0] / size[0], frame[1] / size[1]
    cropped = 1 - min(across, down) / max(across, down)
    if cropped > MUCH_CROPPED:
        tell(
            f"{cropped:.0%} of the {what} is cropped away, half of it on either side: it has not "
            "the shape of the video that is made. Crop it yourself to choose what is seen."
        )
    if max(across, down) > MUCH_ENLARGED:
        tell(
            f"The {what} is small: it is enlarged {max(across, down):.0f} times, so the video "
            "that is made begins blurred."
        )


def _orientation(image: Image.Image, tell: Tell) -> int:
    """EXIF (or XMP) orientation, 1 to 8; 1 where the picture has none that can be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    # EXIF is parsed by the same kind of code as pictures: see `_decoding`.
    except Exception as error:
        tell(f"The EXIF data of the picture cannot be read and is ignored: {error}")
        return 1
    return value if value in _ORIENTATIONS else 1


def _decode(image: Image.Image, width: int, height: int) -> tuple[float, float]:
    """Decode in place, a JPEG at a fraction of its size when that is enough for the frame.

    Returns the picture's width and height in decoded pixels. They are not whole when a fraction
    was decoded: the last column and row then stand for less than a pixel.
    """
    cover = max(width / image.width, height / image.height)
    enough = (
        math.ceil(image.width * cover * _DRAFT_MARGIN),
        math.ceil(image.height * cover * _DRAFT_MARGIN),
    )
    draft = image.draft(None, enough)
    image.load()
    return draft[1][2:] if draft else image.size


def _interpolable(image: Image.Image) -> Image.Image:
    """The picture in one of the modes L, LA, RGB, RGBA, CMYK and I;16.

    Palettes and transparent colours cannot be interpolated; an alpha channel can, since Pillow
    premultiplies it while it scales.
    """
    transparent = image.has_transparency_data
    if image.mode == "I;16":
        return _keyed_grey(image) if transparent else image
    if image.mode in ("1", "L", "LA"):
        mode = "LA" if transparent else "L"
    elif image.mode == "CMYK":
        mode = "CMYK"
    else:
        mode = "RGBA" if transparent else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _keyed_grey(image: Image.Image) -> Image.Image:
    """16-bit grey with one transparent value, as LA: Pillow has no mode that keeps both."""
    opaque = [255] * 65536
    opaque[image.info["transparency"]] = 0
    alpha = image.convert("I").point(opaque, "L")
    return Image.merge("LA", (_eight_bit(image), alpha))


def _eight_bit(image: Image.Image) -> Image.Image:
    """I;16 as L. Pillow's own conversion clips at 255, which makes most pictures white."""
    return image.point(lambda value: value * (1 / 257) + 0.5).convert("L")


def _cover_box(
    from_width: float, from_height: float, width: int, height: int
) -> tuple[float, float, float, float]:
    """The largest centred box of the frame's shape: left, top, right, bottom, not rounded."""
    if from_width * height > from_height * width:
        crop = from_height * width / height
        left = (from_width - crop) / 2
        return left, 0.0, left + crop, from_height
    crop = from_width * height / width
    top = (from_height - crop) / 2
    return 0.0, top, from_width, top + crop


def _flat_srgb(image: Image.Image, icc_profile: bytes | None, tell: Tell) -> Image.Image:
    """RGB mode in sRGB, without alpha."""
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    if image.mode == "I;16":
        image = _eight_bit(image)
    elif alpha is not None:
        image = image.convert(image.mode.removesuffix("A"))
    colour = _to_srgb(image, icc_profile, tell) if icc_profile else image.convert("RGB")
    if alpha is None:
        return colour
    flat = Image.new("RGB", colour.size, BACKGROUND)
    flat.paste(colour, mask=alpha)
    return flat


def _to_srgb(image: Image.Image, icc_profile: bytes, tell: Tell) -> Image.Image:
    """An L, RGB or CMYK picture as sRGB by its profile; a profile that fails is ignored."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
        # Grey pictures often carry an RGB profile; R = G = B is what it means for them.
        if image.mode == "L" and profile.profile.xcolor_space.strip() == "RGB":
            image = image.convert("RGB")
        converted = ImageCms.profileToProfile(
            image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError) as error:
        tell(f"The ICC profile of the picture cannot be used and is ignored: {error}")
        return image.convert("RGB")
    assert converted is not None  # None is the answer to inPlace=True alone.
    return converted
