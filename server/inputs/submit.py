"""A request's body becomes a row: accepted means committed, and the seed is fixed from then on."""

import hashlib
import re
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from server.auth.authenticator import Caller
from server.errors import RequestError, TextTooLarge
from server.fal.endpoints import ENDPOINTS, Limits, VideoRequest, parse_request
from server.fal.invalid_input import InvalidInput
from server.inputs.data_uri import decode_data_uri, is_data_uri
from server.inputs.image_store import ImageStore
from server.inputs.media import MEDIA
from server.jobs.store import JobStore
from server.models import (
    CANCELLED,
    CancelAnswer,
    Job,
    JobError,
    NewJob,
    RequestOptions,
    StoredArtifact,
)
from server.tasks import Signals, to_writer_thread

FLUSH_IS_KNOWN_S = 600.0
"""As at fal."""

MAX_TEXT_BYTES = 1024 * 1024
"""Of a body without its images."""

_STRING = re.compile(rb'"(\s*+data:)?[^"\\]*+(?:\\.[^"\\]*+)*+"', re.IGNORECASE | re.DOTALL)
"""A string of JSON; the group is there if it is a data URI."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A request for a video, as it came."""

    endpoint: str
    body: bytes
    base_url: str
    caller: Caller
    options: RequestOptions
    webhook_url: str | None = None
    is_run: bool = False
    traceparent: str | None = None

    @cached_property
    def body_sha256(self) -> str:
        """What tells this request from one with another body, or for another endpoint."""
        digest = hashlib.sha256(self.endpoint.encode() + b"\n")
        digest.update(self.body)
        return digest.hexdigest()


@dataclass(eq=False)
class Submissions:
    """Takes requests in, and back.

    `prompts_are_judged` is whether intake has a guardrail judge them: then no job can be claimed
    before.

    What accepts one returns the job as it was committed, or, if the request's idempotency key came
    before, the job that it belongs to.
    """

    store: JobStore
    images: ImageStore
    limits: Limits
    signals: Signals
    queue_limit: int
    prompts_are_judged: bool = False
    _flushed: dict[str, float] = field(default_factory=dict, init=False)

    async def accept(self, submission: Submission) -> Job:
        """Take a request in."""
        job = await to_writer_thread(self._accept, submission)
        self.signals.submitted.notify()
        self.signals.claimable.notify()
        return job

    async def accept_even_if_invalid(self, submission: Submission) -> Job:
        """Take a request in; invalid input makes a job that has already failed with its 422."""
        try:
            return await self.accept(submission)
        except InvalidInput as error:
            refusal = JobError(error.status, error.body)
            failed = _new_job(submission, input={}, tier=None, error=refusal)
            job = await to_writer_thread(self.store.submit, failed, queue_limit=self.queue_limit)
            self.signals.finished.notify()
            return job

    async def cancel(self, job_id: str) -> CancelAnswer:
        """Ask for the job to be stopped; the answer is committed before it is given."""
        answer = await to_writer_thread(self.store.request_cancel, job_id)
        self.signals.cancelled.notify()
        self.signals.finished.notify()
        return answer

    async def flush(self, endpoints: Collection[str], idempotency_key: str | None = None) -> None:
        """Cancel the jobs of these endpoints that wait.

        It is done once for an idempotency key within `FLUSH_IS_KNOWN_S`, however often it is asked
        for: jobs that came since stay.
        """
        now = time.monotonic()
        self._flushed = {
            key: at for key, at in self._flushed.items() if now - at < FLUSH_IS_KNOWN_S
        }
        if idempotency_key in self._flushed:
            return
        await to_writer_thread(self.store.end_waiting, CANCELLED, of=endpoints)
        if idempotency_key is not None:
            self._flushed[idempotency_key] = now
        self.signals.finished.notify()

    def parse(self, endpoint: str, body: bytes) -> VideoRequest:
        """What the body of a request to an endpoint asks for.

        Raises:
            TextTooLarge: there is too much besides its images.
            InvalidInput: see `parse_request`.
        """
        check_text(body)
        order = parse_request(endpoint, body, self.limits)
        images_size = sum(len(url) for url in order.media.values() if is_data_uri(url))
        if len(body) - images_size > MAX_TEXT_BYTES:
            # All of it but the images goes into a row, and is read again with every status.
            raise TextTooLarge(MAX_TEXT_BYTES)
        return order

    def _accept(self, submission: Submission) -> Job:
        known = self._resubmitted(submission)
        if known is not None:
            return known
        order = self.parse(submission.endpoint, submission.body)
        # Asked again when the row is written; this spares the disk an image that has no job.
        try:
            self.store.check_room(submission.caller.key_id, queue_limit=self.queue_limit)
        except RequestError:
            # The same request may have come in meanwhile, and filled the queue.
            known = self._resubmitted(submission)
            if known is None:
                raise
            return known
        fields = ENDPOINTS[submission.endpoint].media_fields
        with self.images.incoming() as images:
            kept = {
                name: images.add_sent(decode_data_uri(url, fields[name], MEDIA[name]))
                for name, url in order.media.items()
                if is_data_uri(url)
            }
            new = _new_job(submission, input=_input_of(order, kept), tier=order.spec.tier.value)
            if not order.media and not self.prompts_are_judged:
                new = replace(new, input_refs={})
            return self.store.submit(
                new,
                queue_limit=self.queue_limit,
                artifacts=kept.values(),
                place=images.place,
                # The names of fields are input, too.
                notes=order.notes if submission.options.store_io else (),
            )

    def _resubmitted(self, submission: Submission) -> Job | None:
        return self.store.resubmitted(
            submission.caller.key_id,
            submission.options.idempotency_key,
            submission.body_sha256,
        )


def check_text(body: bytes) -> None:
    """Refuse a body that has too much besides an image, before it is parsed.

    Parsed, small values take many times the memory of their text. Of data URIs only the longest
    counts as an image, since an endpoint has one.

    Raises:
        TextTooLarge: there is more than `MAX_TEXT_BYTES`.
    """
    longest = 0
    if len(body) > MAX_TEXT_BYTES:
        for string in _STRING.finditer(body):
            if string[1]:
                longest = max(longest, string.end() - string.start())
            if string.end() - longest > MAX_TEXT_BYTES:
                break
    if len(body) - longest > MAX_TEXT_BYTES:
        raise TextTooLarge(MAX_TEXT_BYTES)


def _new_job(
    submission: Submission,
    *,
    input: Mapping[str, Any],
    tier: str | None,
    error: JobError | None = None,
) -> NewJob:
    return NewJob(
        **asdict(submission.options),
        id=str(uuid.uuid4()),
        endpoint=submission.endpoint,
        base_url=submission.base_url,
        key_id=submission.caller.key_id,
        input=input,
        tier=tier,
        webhook_url=submission.webhook_url,
        error=error,
        body_sha256=submission.body_sha256,
        is_run=submission.is_run,
        traceparent=submission.traceparent,
    )


def _input_of(order: VideoRequest, kept: Mapping[str, StoredArtifact]) -> dict[str, Any]:
    """What the row says of the input: media are URLs, or artefacts where the bytes were sent.

    A clip has its `fps`, if its frames are not taken at its own rate.
    """
    media: dict[str, dict[str, Any]] = {
        name: {"artifact": kept[name].id} if name in kept else {"url": url}
        for name, url in order.media.items()
    }
    if order.clip_fps is not None:
        media["video"]["fps"] = order.clip_fps
    return {"spec": order.spec.to_json(), "media": media, "sync_mode": order.sync_mode}
