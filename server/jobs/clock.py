"""The time by which a server counts, and whether the machine's clock can be believed at a start.

Waits, ages and durations stand in the tables as Unix seconds. Were they the wall clock's, a clock
that is set would end all of them at once, or none for a year. So a server asks the wall clock when
it starts, and counts on from there.
"""

import time
from collections.abc import Callable

import structlog
from sqlalchemy import insert, select, update

from server.db import tables
from server.db.database import Database

FOLLOWED_S = 5.0
"""A wall clock that is off by no more was corrected, as time servers do, and is followed."""
DAY_S = 86_400.0
DOUBT_S = 6 * 3600.0
"""How long a clock is doubted: time servers set it within minutes, and people within hours."""

_row = tables.heartbeat.c
_log = structlog.get_logger("server")


def uptime() -> float:
    """Seconds since the machine was started, those that it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """Unix seconds that pass evenly, however the wall clock is set meanwhile."""

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = uptime
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()
        self._was_set = False

    def now(self) -> float:
        return self._offset + self._steady()

    def follow(self) -> None:
        """Take over a small correction of the wall clock; say so of one that is not."""
        ahead = self._wall() - self.now()
        if abs(ahead) <= FOLLOWED_S:
            self._offset += ahead
        elif not self._was_set:
            _log.warning(
                "The clock of this machine was set. The server counts on by the old time; its next "
                "start takes the new one",
                seconds=round(ahead),
            )
        self._was_set = abs(ahead) > FOLLOWED_S


class Heartbeat:
    """Writes down how late it is, so that the next start sees whether its clock goes on from there.

    A clock that is more than a day ahead of the last heartbeat is doubted for six hours: nothing
    is to be removed for its age meanwhile. If the server was away for so long, that comes late.
    The hours are those that servers run, over any number of starts, so a doubt has an end.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        """Compare the clock with the last heartbeat."""
        self._database = database
        self._clock = clock
        with database.read() as db:
            last = db.execute(select(_row.at, _row.doubted_s)).one_or_none()
        now = clock.now()
        self._doubted_until = now
        if last is not None and now - last.at > DAY_S:
            self._doubted_until = now + DOUBT_S - last.doubted_s
            _log.warning(
                "The clock is far ahead of the last time that this server ran: nothing is removed "
                "for its age until it has run for six hours. If the clock is wrong, set it and "
                "start the server again",
                days=round((now - last.at) / DAY_S, 1),
                hours_left=round((self._doubted_until - now) / 3600, 1),
            )

    def is_doubted(self) -> bool:
        """Whether the clock may be wrong."""
        return self._clock.now() < self._doubted_until

    def beat(self) -> None:
        """Write down how late it is, or, while that is doubted, for how long it has been."""
        self._clock.follow()
        now = self._clock.now()
        values = {"at": now, "doubted_s": 0.0}
        if self.is_doubted():
            values = {"doubted_s": DOUBT_S - (self._doubted_until - now)}
        with self._database.write() as db:
            if db.execute(update(tables.heartbeat).values(values)).rowcount == 0:
                db.execute(insert(tables.heartbeat).values(id=1, **values))
