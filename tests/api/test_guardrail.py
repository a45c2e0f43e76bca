"""A server with a guardrail of its operator: what it is asked, and what becomes of jobs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi_calls import app_of
from moderation_site import (
    Moderations,
    Part,
    flagged,
    grey_of,
    is_frame,
    moderations,
    stall,
    status,
)
from queue_calls import RUN, cancel, result_of, status_of, submit, until_prepared
from servers import (
    APP,
    data_uri,
    picture,
    request_for_each,
    request_of,
    serving,
    settings_in,
    two_checkpoints,
)

from server.outbound import moderation as module

PROMPT = "a secret red car"


@pytest.fixture
async def endpoint() -> AsyncIterator[Moderations]:
    async with moderations() as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds and minutes takes no time."""
    for name, seconds in {"INSIST_S": 0.1, "INSIST_AGAIN_S": 0.01, "PROBE_AGAIN_S": 0.02}.items():
        monkeypatch.setattr(module, name, seconds)
    monkeypatch.setattr("server.dispatch.run.RUN_AGAIN_S", 0.0)
    monkeypatch.setattr("server.inputs.prepare.TRY_AGAIN_S", 0.01)


def guarded(folder: Path, endpoint: Moderations, **changes: Any) -> Any:
    return settings_in(folder, guardrail=endpoint.url, fetch="off", **changes)


async def problem_of(client: httpx.AsyncClient) -> str | None:
    body = (await client.get("/health/ready")).json()
    (check,) = (check for check in body["checks"] if check["name"] == "guardrail")
    return str(check["problem"]) if "problem" in check else None


async def until_problem(client: httpx.AsyncClient, word: str) -> None:
    while word not in (await problem_of(client) or ""):
        await asyncio.sleep(0.01)


async def test_prompt_picture_and_frames_are_judged(
    tmp_path: Path, endpoint: Moderations, capfd: pytest.CaptureFixture[str]
) -> None:
    async with serving(guarded(tmp_path, endpoint)) as client:
        image = data_uri(picture(colour="white"))
        job = await submit(client, PROMPT, num_frames=18, image_url=image)
        assert (await result_of(client, job)).status_code == 200
        body = (await client.get("/health/ready")).json()
    assert body["guardrail"] == {"kind": "endpoint"}
    assert endpoint.texts == [PROMPT]
    greys = [grey_of(part) for part in endpoint.asked if part["type"] == "image_url"]
    assert greys[0] == 255
    assert sorted(greys[1:], key=str) == sorted([0, 8, 16, 17], key=str)
    assert PROMPT not in "".join(capfd.readouterr())


@pytest.mark.parametrize("name", ["text-to-video", "distilled/text-to-video", "video-to-video"])
async def test_other_endpoints_have_prompts_and_given_frames_judged_before_they_run(
    tmp_path: Path, endpoint: Moderations, name: str
) -> None:
    request = request_for_each()[f"{APP}/{name}"] | {"num_frames": 9}
    settings = guarded(tmp_path, endpoint, weights=two_checkpoints(tmp_path))

    async def result(client: httpx.AsyncClient, prompt: str) -> tuple[Any, httpx.Response]:
        body = request | {"prompt": prompt}
        job = (await client.post(f"/queue/{APP}/{name}", json=body)).json()["request_id"]
        answer = await result_of(client, job)
        return app_of(client).state.services.store.job(job), answer

    async with serving(settings) as client:
        _, passed = await result(client, PROMPT)
        kinds = [part["type"] for part in endpoint.asked]
        endpoint.judge = lambda part: flagged(part.get("text") == "refused")
        job, blocked = await result(client, "refused")
    assert passed.status_code == 200
    given = 5 if name == "video-to-video" else 0
    assert kinds == ["text", *["image_url"] * (given + 2)]
    assert blocked.json()["detail"][0]["type"] == "content_policy_violation"
    assert job.attempt == 0


def blocking(blocked: Callable[[Part], bool]) -> Callable[[Part], bytes]:
    return lambda part: flagged(blocked(part))


BLOCKED: dict[str, Callable[[Part], bool]] = {
    "prompt": lambda part: part.get("text") == PROMPT,
    "picture": lambda part: grey_of(part) == 255,
    "first frame": lambda part: is_frame(part, 0),
    "last frame": lambda part: is_frame(part, 17),
}


