"""What a file is by its first bytes, in words for the person who sent it as a picture."""

ACCEPTED = "JPEG, PNG, WebP, GIF or AVIF"
"""The formats that are read, as sentences list them."""

READ = frozenset({"a JPEG file", "a PNG file", "a GIF file", "a WebP file", "an AVIF file"})
"""The kinds that are read."""

_STARTS = {
    b"\xff\xd8\xff": "a JPEG file",
    b"\x89PNG\r\n\x1a\n": "a PNG file",
    b"GIF8": "a GIF file",
    b"II*\0": "a TIFF or camera raw file",
    b"MM\0*": "a TIFF or camera raw file",
    b"II+\0": "a TIFF file",
    b"MM\0+": "a TIFF file",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 file",
    b"\xff\x4f\xff\x51": "a JPEG 2000 file",
    b"\0\0\0\x0cJXL ": "a JPEG XL file",
    b"\xff\x0a": "a JPEG XL file",
    b"II\xbc\x01": "a JPEG XR file",
    b"8BPS": "a Photoshop file",
    b"\0\0\1\0": "an icon",
    b"v/1\1": "an OpenEXR file",
    b"#?RADIANCE": "a Radiance file",
    b"DDS ": "a DDS texture",
    b"qoif": "a QOI file",
    b"P5\n": "a PGM file",
    b"P6\n": "a PPM file",
    b"%PDF-": "a PDF document",
    b"%!PS": "a PostScript document",
    b"PK\3\4": "a ZIP archive",
    b"\x1f\x8b": "compressed with gzip",
    b"\x1aE\xdf\xa3": "a video",
}
_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})


def kind_of(data: bytes) -> str | None:
    """What the file is, with its article; None if that is not known."""
    for start, kind in _STARTS.items():
        if data.startswith(start):
            return kind
    if data[:4] == b"RIFF":
        return {b"WEBP": "a WebP file", b"AVI ": "a video"}.get(data[8:12])
    if data[4:8] == b"ftyp":
        return _kind_by_brands(data)
    # Two letters are not enough to tell; the four bytes that are zero in every BMP are.
    if data[:2] == b"BM" and data[6:10] == bytes(4):
        return "a BMP file"
    return _kind_of_text(data)


def _kind_by_brands(data: bytes) -> str:
    """The kind of an ISO media file: HEIC and AVIF share a container with videos."""
    box = data[8 : min(int.from_bytes(data[:4]), 256)]
    brands = {box[place : place + 4] for place in range(0, len(box), 4) if place != 4}
    if brands & {b"avif", b"avis"}:
        return "an AVIF file"
    return "a HEIC file" if brands & _HEIC or b"mif1" in brands else "a video"


def _kind_of_text(data: bytes) -> str | None:
    text = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if text.startswith(b"<svg") or (text.startswith((b"<?xml", b"<!--")) and b"<svg" in text):
        return "an SVG drawing"
    return None
