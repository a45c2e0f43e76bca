"""The checkpoint's files from the Hugging Face Hub: what it lists, and their bytes.

Its own library finds the token and makes the URLs. The requests are made here: the library's
listing waits for ever on a hub that is silent, and its download takes wrong bytes of the
right size.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol
from urllib.parse import quote

import httpx
from huggingface_hub import get_token, hf_hub_url

from weights.errors import PullFailed
from weights.listing import ListedFile, Listing
from weights.manifest import Repository

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 10.0
"""How long the hub may be silent; Ctrl-C waits as long."""

MAX_TRIES = 6
"""Failures in a row, without one more byte between them, after which it is given up."""
FIRST_WAIT_S = 1.0
MAX_WAIT_S = 30.0
MAX_RETRY_AFTER_S = 600.0

TOKENS_PAGE = "https://huggingface.co/settings/tokens"


class Interrupted(Exception):
    """The bytes ended too early, or the hub is busy; another try may go better.

    retry_after: the seconds that the hub asks us to wait, None if it does not say.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Tries:
    """The tries at one thing: says why one failed, waits, and gives up after `MAX_TRIES`."""

    def __init__(
        self, what: str, say: Callable[[str], None], wait: Callable[[float], object]
    ) -> None:
        self._what = what
        self._say = say
        self._wait = wait
        self._failures = 0

    def progressed(self) -> None:
        """The last try came further than those before it."""
        self._failures = 0

    def failed(self, error: Interrupted) -> None:
        """Wait for the next try.

        Raises:
            PullFailed: there have been enough.
        """
        self._failures += 1
        if self._failures == MAX_TRIES:
            raise PullFailed(
                f"{self._what}: {error}, {MAX_TRIES} times in a row. What came is kept: the same "
                "command goes on from there."
            ) from error
        seconds = min(FIRST_WAIT_S * 2 ** (self._failures - 1), MAX_WAIT_S)
        if error.retry_after is not None:
            seconds = min(error.retry_after, MAX_RETRY_AFTER_S)
        self._say(f"{self._what}: {error}; the next try is in {seconds:.0f} s.")
        self._wait(seconds)


@dataclass(frozen=True, slots=True)
class Stream:
    """The bytes of a file from `start` on, to its end."""

    start: int
    chunks: Iterator[bytes]


class Source(Protocol):
    """Where files come from."""

    def open(self, file: ListedFile, start: int) -> AbstractContextManager[Stream]:
        """Read a file from there on, or, where that cannot be, from its beginning.

        Raises:
            Interrupted: then, or while its chunks are read.
            PullFailed: another try would do no better.
        """


