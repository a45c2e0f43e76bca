"""Data URIs: the bytes of a picture or video that came within the request."""

import base64
import binascii
from urllib.parse import unquote_to_bytes

from pipeline.errors import InputError
from server.fal.invalid_input import InvalidInput
from server.inputs.media import Medium

_URL_LETTERS = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = b" \t\n\v\f\r"


def decode_data_uri(uri: str, field: str, medium: Medium) -> bytes:
    """The bytes of a data URI. What it says of their type is ignored: the bytes tell.

    Raises:
        InvalidInput: it is malformed, or has more bytes than the medium may have.
    """
    try:
        return _decode_data_uri(uri, field, medium)
    except InputError as error:
        raise InvalidInput.from_error(error, uri) from error


def is_data_uri(url: str) -> bool:
    return url[:5].lower() == "data:"


def _decode_data_uri(uri: str, field: str, medium: Medium) -> bytes:
    header, comma, body = uri.partition(",")
    if not comma:
        raise medium.unreadable(field, "The data URI has no comma, so it has no data.")
    if _is_base64(header):
        data = _decode_base64(unquote_to_bytes(body), field, medium)
    # Three characters for a byte at most; looked at before decoding.
    elif len(body) - 2 * body.count("%") > medium.max_bytes:
        raise medium.too_large(field)
    else:
        data = unquote_to_bytes(body)
    if len(data) > medium.max_bytes:
        raise medium.too_large(field)
    return data


def _decode_base64(text: bytes, field: str, medium: Medium) -> bytes:
    """Decode as browsers do: line breaks and spaces do not count, and `=` may be left out.

    The letters of URLs, - and _, are as good as + and /.
    """
    digits = text.translate(_URL_LETTERS, _WHITESPACE).rstrip(b"=")
    # Four characters for three bytes; looked at before decoding.
    if len(digits) > medium.max_bytes * 4 / 3 + 4:
        raise medium.too_large(field)
    try:
        return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except binascii.Error as error:
        raise medium.unreadable(field, f"The data URI is not base64: {error}.") from error


def _is_base64(header: str) -> bool:
    return header.lower().replace(" ", "").endswith(";base64")
