"""A database that is damaged: what can be read is, and the operator is told what to do."""

import os
import subprocess
from pathlib import Path

import httpx
import pytest
from queue_calls import result_of, status_of, submit
from servers import COMMAND, SCRIPTED, command_line, serving, settings_in
from sqlalchemy import insert

from server.db import tables
from server.db.database import Database

PAGE = 4096
ADVICE = "put a copy of jobs.sqlite3 back into the data folder"


async def write_jobs(folder: Path) -> tuple[str, str]:
    """A job without much of a log, and one with a long one, which is pages of the letter x."""
    async with serving(settings_in(folder)) as client:
        sound, damaged = await submit(client), await submit(client)
        for job in (sound, damaged):
            assert (await result_of(client, job)).status_code == 200
    line = {"job_id": damaged, "attempt": 1, "at": 1.0, "level": "INFO", "message": "x" * 900}
    database = Database(folder / "data" / "jobs.sqlite3")
    with database.write() as db:
        db.execute(insert(tables.logs), [line] * 400)
    database.close()
    return sound, damaged


async def problem_of_database(client: httpx.AsyncClient) -> str:
    body = (await client.get("/health/ready")).json()
    found = next(check for check in body["checks"] if check["name"] == "database")
    return str(found.get("problem", ""))


async def test_a_damaged_part_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    sound, damaged = await write_jobs(tmp_path)
    path = tmp_path / "data" / "jobs.sqlite3"
    content = path.read_bytes()
    pages = [at for at in range(0, len(content), PAGE) if b"x" * 500 in content[at : at + PAGE]]
    with path.open("r+b") as file:
        for at in pages[len(pages) // 2 :]:
            file.seek(at)
            file.write(b"\xff" * PAGE)

    async with serving(settings_in(tmp_path)) as client:
        # Nobody has asked for what is damaged: the file is read whole at the start.
        while not (problem := await problem_of_database(client)):
            pass
        assert ADVICE in problem
        assert (await client.get("/health/ready")).status_code == 503
        assert (await result_of(client, sound)).status_code == 200
        broken = await status_of(client, damaged, logs="1")
        assert broken.status_code == 500
        assert ADVICE in broken.json()["detail"]


@pytest.mark.parametrize("command", ["serve", "jobs"])
async def test_a_cut_database_is_one_sentence(tmp_path: Path, command: str) -> None:
    await write_jobs(tmp_path)
    path = tmp_path / "data" / "jobs.sqlite3"
    os.truncate(path, path.stat().st_size // 2 // PAGE * PAGE)
    line = command_line(tmp_path) if command == "serve" else ["jobs", "list", "--data", path.parent]
    ended = subprocess.run(
        [COMMAND, *line], env={**os.environ, **SCRIPTED}, capture_output=True, text=True
    )
    assert ended.returncode == 1
    (said,) = ended.stderr.splitlines()
    named = "" if command == "serve" else f"{path} cannot be used. "
    assert said.startswith(f"cosmos-serve: {named}The server's database is damaged.")
    assert ADVICE in said
