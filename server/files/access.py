"""Who may read a file: all who have its URL, its signed URL, or the key that it belongs to.

A video belongs to the key of its job, an upload to the key that sent it. What was made while no key
was asked for belongs to nobody.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from server.auth.authenticator import Caller
from server.config.setting_types import FilesAuth
from server.errors import FileUrlRefused, RequestError, UnknownFile
from server.files.links import LinkSigner
from server.keys import Scope
from server.models import Job

_UNSIGNED = (
    "The URL of this file needs the signature that the server gave with it: use it whole, with its "
    "query."
)
_EXPIRED = "The time of this URL is over. The result of a request, asked for again, has a new one."


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPermission:
    """Which files may be read: those of the `owners`, or everybody's if that is None.

    All else is answered with the `refusal`, whether it exists or not. `ends_at` is Unix seconds.
    """

    owners: frozenset[str | None] | None = None
    ends_at: float | None = None
    refusal: Callable[[], RequestError] = UnknownFile

    def allows(self, owner: str | None) -> bool:
        """Whether the files of this key, or of nobody, may be read."""
        return self.owners is None or owner in self.owners


READ_ALL = ReadPermission()


class FileAccess:
    """Decides for one server. `signer` is of use with `signed` alone, and needed there."""

    def __init__(
        self,
        kind: FilesAuth = "public",
        signer: LinkSigner | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._kind = kind
        self._signer = signer
        self.now = now
        """The time by which this server counts, in Unix seconds."""

    @property
    def needs_key(self) -> bool:
        """Whether readers must say who they are."""
        return self._kind == "key"

    def by_caller(self, caller: Caller) -> ReadPermission:
        """What a key, or a token that it lent, may read: its own files.

        Files that belong to no key are for the people who run the server.
        """
        nobodys: set[str | None] = {None} if Scope.ADMIN in caller.scopes else set()
        return ReadPermission(owners=frozenset({caller.key_id} | nobodys))

    def by_id(self, caller: Caller) -> ReadPermission:
        """What a caller may read who names the id of a file and not its URL."""
        return READ_ALL if self._kind == "public" else self.by_caller(caller)

    def by_url(self, file_id: str, query: str) -> ReadPermission:
        """What the URL of a file opens by itself.

        Raises:
            FileUrlRefused: it has to be signed, and is not, or its time is over.
        """
        permit = self._by_url(file_id, query, self.now())
        if permit.owners is not None:
            raise permit.refusal()
        return permit

    def by_job(self, job: Job, file_id: str, query: str) -> ReadPermission:
        """What a job may take for its picture: what its URL opened when the job was submitted.

        Where that is not all, the files of the job's own key besides.
        """
        if self.needs_key:
            return ReadPermission(owners=frozenset({job.key_id}))
        permit = self._by_url(file_id, query, job.submitted_at)
        if permit.owners is None or job.key_id is None:
            return permit
        return ReadPermission(owners=frozenset({job.key_id}), refusal=permit.refusal)

    def _by_url(self, file_id: str, query: str, at: float) -> ReadPermission:
        if self._kind == "public":
            return READ_ALL
        assert self._signer is not None, "signed URLs are asked for, and nothing signs them"
        end = self._signer.end_of(file_id, query)
        if end is None:
            return ReadPermission(owners=frozenset(), refusal=partial(FileUrlRefused, _UNSIGNED))
        if end <= at:
            return ReadPermission(owners=frozenset(), refusal=partial(FileUrlRefused, _EXPIRED))
        return ReadPermission(ends_at=end)
