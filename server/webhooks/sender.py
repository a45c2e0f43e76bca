"""Tell receivers how jobs ended, as fal does: signed, and again until they have taken it.

At least once, not exactly once: a receiver that took a webhook and broke off may get it again.
Nothing of a receiver's answer is kept but its status.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import structlog

from server.disk import shortage_of
from server.errors import UnknownJob
from server.fal.invalid_input import InvalidInput, error_item
from server.jobs.store import JobStore
from server.models import Job
from server.outbound.errors import FetchError, FetchRefused
from server.outbound.fetch import Fetcher
from server.tasks import (
    Signals,
    backoff_s,
    log_errors,
    on,
    retry_until_written,
    to_writer_thread,
)
from server.webhooks.signing import SigningKey
from server.webhooks.store import WebhookAttempt, WebhookStore

AT_ONCE = 16
AT_ONCE_FOR_A_RECEIVER = 4
"""So that one receiver that hangs leaves room for the others."""

MAX_TRIES = 10
TRY_S = 15.0
FIRST_WAIT_S = 10.0
"""Doubled after every try: ten tries take about an hour and a half, and never two."""

_log = structlog.get_logger("server")


@dataclass(eq=False, kw_only=True)
class Webhooks:
    """Sends the webhooks of one server."""

    webhooks: WebhookStore
    jobs: JobStore
    body_of: Callable[[Job], bytes]
    fetcher: Fetcher
    key: SigningKey
    signals: Signals
    now: Callable[[], float] = time.time
    """For signatures, which receivers compare with their own clocks."""
    jitter: Callable[[], float] = random.random
    tried: Callable[[str], None] = lambda _: None
    leads: Callable[[], bool] = lambda: True
    """Whether this server sends, among those that share the database."""

    def __post_init__(self) -> None:
        self._sending: dict[asyncio.Task[None], WebhookAttempt] = {}

    async def recover(self) -> None:
        """Take over the webhooks of a server that is gone. To be called before `run`."""
        longest_s = wait_s(MAX_TRIES, lambda: 1.0)
        await to_writer_thread(self.webhooks.recover, longest_wait_s=longest_s)

    async def run(self) -> None:
        """Send what is due, a few at a time, until cancelled."""
        await on(self.signals.finished, "claiming webhooks", self._send_due)

    async def close(self) -> None:
        """Break off what is being sent; the next start sends it again."""
        broken_off = dict(self._sending)
        for task in broken_off:
            task.cancel()
        await asyncio.gather(*broken_off, return_exceptions=True)
        for delivery in broken_off.values():
            giving = to_writer_thread(self.webhooks.give_back, delivery)
            await log_errors(f"giving back the webhook of job {delivery.job_id}", giving)

    def check(self, url: str) -> str:
        """The URL in its normal form. Its name, if it has one, is looked up at each try.

        Raises:
            InvalidInput: the URL is none that a webhook may ever be sent to.
        """
        try:
            return self.fetcher.check(url)
        except FetchRefused as error:
            message = f"The webhook cannot be sent. {error}"
            item = error_item(("query", "fal_webhook"), message, "value_error", url)
            raise InvalidInput([item]) from error

    async def _send_due(self) -> None:
        while self.leads() and (delivery := await to_writer_thread(self._claim)):
            task = asyncio.create_task(self._supervise(delivery))
            self._sending[task] = delivery
            task.add_done_callback(self._sending.pop)
            while len(self._sending) == AT_ONCE:
                await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)

    def _claim(self) -> WebhookAttempt | None:
        """The next one to send: not to a receiver that must answer first, and keys take turns."""
        sending = list(self._sending.values())
        receivers = Counter(delivery.receiver for delivery in sending)
        busy = [name for name, count in receivers.items() if count >= AT_ONCE_FOR_A_RECEIVER]
        by_key = Counter(delivery.key_id for delivery in sending)
        return self.webhooks.claim(AT_ONCE, by_key, besides=busy)

    async def _supervise(self, delivery: WebhookAttempt) -> None:
        what = f"webhook of job {delivery.job_id}"
        if not await log_errors(what, self._send_or_postpone(delivery)):
            problem = "This server could not make the webhook."
            await log_errors(what, self._note(delivery, partial(self._record, delivery, problem)))

    async def _send_or_postpone(self, delivery: WebhookAttempt) -> None:
        """Send it, unless this machine is short of what that needs: then later."""
        try:
            await self._send(delivery)
        except Exception as error:
            shortage = shortage_of(error)
            if shortage is None:
                raise
            _log.warning(str(shortage), during=f"webhook of job {delivery.job_id}")
            seconds = wait_s(delivery.tries, self.jitter)
            later = partial(self.webhooks.postponed, delivery, wait_s=seconds)
            await self._note(delivery, later)

    async def _send(self, delivery: WebhookAttempt) -> None:
        try:
            job = await asyncio.to_thread(self.jobs.job, delivery.job_id)
        except UnknownJob:
            reason = "The request is no longer kept."
            await self._note(delivery, partial(self.webhooks.given_up, delivery, reason))
            return
        body = await asyncio.to_thread(self.body_of, job)
        signed = self.key.headers(body, request_id=job.id, user_id=job.key_id, now=self.now())
        headers = {"Content-Type": "application/json", **signed}
        problem = await self._post(delivery, body, headers)
        await self._note(delivery, partial(self._record, delivery, problem))

    async def _note(self, delivery: WebhookAttempt, write: Callable[[], None]) -> None:
        """Write what became of a try: one that was taken is not sent again for locked tables."""
        await retry_until_written(f"the webhook of job {delivery.job_id}", write)

    async def _post(
        self, delivery: WebhookAttempt, body: bytes, headers: Mapping[str, str]
    ) -> str | None:
        """Send it once; what is wrong if the receiver has not taken it."""
        try:
            status = await self.fetcher.post(
                delivery.url, body, headers, deadline_s=TRY_S, key_id=delivery.key_id
            )
        except FetchError as error:
            return str(error)
        if 200 <= status < 300:
            return None
        return f"{delivery.receiver} answers with status {status}; 200 to 299 is wanted."

    def _record(self, delivery: WebhookAttempt, problem: str | None) -> None:
        # Neither the URL nor its query, which may hold a secret, enter the log.
        log = _log.bind(job_id=delivery.job_id, receiver=delivery.receiver, tries=delivery.tries)
        if problem is None:
            self.webhooks.delivered(delivery)
            self.tried("delivered")
        elif delivery.tries >= MAX_TRIES:
            self.webhooks.given_up(delivery, problem)
            self.tried("given_up")
            log.error("A webhook was given up", problem=problem)
        else:
            seconds = wait_s(delivery.tries, self.jitter)
            self.webhooks.failed(delivery, problem, wait_s=seconds)
            self.tried("failed")
            log.warning("A webhook was not taken", problem=problem)


def wait_s(tries: int, jitter: Callable[[], float]) -> float:
    """Seconds to wait after the last of so many tries, up to a quarter more or less.

    `jitter` gives a number from 0 to 1: webhooks that failed together shall not return together.
    """
    return backoff_s(tries, FIRST_WAIT_S) * (0.75 + 0.5 * jitter())
