"""The statements about webhooks that wait to be sent.

A row is there from the very transaction that ended its job. It is taken by lease, so several
processes may send from one table: a process that dies holds nothing for longer than its lease.
`tries` is the fence: the sender that took a row may write to it until it is taken again.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, update

from server.db import tables
from server.db.database import Database

LEASE_S = 60.0
"""Several times what one try can take."""


@dataclass(frozen=True, slots=True)
class WebhookAttempt:
    """One try to tell `receiver`, the host and port of `url`, how a job ended; the first is 1."""

    id: int
    job_id: str
    url: str
    receiver: str
    tries: int


class WebhookStore:
    """The webhooks of one database. `owner` names this server in what it claims."""

    def __init__(
        self, database: Database, *, owner: str, now: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._owner = owner
        self._now = now

    def recover(self) -> None:
        """Let go of what a server that is gone had taken: its tries are due again at once."""
        taken = tables.webhooks.c.lease_until.is_not(None)
        with self._database.write() as db:
            free = update(tables.webhooks).where(taken)
            db.execute(free.values(claimed_by=None, lease_until=None))

    def claim(self, *, besides: Collection[str] = ()) -> WebhookAttempt | None:
        """Take the webhook that is due the longest; None if none is, but for these receivers."""
        webhooks = tables.webhooks.c
        now = self._now()
        due = and_(
            webhooks.not_before <= now,
            or_(webhooks.lease_until.is_(None), webhooks.lease_until <= now),
            webhooks.receiver.not_in(besides),
        )
        first = select(webhooks.id).where(due).order_by(webhooks.not_before, webhooks.id).limit(1)
        claim = (
            update(tables.webhooks)
            .where(webhooks.id == first.scalar_subquery())
            .values(tries=webhooks.tries + 1, claimed_by=self._owner, lease_until=now + LEASE_S)
            .returning(
                webhooks.id, webhooks.job_id, webhooks.url, webhooks.receiver, webhooks.tries
            )
        )
        # There is seldom one, and looking holds up no writer.
        with self._database.read() as db:
            if db.execute(first).one_or_none() is None:
                return None
        with self._database.write() as db:
            row = db.execute(claim).one_or_none()
            return None if row is None else WebhookAttempt(*row)

    def delivered(self, delivery: WebhookAttempt) -> None:
        """The receiver has it."""
        self._change(delivery, delivered_at=self._now(), not_before=None, last_error=None)

    def failed(self, delivery: WebhookAttempt, error: str, *, retry_at: float) -> None:
        """This try came to nothing, and there will be another."""
        self._change(delivery, not_before=retry_at, last_error=error)

    def given_up(self, delivery: WebhookAttempt, error: str) -> None:
        """This try came to nothing, and was the last."""
        self._change(delivery, given_up_at=self._now(), not_before=None, last_error=error)

    def give_back(self, delivery: WebhookAttempt) -> None:
        """This try was broken off by ourselves: it is due again at once."""
        self._change(delivery)

    def _change(self, delivery: WebhookAttempt, **values: Any) -> None:
        """Write what became of a try, unless the row was taken again meanwhile."""
        free = {"claimed_by": None, "lease_until": None}
        with self._database.write() as db:
            db.execute(update(tables.webhooks).where(_held(delivery)).values(**free, **values))


def _held(delivery: WebhookAttempt) -> ColumnElement[bool]:
    webhooks = tables.webhooks.c
    return and_(
        webhooks.id == delivery.id,
        webhooks.tries == delivery.tries,
        webhooks.lease_until.is_not(None),
    )