class Hub:
    """A checkpoint's repository on the hub, or on a mirror of it.

    Its methods may be called from several threads at a time.
    """

    def __init__(self, endpoint: str, manifest: Repository) -> None:
        self._endpoint = httpx.URL(endpoint)
        self._manifest = manifest
        self._token = get_token()
        # httpx sends this header to the endpoint alone, and not to where it redirects.
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        self._client = httpx.Client(
            # Ranges and sizes are those of the file as it is, not of a compressed one.
            headers={
                "Accept-Encoding": "identity",
                "User-Agent": f"cosmos-serve/{version('cosmos-serve')}",
                **headers,
            },
            follow_redirects=True,
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, pool=None),
        )

    def __enter__(self) -> "Hub":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def listing(
        self, say: Callable[[str], None], wait: Callable[[float], object], folder: str = ""
    ) -> Listing:
        """All files of the pinned commit, or those of one folder.

        Raises:
            PullFailed: the hub cannot be reached, or does not give it to us.
        """
        manifest = self._manifest
        # One answer has up to a thousand files; the checkpoint has some thirty.
        place = f"{manifest.commit}/{quote(folder, safe='')}".rstrip("/")
        url = f"{self._endpoint}/api/models/{manifest.repository}/tree/{place}?recursive=true"
        tries = Tries("The list of files", say, wait)
        while True:
            try:
                with self._answer(url) as response:
                    text = response.read()
                return _read_tree(manifest, text)
            except Interrupted as error:
                tries.failed(error)
            except (ValueError, KeyError, TypeError) as error:
                raise PullFailed(f"{url} answered with something else than a listing.") from error

    def check_access(self, listing: Listing) -> None:
        """See that we are given files, too, and not their list alone.

        Raises:
            PullFailed: we are not.
        """
        # What may go better later is for the pull to wait for.
        with suppress(Interrupted), self.open(listing.files[0], 0):
            pass

    @contextmanager
    def open(self, file: ListedFile, start: int) -> Iterator[Stream]:
        """As `Source` has it. The hub sends files by their commit: they do not change meanwhile."""
        url = hf_hub_url(
            self._manifest.repository,
            file.path,
            revision=self._manifest.commit,
            endpoint=str(self._endpoint),
        )
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._answer(url, headers) as response:
            partial = response.status_code == httpx.codes.PARTIAL_CONTENT
            if partial and not response.headers.get("Content-Range", "").startswith(
                f"bytes {start}-"
            ):
                raise Interrupted("the hub sent another part of the file than the one asked for")
            # Raw: not decoded, and each chunk as it comes, so that little is lost with the process.
            yield Stream(start if partial else 0, response.iter_raw())

    @contextmanager
    def _answer(self, url: str, headers: dict[str, str] | None = None) -> Iterator[httpx.Response]:
        """A good answer, whose body is still to be read."""
        try:
            with self._client.stream("GET", url, headers=headers) as response:
                if not response.is_success:
                    raise self._refusal(response)
                yield response
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise Interrupted(f"{self._endpoint.host} cannot be reached ({reason})") from error

    def _refusal(self, response: httpx.Response) -> Exception:
        status, host = response.status_code, response.url.host
        answered = f"{host} answered {status} {response.reason_phrase}".rstrip()
        seconds = response.headers.get("Retry-After", "")
        # Where the hub redirects to, a URL is good for a time; the hub has another one.
        is_elsewhere = response.url.netloc != self._endpoint.netloc
        if status in (408, 429) or status >= 500 or is_elsewhere:
            return Interrupted(answered, float(seconds) if seconds.isdecimal() else None)
        said = response.headers.get("X-Error-Message", "").rstrip(".")
        answered += f" ({said})" if said else ""
        page, repository = self._manifest.page, self._manifest.repository
        if status == httpx.codes.UNAUTHORIZED and self._token is None:
            return PullFailed(
                f"{answered}: {repository} is gated. Accept its licence at {page}, make a token "
                f"that can read it at {TOKENS_PAGE}, and set it as HF_TOKEN or run: hf auth login"
            )
        if status == httpx.codes.UNAUTHORIZED:
            return PullFailed(
                f"{answered}: the token in HF_TOKEN, or of `hf auth login`, is not valid. Make "
                f"another at {TOKENS_PAGE}"
            )
        if status == httpx.codes.FORBIDDEN:
            return PullFailed(
                f"{answered}: the token's account may not read {repository}. Accept the licence "
                f"at {page} with that account; a fine-grained token also needs the right to read "
                f"gated repositories, see {TOKENS_PAGE}"
            )
        return PullFailed(f"{answered} to {response.url}")


def has_token() -> bool:
    """Whether the hub's library finds a token."""
    return get_token() is not None


def _read_tree(manifest: Repository, text: bytes) -> Listing:
    """The listing that the hub's answer holds."""
    entries: list[dict[str, Any]] = json.loads(text)
    files = tuple(
        ListedFile(
            path=entry["path"],
            size=entry["size"],
            hash=f"sha256:{entry['lfs']['oid']}"
            if entry.get("lfs")
            else f"git-blob-sha1:{entry['oid']}",
        )
        for entry in entries
        if entry["type"] == "file"
    )
    return Listing(repository=manifest.repository, commit=manifest.commit, files=files)
