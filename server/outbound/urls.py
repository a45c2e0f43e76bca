"""Which URLs may be asked for at all, whatever their hosts' addresses are."""

import re

import httpcore
import httpx

from server.outbound.errors import FetchFailed, FetchRefused

_HOST = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:.]{2,45}", re.IGNORECASE)


def checked_url(url: str) -> httpx.URL:
    """The URL without its fragment, if it is one that may be asked for at all.

    Raises:
        FetchRefused: it is not.
    """
    try:
        parsed = httpx.URL(url)
    # Text with half a surrogate pair cannot be encoded.
    except (httpx.InvalidURL, UnicodeError) as error:
        raise FetchRefused("The URL is malformed.") from error
    if parsed.scheme not in ("http", "https"):
        raise FetchRefused("The URL must begin with http:// or https://.")
    if parsed.userinfo:
        raise FetchRefused("The URL must not contain a user name or a password.")
    if not _HOST.fullmatch(parsed.raw_host.decode("ascii")):
        raise FetchRefused("The URL has no proper host name.")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise FetchRefused(f"The URL's port is {parsed.port}; ports go from 1 to 65535.")
    return parsed.copy_with(fragment=None)


def next_url(response: httpcore.Response, url: httpx.URL) -> httpx.URL:
    """Where a redirect leads to.

    Raises:
        FetchFailed: it does not say.
        FetchRefused: that URL may not be asked for.
    """
    location = httpx.Headers(response.headers).get("location")
    if not location:
        raise FetchFailed(f"{url.host} redirects without saying where to.")
    try:
        joined = url.join(location)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise FetchRefused(f"{url.host} redirects to a malformed URL.") from error
    return checked_url(str(joined))
