"""What one key may have of a server at a time, however many of its requests come at once."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_keys import add_key, by_key
from job_fixtures import INVALID, Clock, Where
from job_fixtures import submit as submit_job
from queue_calls import RUN, SUBMIT
from servers import APP, request_of, serving, settings_in
from upload_calls import UPLOAD, kept, upload

from server.auth.key_store import KeyStore
from server.config.errors import SettingsError
from server.config.settings import Settings
from server.db.database import Database
from server.disk import MIB
from server.errors import KeyQueueFull, KeyStorageFull, QueueFull, RequestError, TooManySubmits
from server.files.quota import StorageQuota
from server.jobs.limits import MINUTE_S, KeyLimits
from server.jobs.pause import pause
from server.jobs.reports import queue_size
from server.jobs.store import JobStore
from server.keys import ApiKey, Credential
from server.models import CANCELLED, Job

MINE, YOURS = "mine", "yours"


Open = Callable[..., JobStore]


@pytest.fixture
def opened(where: Where, clock: Clock) -> Iterator[Open]:
    """Opens stores on one file, with limits of keys."""
    with ExitStack() as stack:

        def open_store(**limits: int) -> JobStore:
            database = stack.enter_context(closing(Database(where)))
            return JobStore(database, owner="test", key_limits=KeyLimits(**limits), now=clock)

        yield open_store


def submit(store: JobStore, job_id: str, key_id: str | None = MINE, **changes: Any) -> Job:
    return submit_job(store, job_id, key_id=key_id, **changes)


def accepted(work: Callable[[], object]) -> bool:
    try:
        work()
    except RequestError:
        return False
    return True


# How many may wait.


def test_a_key_whose_jobs_wait_is_refused_another_and_the_other_key_is_not(
    opened: Open, where: Where
) -> None:
    store = opened(queued=2)
    for job in ("a", "b"):
        submit(store, job)

    with pytest.raises(KeyQueueFull, match=r"'mine' has 2 requests waiting.*KEY_QUEUE_LIMIT"):
        submit(store, "c")
    with pytest.raises(KeyQueueFull):
        store.check_room(MINE, queue_limit=9)
    submit(store, "d", YOURS)
    store.check_room(YOURS, queue_limit=9)
    with closing(Database(where)) as database:
        assert queue_size(database, 0.0).waiting == 3


def test_a_job_that_runs_or_has_ended_leaves_its_place_to_another(opened: Open) -> None:
    store = opened(queued=1)
    submit(store, "a")
    assert store.claim("cpu") is not None
    submit(store, "b")
    store.request_cancel("b")
    submit(store, "c")

    with pytest.raises(KeyQueueFull):
        submit(store, "d")


def test_a_queue_that_is_full_for_all_is_so_for_a_key_with_room(opened: Open) -> None:
    store = opened(queued=2)
    submit(store, "a", YOURS)

    with pytest.raises(QueueFull):
        submit(store, "b", limit=1)
    with pytest.raises(QueueFull):
        store.check_room(MINE, queue_limit=1)


def test_a_request_that_has_failed_already_does_not_wait(opened: Open) -> None:
    store = opened(queued=1)
    submit(store, "a")

    assert submit(store, "b", error=INVALID).done


def test_jobs_of_no_key_are_none_of_a_keys(opened: Open) -> None:
    store = opened(queued=1, running=1, submits_per_minute=1)
    for job in ("a", "b"):
        submit(store, job, key_id=None)

    assert [store.claim("0"), store.claim("1")] != [None, None]
    assert store.job("b").slot == "1"


# Limits of one key.


def give(where: Where, key_id: str, **own_limits: Any) -> None:
    """A row for the key, with limits of its own."""
    key = ApiKey.from_credential(Credential(key_id, "s"), key_id, created_at=0.0, **own_limits)
    with closing(Database(where)) as database:
        KeyStore(database).add(key)


@pytest.mark.parametrize("default", [{}, {"queued": 9, "submits_per_minute": 9, "running": 9}])
@pytest.mark.parametrize(
    ("own", "refused"),
    [({"queue_limit": 2}, KeyQueueFull), ({"submits_per_minute": 2}, TooManySubmits)],
)
def test_a_key_s_own_limit_takes_the_place_of_every_key_s(
    opened: Open,
    where: Where,
    default: dict[str, int],
    own: dict[str, int],
    refused: type[RequestError],
) -> None:
    store = opened(**default)
    give(where, MINE, **own)
    give(where, YOURS)
    for job in ("a", "b"):
        submit(store, job)
    with pytest.raises(refused, match=r"keys limits"):
        submit(store, "c")
    for job in ("d", "e", "f"):
        submit(store, job, YOURS)


def test_a_key_may_have_more_than_every_key_has(opened: Open, where: Where) -> None:
    store = opened(queued=1, submits_per_minute=1, running=1)
    own = {"queue_limit": 3, "submits_per_minute": 3, "running_limit": 2}
    give(where, MINE, **own)
    for job in ("a", "b", "c"):
        submit(store, job)

    claimed = [store.claim(str(slot)) for slot in range(3)]
    assert [job and job.id for job in claimed] == ["a", "b", None]


def test_a_key_s_own_limit_on_what_runs_needs_none_of_every_key(opened: Open, where: Where) -> None:
    store = opened()
    give(where, MINE, running_limit=1)
    for job, key in (("a", MINE), ("b", MINE), ("c", YOURS), ("d", YOURS)):
        submit(store, job, key)

    claimed = [store.claim(str(slot)) for slot in range(4)]
    assert [job and job.id for job in claimed] == ["a", "c", "d", None]


def test_the_jobs_that_would_be_claimed_now_are_counted(opened: Open, where: Where) -> None:
    store = opened(running=1)
    for job, key in (("a", MINE), ("b", MINE), ("c", YOURS)):
        submit(store, job, key)
    assert store.claim("0") is not None
    assert store.count_ready() == 1, "a key has as many as may run"
    with closing(Database(where)) as database:
        pause(database)
    assert store.count_ready() == 0


def test_a_job_wants_the_slot_of_a_run_if_its_key_may_run_another_once_that_ends(
    opened: Open,
) -> None:
    store = opened(running=1)
    for job, key in (("a", MINE), ("b", MINE), ("c", YOURS)):
        submit(store, job, key)
    mine, yours = store.claim("0"), store.claim("1")
    assert mine is not None
    assert yours is not None
    assert store.claimable(besides=[], by=mine) == {"b"}
    assert store.claimable(besides=["b"], by=mine) == set()
    assert store.claimable(besides=[], by=yours) == set()


def test_a_key_s_own_limit_on_uploads(where: Where) -> None:
    give(where, MINE, storage_limit_mib=1)
    with closing(Database(where)) as database:
        quota = StorageQuota(database, max_bytes=9 * MIB, max_key_bytes=5)

        def keep(size: int, key_id: str) -> Callable[[], object]:
            return lambda: quota.reservation(key_id).add(size)

        assert accepted(keep(MIB, MINE))
        with pytest.raises(KeyStorageFull, match=r"1,048,576 bytes.*keys limits"):
            keep(1, MINE)()
        assert not accepted(keep(6, YOURS))


# How many may come within a minute.


def test_a_key_has_so_many_requests_within_any_minute(opened: Open, clock: Clock) -> None:
    store = opened(submits_per_minute=2)
    submit(store, "a")
    clock.now += 20.5
    submit(store, "b")
    with pytest.raises(TooManySubmits, match=r"'mine' has sent 2 requests.*in 40 seconds"):
        submit(store, "c")
    submit(store, "d", YOURS)

    clock.now += MINUTE_S - 20.5 - 0.01
    assert not accepted(lambda: submit(store, "e"))
    clock.now += 0.01
    submit(store, "f")
    # That of 20.5 is still within the minute.
    assert not accepted(lambda: submit(store, "g"))


def test_a_caller_that_waits_for_retry_after_is_let_in(opened: Open, clock: Clock) -> None:
    store = opened(submits_per_minute=3)
    for job in range(3):
        submit(store, str(job))
        clock.now += 7.3
    for job in range(3, 9):
        with pytest.raises(TooManySubmits) as refused:
            submit(store, "refused")
        seconds = int(refused.value.headers["retry-after"])
        clock.now += seconds - 1
        assert not accepted(lambda: submit(store, "refused")), "a second earlier is too early"
        clock.now += 1
        submit(store, str(job))


def test_failed_cancelled_and_running_jobs_count_for_the_minute(opened: Open, clock: Clock) -> None:
    store = opened(submits_per_minute=3)
    submit(store, "invalid", error=INVALID)
    submit(store, "cancelled")
    store.request_cancel("cancelled")
    submit(store, "runs")
    assert store.claim("cpu") is not None

    for error in (None, INVALID):
        with pytest.raises(TooManySubmits):
            submit(store, "d", error=error)
    assert store.job("cancelled").error == CANCELLED


def test_a_restart_does_not_forget_the_minute(opened: Open) -> None:
    submit(opened(submits_per_minute=1), "a")

    with pytest.raises(TooManySubmits):
        submit(opened(submits_per_minute=1), "b")


def test_a_clock_that_is_put_back_locks_no_key_out(opened: Open, clock: Clock) -> None:
    store = opened(submits_per_minute=1)
    clock.now += 3600
    submit(store, "of the future")
    clock.now -= 3600
    submit(store, "now")

    with pytest.raises(TooManySubmits) as refused:
        submit(store, "again")
    assert float(refused.value.headers["retry-after"]) == MINUTE_S


def test_a_request_that_is_sent_again_is_never_refused(opened: Open) -> None:
    store = opened(queued=1, submits_per_minute=1)
    wish: dict[str, Any] = {"idempotency_key": "k", "body_sha256": "b"}
    submit(store, "a", **wish)

    for _ in range(3):
        assert submit(store, "b", **wish).id == "a"


# How many may run.


def test_the_jobs_of_a_key_that_has_its_share_are_passed_over(opened: Open) -> None:
    store = opened(running=1)
    submit(store, "mine 1")
    submit(store, "mine 2", priority=1)
    submit(store, "yours", YOURS, priority=-1)

    claimed = [store.claim(str(slot)) for slot in range(3)]

    assert [job and job.id for job in claimed] == ["mine 2", "yours", None]
    store.finish("mine 2", 1, error=INVALID)
    again = store.claim("0")
    assert again is not None
    assert again.id == "mine 1"


# At the same time.


@pytest.mark.parametrize("limits", [{"queued": 5}, {"submits_per_minute": 5}])
def test_requests_that_come_at_once_do_not_pass_a_limit_together(
    opened: Open, limits: dict[str, int]
) -> None:
    stores = [opened(**limits) for _ in range(2)]
    names = [(key, f"{key} {number}") for number in range(12) for key in (MINE, YOURS)]

    def attempt(number: int) -> bool:
        key, name = names[number]
        return accepted(lambda: submit(stores[number // 2 % 2], name, key))

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(attempt, range(len(names))))

    for key in (MINE, YOURS):
        took = [each for each, (owner, _) in zip(results, names, strict=True) if owner == key]
        assert took.count(True) == 5


def test_claims_that_come_at_once_do_not_pass_a_limit_together(opened: Open) -> None:
    stores = [opened(running=3) for _ in range(2)]
    for number in range(12):
        submit(stores[0], str(number))

    with ThreadPoolExecutor(8) as threads:
        claimed = list(threads.map(lambda n: stores[n % 2].claim(str(n)), range(12)))

    assert sum(job is not None for job in claimed) == 3


# How many bytes.


def test_the_uploads_of_a_key_have_a_limit_of_their_own(where: Where) -> None:
    with closing(Database(where)) as database:
        quota = StorageQuota(database, max_bytes=100, max_key_bytes=40)

        def fits(key_id: str | None, size: int) -> bool:
            return accepted(lambda: quota.reserve(key_id, size, quota.limit_of(key_id)))

        assert fits(MINE, 40)
        with pytest.raises(KeyStorageFull, match="'mine' together may have 40 bytes"):
            quota.reserve(MINE, 1, 40)
        quota.release(MINE, 10, is_kept=False)
        assert (fits(MINE, 11), fits(MINE, 10)) == (False, True)
        assert fits(YOURS, 10)
        assert fits(None, 50), "where no key is asked for, none has a share"
        assert not fits(YOURS, 1), "all together have as much as they may"


async def test_a_key_that_has_filled_its_share_leaves_the_others_theirs(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on", key_storage_limit_mib=1)
    mine, yours = add_key(settings), add_key(settings)
    async with serving(settings) as client:
        await upload(client, bytes(MIB), **by_key(mine))
        refused = await client.post(UPLOAD, content=b"x", headers=by_key(mine))
        await upload(client, bytes(MIB), **by_key(yours))

    assert refused.status_code == 507
    key_id = mine.partition(":")[0]
    assert f"the uploads of the key '{key_id}' together" in refused.json()["detail"]
    assert "1,048,576 bytes" in refused.json()["detail"]
    assert len(kept(tmp_path)) == 2


# Over HTTP.


async def post(client: httpx.AsyncClient, path: str, key: str, **headers: str) -> httpx.Response:
    return await client.post(path, json=request_of(), headers={**by_key(key), **headers})


async def test_a_key_that_sends_too_much_is_told_when_to_come_back(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on", key_submits_per_minute=2)
    mine, yours = add_key(settings), add_key(settings)
    async with serving(settings) as client:
        first = await post(client, SUBMIT, mine, **{"idempotency-key": "k"})
        bad = await client.post(SUBMIT, json={}, headers=by_key(mine))
        assert (first.status_code, bad.status_code) == (200, 200)
        for path in (SUBMIT, RUN, f"{RUN}/stream"):
            refused = await post(client, path, mine)
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["retry-after"]) <= math.ceil(MINUTE_S)
            assert "COSMOS_KEY_SUBMITS_PER_MINUTE" in refused.json()["detail"]
        invalid = await client.post(SUBMIT, json={}, headers=by_key(mine))
        again = await post(client, SUBMIT, mine, **{"idempotency-key": "k"})
        assert invalid.status_code == 429, "also what is not valid would make a row"
        assert again.json()["request_id"] == first.json()["request_id"]
        assert (await post(client, SUBMIT, yours)).status_code == 200


async def test_a_picture_of_a_request_that_is_refused_is_not_kept(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on", key_queue_limit=1, worker="workers:SlowLoad")
    (settings.weights / "loading").touch()
    mine = add_key(settings)
    async with serving(settings) as client:
        job = (await post(client, SUBMIT, mine)).json()["request_id"]
        before = set((tmp_path / "data" / "files").glob("*/image-*"))
        for path in (SUBMIT, RUN):
            other = request_of(image_url="data:,another")
            refused = await client.post(path, json=other, headers=by_key(mine))
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) > 0
            assert "COSMOS_KEY_QUEUE_LIMIT" in refused.json()["detail"]
        assert set((tmp_path / "data" / "files").glob("*/image-*")) == before
        cancelled = f"/queue/{APP}/requests/{job}/cancel"
        assert (await client.put(cancelled, headers=by_key(mine))).status_code == 202
        assert (await post(client, SUBMIT, mine)).status_code == 200
        (settings.weights / "loading").unlink()


# Settings.


@pytest.mark.parametrize(
    "name",
    ["key_queue_limit", "key_running_limit", "key_submits_per_minute", "key_storage_limit_mib"],
)
def test_a_limit_for_keys_is_refused_where_callers_need_none(name: str) -> None:
    with pytest.raises(SettingsError, match=f"COSMOS_{name.upper()} limits each key"):
        Settings.load(weights="w", **{name: 1})
    with pytest.raises(SettingsError, match="greater than or equal to 1"):
        Settings.load(weights="w", auth="on", **{name: 0})
    assert getattr(Settings.load(weights="w", auth="on", **{name: 1}), name) == 1
