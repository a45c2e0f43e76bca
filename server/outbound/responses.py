"""A file out of another server's answer."""

import time
from email.utils import parsedate_to_datetime
from typing import IO

import httpcore
import httpx

from server.outbound.content_codings import FRAME_BYTES, applied, codings_of, is_framed
from server.outbound.errors import FetchFailed, FetchTooLarge, HostUnavailable
from server.tasks import in_thread

_PASSING = frozenset({429, 502, 503, 504})
"""Statuses that say nothing of the file: a second try may find it."""


async def save_file(
    response: httpcore.Response, url: httpx.URL, file: IO[bytes], max_bytes: int
) -> None:
    """Write the body of a plain 200 to `file`, in place of what it has; reading stops where it
    exceeds `max_bytes`.

    Raises:
        FetchFailed: the answer is another, or the body is compressed.
        HostUnavailable: the host is busy, and says so.
        FetchTooLarge: the body has more bytes.
    """
    headers = httpx.Headers(response.headers)
    if response.status != 200:
        message = f"{url.host} answers with status {response.status}; 200 is wanted."
        if response.status in _PASSING:
            raise HostUnavailable(message, _retry_after_s(headers.get("retry-after")))
        raise FetchFailed(message)
    codings = codings_of(headers.get_list("content-encoding"))
    if applied(codings):
        raise FetchFailed(f"{url.host} compresses the file, though it was asked not to.")
    too_large = FetchTooLarge(f"The file is larger than {max_bytes:,} bytes.")
    if int(headers.get("content-length", 0)) > max_bytes:
        raise too_large
    file.seek(0)
    file.truncate()
    size = 0
    head = b""
    async for chunk in response.aiter_stream():
        size += len(chunk)
        if size > max_bytes:
            raise too_large
        head = head if len(head) >= FRAME_BYTES else head + chunk[:FRAME_BYTES]
        await in_thread(file.write, chunk)
    if is_framed(codings, head[:FRAME_BYTES]):
        raise FetchFailed(
            f"The file at {url.host} was stored in the frames of aws-chunked: store it without."
        )
    await in_thread(file.flush)


def _retry_after_s(header: str | None) -> float | None:
    """The seconds that a Retry-After names, as such or as a date; None if it names none."""
    if header is None:
        return None
    if header.isascii() and header.isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
