"""When a request will start, and how long it will take: by what this server has measured.

The statements read what waits, what runs, and what ended since they last did: they do not grow with
the table. What was never measured is None.
"""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from math import inf

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from pipeline.spec import VideoSpec
from server.db.database import Database
from server.db.rows import AnyRow
from server.jobs.pace import Pace, Shape
from server.jobs.pause import is_paused
from server.jobs.statements import QUEUED, is_served, jobs
from server.models import Estimate, Job, JobStatus

_LOOKED_BACK = 50
"""Of the jobs that have ended, so many are looked at at once."""

_spec = jobs.input["spec"]
_SHAPE = (
    jobs.endpoint,
    _spec["num_frames"].as_integer().label("num_frames"),
    _spec["num_inference_steps"].as_integer().label("num_inference_steps"),
    _spec["guidance_scale"].as_float().label("guidance_scale"),
    _spec["overlap"].as_integer().label("overlap"),
    _spec["container"].as_string().label("container"),
    _spec["quality"].as_string().label("quality"),
)


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
        self._learning = threading.Lock()
        self._learned_until = 0.0

    def of_request(self, endpoint: str, spec: VideoSpec, priority: int) -> Estimate:
        """What is to be expected of a request that is not submitted yet."""
        return self._estimate(Shape.of(endpoint, spec), jobs.priority >= priority)

    def of_waiting(self, job: Job) -> Estimate:
        """What is to be expected of a job that waits."""
        shape = Shape.of(job.endpoint, VideoSpec.from_json(dict(job.input["spec"])))
        earlier = and_(jobs.priority == job.priority, jobs.seq < job.seq)
        return self._estimate(shape, or_(jobs.priority > job.priority, earlier))

    def _estimate(self, shape: Shape, goes_before: ColumnElement[bool]) -> Estimate:
        is_running = jobs.status == JobStatus.IN_PROGRESS.value
        ahead = select(*_SHAPE, func.count().label("requests")).group_by(*_SHAPE)
        with self._database.read() as db:
            self._learn(db)
            running = db.execute(select(*_SHAPE, jobs.started_at).where(is_running)).all()
            waiting = db.execute(ahead.where(and_(QUEUED, self._served, goes_before))).all()
            paused = db.execute(select(is_paused())).scalar_one()
        wait_s = None if paused else self._wait_s(running, waiting)
        return Estimate(
            stage_seconds=self._pace.stage_seconds(shape),
            position=sum(row.requests for row in waiting),
            wait_s=wait_s,
            starts_at=None if wait_s is None else self._now() + wait_s,
        )

    def _wait_s(self, running: Sequence[AnyRow], waiting: Sequence[AnyRow]) -> float | None:
        num_slots = self._num_slots()
        if num_slots == 0:
            return None
        if len(running) + sum(row.requests for row in waiting) < num_slots:
            return 0.0
        busy = [(self._seconds(row), self._now() - row.started_at) for row in running]
        work = [(self._seconds(row), row.requests) for row in waiting]
        left = [max(0.0, seconds - passed) for seconds, passed in busy if seconds is not None]
        todo = [seconds * count for seconds, count in work if seconds is not None]
        if len(left) < len(busy) or len(todo) < len(work):
            return None
        return wait_of(left + [0.0] * (num_slots - len(left)), sum(todo))

    def _seconds(self, row: AnyRow) -> float | None:
        shape = _shape_of(row)
        return None if shape is None else self._pace.seconds(shape)

    def _learn(self, db: Connection) -> None:
        """Take note of the videos that were finished since the last time."""
        query = select(*_SHAPE, jobs.finished_at, jobs.result["stage_seconds"].label("seconds"))
        with self._learning:
            # A row from before the clock was set back may lie ahead: it must not hide others.
            new = and_(jobs.finished_at > self._learned_until, jobs.finished_at <= self._now())
            latest = query.where(new).order_by(jobs.finished_at.desc()).limit(_LOOKED_BACK)
            for row in reversed(db.execute(latest).all()):
                self._learned_until = row.finished_at
                shape = _shape_of(row)
                if shape is not None and row.seconds:
                    self._pace.learn(shape, row.seconds)


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


def _shape_of(row: AnyRow) -> Shape | None:
    """The shape of a job; None if it was not to be kept: its input is gone."""
    values = [row._mapping[column.name] for column in _SHAPE]
    return None if row.num_frames is None else Shape(*values)