async def test_whatever_is_blocked_has_the_same_answer(
    tmp_path: Path, endpoint: Moderations
) -> None:
    image = data_uri(picture(colour="white"))
    answers = []
    async with serving(guarded(tmp_path, endpoint)) as client:
        for blocked in BLOCKED.values():
            endpoint.judge = blocking(blocked)
            job = await submit(client, PROMPT, num_frames=18, image_url=image)
            answers.append(await result_of(client, job))
        run = await client.post(RUN, json=request_of(PROMPT, num_frames=18, image_url=image))
    first = answers[0]
    assert first.status_code == 422
    assert first.json() == {
        "detail": [
            {
                "loc": ["body", "prompt"],
                "msg": "The content could not be processed because it contained material flagged "
                "by a content checker.",
                "type": "content_policy_violation",
                "url": "https://docs.fal.ai/errors#content_policy_violation",
                "input": PROMPT,
            }
        ]
    }
    assert first.headers["x-fal-retryable"] == "false"
    for other in (*answers[1:], run):
        assert (other.status_code, other.json()) == (first.status_code, first.json())
        assert other.headers["x-fal-retryable"] == "false"


async def test_with_a_wrong_setting_nothing_is_claimed_and_nothing_ends(
    tmp_path: Path, endpoint: Moderations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GIVE_UP_S", 0.0)
    endpoint.judge = lambda _: status("401 x")
    async with serving(guarded(tmp_path, endpoint)) as client:
        job = await submit(client)
        await until_problem(client, "status 401")
        ready = await client.get("/health/ready")
        assert ready.status_code == 503
        while True:
            body = (await status_of(client, job, logs="1")).json()
            if any("content checker gives no answers" in log["message"] for log in body["logs"]):
                break
            await asyncio.sleep(0.01)
        assert (body["status"], endpoint.asked) == ("IN_QUEUE", [])
        endpoint.judge = lambda _: flagged(False)
        assert (await result_of(client, job)).status_code == 200
        assert await problem_of(client) is None


async def test_jobs_wait_while_there_are_no_verdicts(tmp_path: Path, endpoint: Moderations) -> None:
    async with serving(guarded(tmp_path, endpoint)) as client:
        while await problem_of(client) is not None:
            await asyncio.sleep(0.01)
        endpoint.judge = lambda _: status("500 x")
        job = await submit(client)
        await until_problem(client, "status 500")
        assert (await status_of(client, job)).json()["status"] == "IN_QUEUE"
        endpoint.judge = lambda _: flagged(False)
        assert (await result_of(client, job)).status_code == 200


async def test_what_only_one_request_fails_on_does_not_hold_up_others(
    tmp_path: Path, endpoint: Moderations
) -> None:
    endpoint.judge = lambda part: status("400 x") if part.get("text") == PROMPT else flagged(False)
    async with serving(guarded(tmp_path, endpoint)) as client:
        stuck = await submit(client, PROMPT)
        for _ in range(2):
            assert (await result_of(client, await submit(client))).status_code == 200
        assert (await status_of(client, stuck)).json()["status"] == "IN_QUEUE"
        assert (await cancel(client, stuck)).status_code == 202


NO_ANSWER = {
    "loc": ["body"],
    "msg": "The content checker gave no answer. Try again later.",
    "type": "downstream_service_unavailable",
    "url": "https://docs.fal.ai/errors#downstream_service_unavailable",
    "input": None,
}


@pytest.mark.parametrize("where", ["everywhere", "prompt", "frames"])
async def test_after_fifteen_minutes_in_all_a_job_ends_and_may_be_sent_again(
    tmp_path: Path, endpoint: Moderations, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(module, "GIVE_UP_S", 0.3)
    fails: dict[str, Callable[[Part], bool]] = {
        "everywhere": lambda part: True,
        "prompt": lambda part: part.get("text") == PROMPT,
        "frames": lambda part: is_frame(part, 8),
    }
    endpoint.judge = lambda part: status("500 x") if fails[where](part) else flagged(False)
    async with serving(guarded(tmp_path, endpoint)) as client:
        job = await submit(client, PROMPT, num_frames=9)
        result = await result_of(client, job)
        body = (await status_of(client, job)).json()
        store = app_of(client).state.services.store
        assert store.job(job).worker_deaths == 0
    assert (result.status_code, result.json()) == (503, {"detail": [NO_ANSWER]})
    assert result.headers["x-fal-retryable"] == "true"
    assert result.headers["x-fal-error-type"] == "downstream_service_unavailable"
    assert body["error_type"] == "downstream_service_unavailable"


async def test_a_run_whose_frames_get_no_verdict_is_made_again(
    tmp_path: Path, endpoint: Moderations
) -> None:
    silent = True

    def judge(part: Part) -> bytes:
        return status("500 x") if silent and is_frame(part, 0) else flagged(False)

    endpoint.judge = judge
    async with serving(guarded(tmp_path, endpoint)) as client:
        job = await submit(client, PROMPT, num_frames=9)
        store = app_of(client).state.services.store
        while store.job(job).attempt < 2:
            await asyncio.sleep(0.01)
        silent = False
        assert (await result_of(client, job)).status_code == 200
        logs = (await status_of(client, job, logs="1")).json()["logs"]
        assert store.job(job).worker_deaths == 0
    assert any("so the video is made again" in log["message"] for log in logs)
    # Prompt and picture have passed, and are not judged a second time.
    assert endpoint.texts == [PROMPT]


async def test_a_run_is_asked_again_before_it_is_put_back(
    tmp_path: Path, endpoint: Moderations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INSIST_S", 60.0)
    failures = [status("500 x"), status("503 x")]

    def judge(part: Part) -> bytes:
        return failures.pop() if failures and is_frame(part, 8) else flagged(False)

    endpoint.judge = judge
    async with serving(guarded(tmp_path, endpoint)) as client:
        job = await submit(client, num_frames=9)
        assert (await result_of(client, job)).status_code == 200
        assert app_of(client).state.services.store.job(job).attempt == 1


async def test_four_frames_are_judged_at_once_and_a_cancel_is_heard_meanwhile(
    tmp_path: Path, endpoint: Moderations
) -> None:
    endpoint.judge = lambda part: (
        stall if part["type"] == "image_url" and (grey_of(part) or 0) < 64 else flagged(False)
    )
    async with serving(guarded(tmp_path, endpoint)) as client:
        image = data_uri(picture(colour="white"))
        job = await submit(client, num_frames=45, image_url=image)
        while len(endpoint.asked) < 6:
            await asyncio.sleep(0.01)
        assert (await cancel(client, job)).status_code == 202
        assert (await result_of(client, job)).status_code == 499
    frames = [grey_of(part) for part in endpoint.asked if part["type"] == "image_url"][1:]
    assert sorted(frames, key=str) == sorted([0, 8, 16, 24], key=str)


async def test_a_worker_that_has_no_frames_judged_makes_no_video(
    tmp_path: Path, endpoint: Moderations
) -> None:
    async with serving(guarded(tmp_path, endpoint)) as client:
        result = await result_of(client, await submit(client, f"{PROMPT}; unjudged"))
    assert result.status_code == 500
    assert "without having its frames judged" in result.json()["detail"]


async def test_jobs_of_a_server_without_guardrail_are_judged_before_they_run(
    tmp_path: Path, endpoint: Moderations
) -> None:
    async with serving(settings_in(tmp_path, worker="workers:LoadFails")) as client:
        jobs = [await submit(client, prompt) for prompt in (PROMPT, "a calm lake")]
        await until_prepared(client, *jobs)
    endpoint.judge = lambda part: flagged(part.get("text") == PROMPT)
    async with serving(guarded(tmp_path, endpoint)) as client:
        blocked, passed = [await result_of(client, job) for job in jobs]
    assert blocked.json()["detail"][0]["type"] == "content_policy_violation"
    assert passed.status_code == 200
    assert sorted(endpoint.texts) == sorted([PROMPT, "a calm lake"])


@pytest.mark.parametrize(
    ("changes", "guardrail"),
    [
        ({}, {"kind": "none"}),
        (
            {"guardrail": "off"},
            {
                "kind": "off",
                "warning": "No guardrail is on: prompts, pictures and videos are for you to judge.",
            },
        ),
    ],
)
async def test_ready_and_the_log_say_who_judges(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    changes: dict[str, str],
    guardrail: dict[str, str],
) -> None:
    async with serving(settings_in(tmp_path, **changes)) as client:
        assert (await client.get("/health/ready")).json()["guardrail"] == guardrail
    logged = "".join(capfd.readouterr())
    assert ("No guardrail is on" in logged) == ("warning" in guardrail)
