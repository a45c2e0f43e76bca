"""Any order of what callers, intake, runs, crashes and operators do, compared with a model."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from job_fixtures import FAILURE, INVALID, artifact, new_job
from job_model import KEEP_S, QUEUE_LIMIT, RUNS, WAITS, Model, outcome, rows_of_jobs
from sqlalchemy import func, select

from server.db import tables
from server.db.database import Database
from server.db.rows import AnyRow
from server.errors import UnknownJob
from server.files.local import LocalFiles
from server.inputs.image_store import ImageStore
from server.jobs.limits import KeyLimits
from server.jobs.pause import pause, resume
from server.jobs.retention import Purge, Retention, purge
from server.jobs.store import JobStore
from server.models import CANCELLED, Job, JobError, JobStatus, LogLine, RunUpdate
from server.webhooks.store import WebhookStore

Run = tuple[str, int]

ANY = st.integers(0, 99)  # of those that there are

WISHES = st.fixed_dictionaries(
    {
        "key_id": st.sampled_from([None, "a", "a", "b"]),
        "priority": st.integers(-1, 1),
        "webhook_url": st.sampled_from([None, "https://example.com/hook"]),
        "no_retry": st.booleans(),
        "start_timeout_s": st.sampled_from([None, None, None, 5.0]),
        "store_io": st.sampled_from([True, True, False]),
    }
)


class StoreMachine(RuleBasedStateMachine):
    """The real store on SQLite, and the model."""

    empty: ClassVar[Path]
    """A database to copy: to make one takes longer than all the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.resources = ExitStack()
        self.count = 0
        self.ids: list[str] = []
        self.runs: list[Run] = []
        self.endings: dict[str, tuple[Any, ...]] = {}

    def teardown(self) -> None:
        self.resources.close()

    def now(self) -> float:
        return self.model.now

    def open(self) -> None:
        self.database = Database(self.path)
        now = self.now
        self.store = JobStore(self.database, owner="test", key_limits=self.model.limits, now=now)
        self.retention = Retention(
            self.database, self.files, gone=lambda: None, keep_s=KEEP_S, now=now
        )
        self.images = ImageStore(self.database, self.files, now=now)
        self.webhooks = WebhookStore(self.database, owner="test", now=now)

    @initialize(
        limits=st.sampled_from(
            [KeyLimits(), KeyLimits(queued=2, running=1), KeyLimits(submits_per_minute=3)]
        ),
        first=st.lists(WISHES, min_size=1, max_size=3),
        are_claimed=st.booleans(),
    )
    def begin(self, limits: KeyLimits, first: list[dict[str, Any]], are_claimed: bool) -> None:
        self.model = Model(limits)
        folder = Path(self.resources.enter_context(TemporaryDirectory(dir=self.empty.parent)))
        self.path = folder / "jobs.sqlite3"
        shutil.copy(self.empty, self.path)
        self.files = LocalFiles(folder / "files")
        self.open()
        self.resources.callback(lambda: self.database.close())
        for wishes in first:
            self.submit(wishes, is_prepared=True)
        if are_claimed:
            self.claim(3)

    def a_job(self, which: int) -> str:
        """Mostly one that runs or waits; now and then one that is done, or gone."""
        running = [job for job in self.model.in_order(RUNS) if not job.cancel]
        waiting = self.model.in_order()
        each = [job.new.id for job in running * 8 + waiting * 2] + self.ids[-3:]
        return each[which % len(each)]

    def a_run(self, which: int) -> Run:
        """Mostly one that goes on, and best of all one that is to stop. One that was given up may
        still do what a run does."""
        running = self.model.in_order(RUNS)
        live = [(job.new.id, job.attempt) for job in running]
        to_stop = [(job.new.id, job.attempt) for job in running if job.cancel]
        stale = [run for run in self.runs if run not in live]
        of_running = [run for run in stale if run[0] in dict(live)]
        each = live * 2 + to_stop * 4 + of_running + stale[-1:]
        return each[which % len(each)]

    # What callers do.

    @precondition(lambda self: len(self.model.in_order()) < QUEUE_LIMIT)
    @rule(wishes=WISHES, is_prepared=st.sampled_from([True, True, True, False]))
    def submit(self, wishes: dict[str, Any], is_prepared: bool) -> None:
        job_id = self.send(**wishes)
        if job_id is not None and is_prepared:
            self.store.set_inputs(job_id, {"image": artifact("p", "pixels")})
            self.model.jobs[job_id].pixels = "p"

    @rule(
        wishes=WISHES,
        error=st.sampled_from([None, INVALID]),
        idempotency_key=st.sampled_from([None, "k", "k"]),
        body_sha256=st.sampled_from(["x", "x", "y"]),
        sync_mode=st.booleans(),
    )
    def submit_something_special(self, wishes: dict[str, Any], **more: Any) -> None:
        self.send(**wishes, **more)

    def send(self, *, sync_mode: bool = False, **wishes: Any) -> str | None:
        """The id of the new job, if there is one."""
        self.count += 1
        media = {"media": {}, "sync_mode": sync_mode and wishes.get("error") is None}
        new = new_job(f"job-{self.count}", input=media, **wishes)
        expected = self.model.submit(new)
        job = outcome(lambda: self.store.submit(new, queue_limit=QUEUE_LIMIT))
        assert (job if isinstance(job, type) else job.id) == expected
        if expected != new.id:
            return None
        self.ids.append(new.id)
        return new.id

    @precondition(lambda self: len(self.model.in_order()) + len(self.model.in_order(RUNS)) > 1)
    @rule(which=ANY)
    def cancel(self, which: int) -> None:
        self.cancel_job(self.a_job(which))

    def cancel_job(self, job_id: str) -> None:
        job = self.model.known(job_id)
        expected = UnknownJob if job is None else self.model.cancel(job)
        assert outcome(self.store.request_cancel, job_id) == expected

    # What intake does.

    @precondition(lambda self: self.ids)
    @rule(which=ANY, pixels=st.sampled_from(["p", "q", None]))
    def take_in(self, which: int, pixels: str | None) -> None:
        """Its picture is here, or cannot be used."""
        job = self.model.known(job_id := self.a_job(which))
        if pixels is not None:
            self.store.set_inputs(job_id, {"image": artifact(pixels, "pixels")})
        else:
            refused = outcome(self.store.refuse_inputs, job_id, INVALID)
            assert refused == (UnknownJob if job is None else None)
        if job is None or job.status is not WAITS:
            return
        if pixels is None and job.pixels is None:
            self.model.end(job, INVALID)
        job.pixels = pixels or job.pixels

    # What the dispatcher and its runs do.

    @precondition(lambda self: self.model.in_order() and self.free_slots())
    @rule(slots=st.integers(1, 3))
    def claim(self, slots: int) -> None:
        for slot in self.free_slots()[:slots]:
            self.claim_for(slot)

    def free_slots(self) -> list[str]:
        taken = {job.slot for job in self.model.in_order(RUNS)}
        return [slot for slot in ("0", "1", "2") if slot not in taken]

    def claim_for(self, slot: str) -> None:
        expected = self.model.claimable()
        job = self.store.claim(slot)
        assert (job and job.id) == (expected and expected.new.id)
        if job is not None and expected is not None:
            self.model.claim(expected, slot)
            self.runs.append((job.id, job.attempt))

    @precondition(lambda self: self.runs)
    @rule(which=ANY)
    def say(self, which: int) -> None:
        run = self.a_run(which)
        job = self.model.held(*run)
        to_stop = self.store.runs_to_stop(dict([run]))
        assert bool(to_stop) is (job is None or job.cancel)
        self.store.record([RunUpdate(*run, [LogLine(1.0, "INFO", "Denoising")])])
        if job is not None:
            job.lines += 1

    @precondition(lambda self: self.model.in_order(RUNS))
    @rule(
        which=ANY,
        how=st.sampled_from(["succeeds", "fails", "dies", "gives back", "gives back all"]),
        is_cancelled=st.sampled_from([False, False, True]),
    )
    def end_run(self, which: int, how: str, is_cancelled: bool) -> None:
        run = self.a_run(which)
        if is_cancelled:
            self.cancel_job(run[0])
        match how:
            case "succeeds":
                self.finish(run, None)
            case "fails":
                self.finish(run, FAILURE)
            case "dies":
                job = self.model.held(*run)
                waits_again = job is not None and self.model.worker_died(job, FAILURE)
                assert self.store.worker_died(*run, FAILURE) is waits_again
            case _:
                self.give_back(run, keeps_inputs=how == "gives back")

    def finish(self, run: Run, error: JobError | None) -> None:
        video = f"video-{run[0]}-{run[1]}" if error is None else None
        result = {"attempt": run[1]} if error is None else None
        files = [] if video is None else [artifact(video, "video")]
        published = self.store.finish(*run, result=result, artifacts=files, error=error)
        job = self.model.held(*run)
        assert published is (job is not None and self.model.finish(job, video, error))

    def give_back(self, run: Run, *, keeps_inputs: bool) -> None:
        self.store.give_back(*run, keeps_inputs=keeps_inputs)
        if job := self.model.held(*run):
            job.pixels = job.pixels if keeps_inputs else None
            self.model.put_back(job)

    @precondition(lambda self: len(self.model.in_order(RUNS)) > 1)
    @rule(really=st.sampled_from([False, False, True]))
    def crash(self, really: bool) -> None:
        if really:
            self.restart()

    def restart(self) -> None:
        self.database.close()
        self.open()
        running = self.model.in_order(RUNS)
        assert self.store.recover() == len(running)
        for job in running:
            self.model.put_back(job)

    # What time and operators do.

    @precondition(lambda self: self.ids)
    @rule(seconds=st.sampled_from([5.0, 61.0, 601.0, 86_400.0, KEEP_S]), sweeps=st.booleans())
    def time_passes(self, seconds: float, sweeps: bool) -> None:
        self.model.now += seconds
        assert self.store.end_late() == self.model.end_late()
        if sweeps:
            self.retention.sweep()
            self.images.sweep()
            self.model.sweep()

    @precondition(lambda self: self.ids)
    @rule(which=ANY, is_purge=st.booleans())
    def fetch_or_purge(self, which: int, is_purge: bool) -> None:
        job_id = self.ids[which % len(self.ids)]
        if is_purge:
            job = self.model.jobs.get(job_id)
            goes = job is not None and self.model.is_removable(job)
            assert purge(self.database, self.files, Purge(job_ids=[job_id])) == (
                [job_id] if goes else []
            )
            if job is not None and goes:
                self.model.remove(job)
        elif (job := self.model.known(job_id)) and job.status is JobStatus.COMPLETED:
            self.retention.fetched(self.store.job(job_id))
            self.model.fetched(job)

    @precondition(lambda self: any(job.is_untold for job in self.model.jobs.values()))
    @rule(is_taken=st.booleans())
    def send_webhook(self, is_taken: bool) -> None:
        untold = [job for job in self.model.jobs.values() if job.is_untold]
        delivery = self.webhooks.claim()
        assert delivery is not None
        job = self.model.jobs[delivery.job_id]
        assert job.finished_at == min(job.finished_at for job in untold)
        if is_taken:
            self.webhooks.delivered(delivery)
        else:
            self.webhooks.given_up(delivery, "gone")
        job.is_untold = False

    @precondition(lambda self: self.model.claimable() and self.free_slots())
    @rule(crashes=st.sampled_from([False, False, True]))
    def pause_for_a_while(self, crashes: bool) -> None:
        pause(self.database)
        if crashes:
            self.restart()
        self.model.is_paused = True
        for slot in self.free_slots():
            self.claim_for(slot)
        resume(self.database)
        self.model.is_paused = False

    # What holds after each of these.

    @invariant()
    def every_promise_holds(self) -> None:
        with self.database.read() as db:
            jobs, artifacts = rows_of_jobs(db), list(db.execute(select(tables.artifacts)))
            used = db.execute(select(func.count()).select_from(tables.usage)).scalar_one()
        assert used == self.model.num_ended
        self.compare_with_model(jobs)
        self.check_endings(jobs)
        self.check_slots([row for row in jobs.values() if row.status == RUNS.value])
        self.check_files(artifacts)
        self.check_places()
        for job_id, job in self.model.jobs.items():
            if job.expires_at is not None and self.model.known(job_id) is None:
                assert outcome(self.store.job, job_id) is UnknownJob

    def compare_with_model(self, jobs: Mapping[str, AnyRow]) -> None:
        shown = {
            job_id: (
                *(row.status, row.input_refs, row.attempt, row.worker_deaths),
                *(row.cancel_requested, row.slot, row.result and row.result["attempt"]),
                *(row.error, row.lines, row.webhooks, row.untold == 1),
            )
            for job_id, row in jobs.items()
        }
        assert shown == {job_id: job.row for job_id, job in self.model.jobs.items()}

    def check_endings(self, jobs: Mapping[str, AnyRow]) -> None:
        """An ending never changes, and is of one kind: said without the model, which may err."""
        for job_id, row in jobs.items():
            if row.status != JobStatus.COMPLETED.value:
                assert job_id not in self.endings
                assert (row.result, row.error, row.webhooks) == (None, None, 0)
                continue
            assert (row.result is None) is not (row.error is None)
            assert row.result is None or row.result["attempt"] == row.attempt
            assert not row.cancel_requested or row.error == CANCELLED.body
            assert row.webhooks == (row.webhook_url is not None)
            ending = (row.result, row.error, row.http_status, row.finished_at, row.attempt)
            assert self.endings.setdefault(job_id, ending) == ending

    def check_slots(self, running: Sequence[AnyRow]) -> None:
        slots = [row.slot for row in running]
        assert None not in slots
        assert len(slots) == len(set(slots))
        keys = [row.key_id for row in running if row.key_id is not None]
        limit = self.model.limits.running
        assert limit is None or all(keys.count(key) <= limit for key in keys)

    def check_files(self, artifacts: Sequence[AnyRow]) -> None:
        """Videos belong to jobs that are there, and pictures stay for those who want them."""
        videos = {row.id: row.job_id for row in artifacts if row.kind == "video"}
        assert videos == {video: job_id for video, (job_id, _) in self.model.videos.items()}
        lasting = {row.id for row in artifacts if row.kind == "pixels" and row.expires_at is None}
        unfinished = [*self.model.in_order(), *self.model.in_order(RUNS)]
        assert {job.pixels for job in unfinished} - {None} <= lasting

    def check_places(self) -> None:
        waiting = self.model.in_order()
        for position, job in enumerate(waiting):
            if self.model.known(job.new.id):
                assert self.store.standing(job.new.id).position == position
        unprepared = [job.new for job in waiting if job.pixels is None]
        in_hand: list[Job] = []
        while (next_job := self.store.awaiting_inputs(100, in_hand)) is not None:
            by_key = Counter(each.key_id for each in in_hand)
            # The first of the key that has the fewest in hand.
            expected = min(unprepared, key=lambda new: by_key[new.key_id])
            assert next_job.id == expected.id
            unprepared.remove(expected)
            in_hand.append(next_job)
        assert unprepared == []


# What breaks one is made as short as it can be, which takes longer than to find it.
@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_no_order_of_events_breaks_a_promise(tmp_path: Path, count: int) -> None:
    class Machine(StoreMachine):
        empty = tmp_path / "empty.sqlite3"

    Database(Machine.empty).close()
    bounds = settings(max_examples=count, stateful_step_count=20)
    run_state_machine_as_test(Machine, settings=bounds)
