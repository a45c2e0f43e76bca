"""The URLs of files. Where files are signed, each URL has an end and a signature in its query.

The signature is an HMAC-SHA256 of the file's id and the end, under a key of this purpose alone,
which is made of the secret of the server's tokens. Host and path are not signed: a proxy may know
the server by other names, and a file by no other.
"""

import hashlib
import hmac
import time
from collections.abc import Callable
from urllib.parse import parse_qsl, urlencode

from server.fal.urls import Service, url_for
from server.models import Job, StoredArtifact

END, SIGNATURE = "expires", "signature"
"""What the query of a signed URL has: Unix seconds, and hexadecimal digits."""

# Tokens make their keys of the same secret and 64 hexadecimal digits, which this is not.
_PURPOSE = b"cosmos-serve: signed URLs of files"


class LinkSigner:
    """Signs the URLs of files, and knows its own. A URL is good for at most `seconds`."""

    def __init__(self, secret: bytes, *, seconds: int, now: Callable[[], float] = time.time):
        self._key = hmac.digest(secret, _PURPOSE, hashlib.sha256)
        self._seconds = seconds
        self._now = now

    def query(self, file_id: str, *, since: float | None = None) -> str:
        """The query of a URL that is good for half of its seconds at least.

        It is the same for half of them, and then for the next half, counted from `since`, which is
        now if it is left out: who asks twice for a result, gets it twice.
        """
        now = self._now()
        begun, half = now if since is None else since, self._seconds / 2
        halves = max(0.0, now - begun) // half
        end = str(int(begun + halves * half) + self._seconds)
        return urlencode({END: end, SIGNATURE: self._sign(file_id, end)})

    def end_of(self, file_id: str, query: str) -> float | None:
        """When the time of a URL with this query ends; None if we did not sign it."""
        given = dict(parse_qsl(query))
        end = given.get(END, "")
        wanted = self._sign(file_id, end)
        is_ours = hmac.compare_digest(wanted.encode(), given.get(SIGNATURE, "").encode())
        return float(end) if is_ours else None

    def _sign(self, file_id: str, end: str) -> str:
        return hmac.digest(self._key, f"{file_id}\n{end}".encode(), hashlib.sha256).hex()


class FileLinks:
    """Writes the URLs of one server's files, which are signed if there is a `signer`."""

    def __init__(self, signer: LinkSigner | None = None) -> None:
        self._signer = signer

    def url(self, base_url: str, file_id: str, name: str, *, since: float | None = None) -> str:
        """The URL under which callers of `base_url` read a file; `since` as for a `LinkSigner`."""
        url = url_for(base_url, Service.FILES, f"/{file_id}/{name}")
        if self._signer is None:
            return url
        return f"{url}?{self._signer.query(file_id, since=since)}"

    def of_video(self, job: Job, video: StoredArtifact) -> str:
        """The URL under which the job's caller reads its video, or the thumbnail of it."""
        return self.url(job.base_url, video.id, video.name, since=job.finished_at)
