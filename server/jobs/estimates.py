"""When a request will start, and how long it will take: by what this server has measured.

The statements read what waits, what runs, and what ended since they last did: they do not grow with
the table, and are not done for every caller that polls. What was never measured is None.
"""

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import inf
from typing import Any

from sqlalchemy import Connection, and_, select

from pipeline.spec import VideoSpec
from server.db.database import Database
from server.jobs.pace import Pace, Shape
from server.jobs.pause import is_paused
from server.jobs.statements import QUEUED, is_served, jobs
from server.models import Estimate, Job, JobStatus
from server.tasks import LOOK_AGAIN_S

_AT_ONCE = 50
"""Jobs whose inputs are read at once, for a prompt may have a megabyte."""

_OF_SPEC = tuple(field.name for field in fields(Shape) if field.name != "endpoint")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Queue:
    """What runs, with the times of the starts, and what waits, in the order of its places.

    It is that of so many writes, and good until a time of the monotonic clock.
    """

    running: Sequence[tuple[Shape | None, float]] = ()
    waiting: Sequence[Shape | None] = ()
    places: Sequence[tuple[int, float]] = ()
    is_paused: bool = False
    writes: int = 0
    until: float = 0.0


_NOTHING_READ = _Queue()


class Estimates:
    """The estimates of one server. Every method blocks, and any thread may call it.

    `num_slots` says how many slots can work now. Jobs of other endpoints than `endpoints` are not
    started; None is all.
    """

    def __init__(
        self,
        database: Database,
        pace: Pace,
        num_slots: Callable[[], int],
        *,
        endpoints: Collection[str] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._pace = pace
        self._num_slots = num_slots
        self._served = is_served(endpoints)
        self._now = now
        self._reading = threading.Lock()
        self._learned_until = 0.0
        self._writes = 0
        self._kept = _NOTHING_READ
        self._shapes: dict[int, Shape | None] = {}
        """Those of what waits and runs, by `seq`: an input stays as it is until its job ends."""

    def written(self, log_of: str | None) -> None:
        """Something was committed, as `JobStore.on_write` tells it; callable from any thread."""
        if log_of is None:
            self._writes += 1

    def of_request(self, endpoint: str, spec: VideoSpec, priority: int) -> Estimate:
        """What is to be expected of a request that is not submitted yet."""
        return self._estimate(Shape.of(endpoint, spec), (-priority, inf))

    def of_waiting(self, job: Job) -> Estimate:
        """What is to be expected of a job that waits."""
        shape = Shape.of(job.endpoint, VideoSpec.from_json(dict(job.input["spec"])))
        return self._estimate(shape, (-job.priority, job.seq))

    def _estimate(self, shape: Shape, place: tuple[int, float]) -> Estimate:
        queue = self._current()
        position = bisect_left(queue.places, place)
        waiting = Counter(queue.waiting[:position])
        wait_s = None if queue.is_paused else self._wait_s(queue.running, waiting)
        return Estimate(
            stage_seconds=self._pace.stage_seconds(shape),
            position=position,
            wait_s=wait_s,
            starts_at=None if wait_s is None else self._now() + wait_s,
        )

    def _current(self) -> _Queue:
        """The queue as it was a second ago at most, with all that this process has committed."""
        with self._reading:
            kept = self._kept
            if kept.writes != self._writes or kept.until <= time.monotonic():
                kept = self._kept = self._read()
            return kept

    def _read(self) -> _Queue:
        writes, until = self._writes, time.monotonic() + LOOK_AGAIN_S
        ahead = select(jobs.priority, jobs.seq).where(and_(QUEUED, self._served))
        is_running = jobs.status == JobStatus.IN_PROGRESS.value
        with self._database.read() as db:
            self._learn(db)
            running = db.execute(select(jobs.seq, jobs.started_at).where(is_running)).all()
            waiting = db.execute(ahead.order_by(jobs.priority.desc(), jobs.seq)).all()
            paused = db.execute(select(is_paused())).scalar_one()
            shapes = self._shapes = self._shapes_of(db, [row.seq for row in (*running, *waiting)])
        return _Queue(
            running=[(shapes[row.seq], row.started_at) for row in running],
            waiting=[shapes[row.seq] for row in waiting],
            places=[(-row.priority, row.seq) for row in waiting],
            is_paused=paused,
            writes=writes,
            until=until,
        )

    def _shapes_of(self, db: Connection, seqs: Sequence[int]) -> dict[int, Shape | None]:
        """The shapes of jobs; their inputs are read the first time."""
        shapes = {seq: self._shapes[seq] for seq in seqs if seq in self._shapes}
        new = [seq for seq in seqs if seq not in shapes]
        # Not by the database's own functions for JSON: PostgreSQL's fail on an input that has the
        # character 0 anywhere, and with it the statement for all jobs.
        query = select(jobs.seq, jobs.endpoint, jobs.input)
        for start in range(0, len(new), _AT_ONCE):
            batch = new[start : start + _AT_ONCE]
            for row in db.execute(query.where(jobs.seq.in_(batch))):
                shapes[row.seq] = _shape_of(row.endpoint, row.input)
        return shapes

    def _wait_s(
        self,
        running: Sequence[tuple[Shape | None, float]],
        waiting: Mapping[Shape | None, int],
    ) -> float | None:
        num_slots = self._num_slots()
        if num_slots == 0:
            return None
        if len(running) + sum(waiting.values()) < num_slots:
            return 0.0
        busy = [(self._seconds(shape), self._now() - since) for shape, since in running]
        work = [(self._seconds(shape), count) for shape, count in waiting.items()]
        left = [max(0.0, seconds - passed) for seconds, passed in busy if seconds is not None]
        todo = [seconds * count for seconds, count in work if seconds is not None]
        if len(left) < len(busy) or len(todo) < len(work):
            return None
        return wait_of(left + [0.0] * (num_slots - len(left)), sum(todo))

    def _seconds(self, shape: Shape | None) -> float | None:
        return None if shape is None else self._pace.seconds(shape)

    def _learn(self, db: Connection) -> None:
        """Take note of the videos that were finished since the last time."""
        query = select(jobs.endpoint, jobs.input, jobs.finished_at, jobs.result)
        # A row from before the clock was set back may lie ahead: it must not hide others.
        new = and_(jobs.finished_at > self._learned_until, jobs.finished_at <= self._now())
        latest = query.where(new).order_by(jobs.finished_at.desc()).limit(_AT_ONCE)
        for row in reversed(db.execute(latest).all()):
            self._learned_until = row.finished_at
            shape = _shape_of(row.endpoint, row.input)
            seconds = (row.result or {}).get("stage_seconds")
            if shape is not None and seconds:
                self._pace.learn(shape, seconds)


def wait_of(left: Sequence[float], work: float) -> float:
    """The seconds until the first of several slots is free that share the work in front.

    `left` are the seconds until each slot is free; the work, in seconds of one slot, goes to those
    that are free first.
    """
    for count, (free_at, next_free_at) in enumerate(pairwise([*sorted(left), inf]), start=1):
        shared = count * (next_free_at - free_at)
        if work <= shared:
            return free_at + work / count
        work -= shared
    raise AssertionError("the last slot takes all the work that is left")


def _shape_of(endpoint: str, given: Mapping[str, Any]) -> Shape | None:
    """The shape of a job; None if it was not to be kept: its input is gone."""
    spec = given.get("spec", {})
    if spec.get("num_frames") is None:
        return None
    return Shape(endpoint, *(spec.get(name) for name in _OF_SPEC))
