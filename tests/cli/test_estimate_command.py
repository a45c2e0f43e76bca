"""`cosmos-serve estimate`: what the tables of a data folder say of a request."""

import json
from pathlib import Path

import pytest
from command_line import Commands
from job_fixtures import sql
from queue_calls import result_of, submit, until
from servers import ENDPOINT, serving, settings_in


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Commands:
    return Commands(capsys, str(tmp_path / "data"))


async def test_it_says_what_is_known_and_what_is_not(tmp_path: Path, run: Commands) -> None:
    settings = settings_in(tmp_path)
    here = ("--weights", str(settings.weights), "--devices", "cpu")
    async with serving(settings) as client:
        unknown = run("estimate", *here)
        assert f"No video of {ENDPOINT} has been finished here yet" in unknown
        assert "It would start in 0.0 s" in unknown
        made = await submit(client)
        await result_of(client, made)
        running = await submit(client, "wait")
        await until(client, running, "IN_PROGRESS")
    seconds = """json_set(result, '$.stage_seconds', json('{"denoise": 40.0, "decode": 2.0}'))"""
    setting = f"UPDATE jobs SET result = {seconds} WHERE id = '{made}'"
    sql(settings.data / "jobs.sqlite3", setting)

    found = json.loads(run("estimate", "--steps", "4", "--json", *here))
    assert (found["endpoint_id"], found["seconds"]) == (ENDPOINT, 82.0)
    # Without the server, what ran waits.
    assert (found["queue_position"], found["wait_seconds"]) == (1, 42.0)
    lines = run("estimate", "image-to-video", "--steps", "2", *here).splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["denoise", "40", "s"],
        ["decode", "2.0", "s"],
        ["together", "42", "s"],
    ]
    assert "(1 request before it, 1 worker)" in lines[3]


def test_what_cannot_be_asked_for_is_refused(tmp_path: Path, run: Commands) -> None:
    here = ("--weights", str(settings_in(tmp_path).weights), "--devices", "cpu")
    assert "--steps: " in run.fails("estimate", "--steps", "500", *here, code=2)
    assert "there are fal-ai/" in run.fails("estimate", "audio", *here, code=2)
