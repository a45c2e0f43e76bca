"""Sessions: what a browser has in place of a key, once the key was shown.

A session is a random value, of which the table has the SHA-256. It ends after `SESSION_S`, at its
sign-out, or with its key.
"""

import asyncio
import hashlib
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from sqlalchemy import delete, insert, select

from server.auth.key_store import COPY_LIVES_S
from server.db import tables
from server.db.database import Database
from server.keys import ApiKey

SESSION_S = 12 * 3600
SESSIONS_OF_KEY = 100
"""A sign-in beyond these ends the oldest of the key."""

_sessions = tables.sessions.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session as we keep it. Times are Unix seconds.

    `key_sha256` is that of the key's secret: a key that the settings name may get another.
    """

    value_sha256: str = field(repr=False)
    key_id: str
    key_sha256: str = field(repr=False)
    created_at: float
    expires_at: float


class SessionStore:
    """The table of sessions. Every method blocks."""

    def __init__(self, database: Database, *, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now

    def begin(self, key: ApiKey) -> tuple[str, Session]:
        """A new session of a key, and the value that its browser is to keep."""
        value, now = secrets.token_urlsafe(32), self._now()
        session = Session(
            value_sha256=_sha256(value),
            key_id=key.id,
            key_sha256=key.secret_sha256,
            created_at=now,
            expires_at=min(now + SESSION_S, key.expires_at or math.inf),
        )
        newest_first = select(_sessions.value_sha256).where(_sessions.key_id == key.id)
        newest_first = newest_first.order_by(_sessions.created_at.desc())
        too_many = newest_first.offset(SESSIONS_OF_KEY - 1)
        with self._database.write() as db:
            db.execute(delete(tables.sessions).where(_sessions.value_sha256.in_(too_many)))
            db.execute(insert(tables.sessions).values(asdict(session)))
        return value, session

    def find(self, value: str) -> Session | None:
        """The session of that value, unless its time is over."""
        query = select(tables.sessions).where(
            _sessions.value_sha256 == _sha256(value), _sessions.expires_at > self._now()
        )
        with self._database.read() as db:
            row = db.execute(query).one_or_none()
        return None if row is None else Session(**row._mapping)

    def end(self, value: str) -> None:
        """End the session of that value, if there is one."""
        with self._database.write() as db:
            db.execute(delete(tables.sessions).where(_sessions.value_sha256 == _sha256(value)))

    def sweep(self) -> None:
        """Remove the sessions whose time is over."""
        with self._database.write() as db:
            db.execute(delete(tables.sessions).where(_sessions.expires_at <= self._now()))


class SessionCache:
    """The sessions that were found a moment ago, so that a poll costs no look at the table."""

    def __init__(self, store: SessionStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.store = store
        self._clock = clock
        self._found: dict[str, Session] = {}
        self._began_at = -math.inf

    async def find(self, value: str) -> Session | None:
        """The session of that value, unless it is over."""
        if self._clock() - self._began_at >= COPY_LIVES_S:
            self.forget()
        # What is read now is not kept if `forget` is called meanwhile.
        found = self._found
        if value not in found:
            session = await asyncio.to_thread(self.store.find, value)
            if session is None:
                return None
            found[value] = session
        return found[value]

    def forget(self) -> None:
        """Look at the table again for each session: one has just ended."""
        self._found, self._began_at = {}, self._clock()


def _sha256(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
