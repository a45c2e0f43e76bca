"""The statements about webhooks that wait to be sent.

A row is there from the very transaction that ended its job. It is taken by lease, so several
processes may send from one table: a process that dies holds nothing for longer than its lease.
`tries` is the fence: the sender that took a row may write to it until it is taken again.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement, and_, select, update

from server.db import tables
from server.db.database import Database
from server.db.leases import FREE, is_free, lease_of
from server.jobs.limits import fewest_first, has_less_than_share

LEASE_S = 60.0
"""Several times what one try can take, so none has to be renewed."""


@dataclass(frozen=True, slots=True)
class WebhookAttempt:
    """One try to tell `receiver`, the host and port of `url`, how a job ended; the first is 1.

    `key_id` is whose job it was.
    """

    id: int
    job_id: str
    key_id: str | None
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

    def recover(self, *, longest_wait_s: float) -> None:
        """Let go of what a server that is gone had taken: its tries are due again at once.

        So is one that is due later than any wait can last: the clock was put back. Where others
        use the database, what they have taken is left to them until its lease lapses.
        """
        webhooks = tables.webhooks.c
        # What is not due any more has no lease, and there is ever more of it.
        taken = and_(webhooks.not_before >= 0, webhooks.lease_until.is_not(None))
        with self._database.write() as db:
            if not self._database.is_shared:
                db.execute(update(tables.webhooks).where(taken).values(**FREE))
            now = self._now()
            late = update(tables.webhooks).where(webhooks.not_before > now + longest_wait_s)
            db.execute(late.values(not_before=now))

    def claim(
        self,
        places: int = 1,
        in_hand: Mapping[str | None, int] = MappingProxyType({}),
        *,
        besides: Collection[str] = (),
    ) -> WebhookAttempt | None:
        """Take the next webhook that is due; None if none is, but for these receivers.

        Of the `places` in which webhooks are sent keys have so many `in_hand`. Keys take turns, and
        none has all the places: the one counts that is due the longest of the key with the fewest.
        """
        webhooks = tables.webhooks.c
        now = self._now()
        due = and_(
            webhooks.not_before <= now,
            is_free(tables.webhooks),
            webhooks.receiver.not_in(besides),
        )
        first = (
            select(webhooks.id, webhooks.job_id, tables.jobs.c.key_id, webhooks.url)
            .add_columns(webhooks.receiver, webhooks.tries + 1)
            .select_from(tables.webhooks.join(tables.jobs))
            .where(due, has_less_than_share(in_hand, places))
            .order_by(fewest_first(in_hand), webhooks.not_before, webhooks.id)
            .limit(1)
        )
        # There is seldom one, and looking holds up no writer.
        with self._database.read() as db:
            if db.execute(first).one_or_none() is None:
                return None
        with self._database.write() as db:
            locked = first.with_for_update(of=tables.webhooks, skip_locked=True, key_share=True)
            row = db.execute(locked).one_or_none()
            if row is None:
                return None
            taken = WebhookAttempt(*row)
            claim = update(tables.webhooks).where(webhooks.id == taken.id)
            db.execute(claim.values(tries=taken.tries, **lease_of(self._owner, LEASE_S)))
            return taken

    def delivered(self, delivery: WebhookAttempt) -> None:
        """The receiver has it."""
        self._change(delivery, delivered_at=self._now(), not_before=None, last_error=None)

    def failed(self, delivery: WebhookAttempt, error: str, *, wait_s: float) -> None:
        """This try came to nothing, and there will be another."""
        self._change(delivery, not_before=self._now() + wait_s, last_error=error)

    def postponed(self, delivery: WebhookAttempt, *, wait_s: float) -> None:
        """This server could not try: it is not counted."""
        self._change(delivery, tries=delivery.tries - 1, not_before=self._now() + wait_s)

    def given_up(self, delivery: WebhookAttempt, error: str) -> None:
        """This try came to nothing, and was the last."""
        self._change(delivery, given_up_at=self._now(), not_before=None, last_error=error)

    def give_back(self, delivery: WebhookAttempt) -> None:
        """This try was broken off by ourselves: it is due again at once."""
        self._change(delivery)

    def _change(self, delivery: WebhookAttempt, **values: Any) -> None:
        """Write what became of a try, unless the row was taken again meanwhile."""
        with self._database.write() as db:
            db.execute(update(tables.webhooks).where(_held(delivery)).values(**FREE, **values))


def _held(delivery: WebhookAttempt) -> ColumnElement[bool]:
    webhooks = tables.webhooks.c
    return and_(
        webhooks.id == delivery.id,
        webhooks.tries == delivery.tries,
        webhooks.lease_until.is_not(None),
    )
