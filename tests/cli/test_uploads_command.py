"""`cosmos-serve uploads`, beside a server that runs."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_keys import add_key, by_key
from command_line import Commands
from servers import serving, settings_in
from upload_calls import kept, upload


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Commands:
    return Commands(capsys, str(tmp_path / "data"))


def listed(run: Commands, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("uploads", "list", "--json", *options))
    return found


def path_of(url: str) -> str:
    return httpx.URL(url).path


async def test_uploads_are_listed_and_removed_by_id_by_key_and_by_age(
    tmp_path: Path, run: Commands
) -> None:
    settings = settings_in(tmp_path, auth="on")
    mine, yours = add_key(settings, "mine"), add_key(settings, "yours")
    async with serving(settings) as client:
        urls = [await upload(client, b"12345", name=f"{n}.png", **by_key(mine)) for n in range(2)]
        urls.append(await upload(client, bytes(2048), name="2.png", **by_key(yours)))

        assert [file["name"] for file in listed(run)] == ["2.png", "1.png", "0.png"]
        rows = [row.split() for row in run("uploads", "list").splitlines()]
        assert [(row[1], row[-1]) for row in rows[1:]] == [
            *(("2.png", "yours"), ("1.png", "mine"), ("0.png", "mine"))
        ]
        assert "2.0 KiB" in run("uploads", "list", "--key", "yours")

        first = listed(run)[-1]["id"]
        assert run("uploads", "purge", first) == "Removed 1.\n"
        assert (await client.get(path_of(urls[0]))).status_code == 404
        assert (await client.get(path_of(urls[1]))).status_code == 200
        assert f"There are no uploads {first}" in run.fails("uploads", "purge", first)

        assert run("uploads", "purge", "--key", "mine", "--older-than-days", "1", "--yes")
        preview = run("uploads", "purge", "--key", "mine", "--dry-run")
        assert preview.endswith("This would remove 1 upload of 5 B together.\n")
        assert len(listed(run)) == 2
        assert run("uploads", "purge", "--key", "mine", "--yes") == "Removed 1.\n"
        assert [file["name"] for file in listed(run)] == ["2.png"]
        assert run("uploads", "purge", "--older-than-days", "0", "--yes") == "Removed 1.\n"
        assert kept(tmp_path) == []


async def test_many_uploads_are_removed_where_they_are_named_by_a_key(
    tmp_path: Path, run: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.files.upload_reports.BATCH", 2)
    async with serving(settings_in(tmp_path)) as client:
        for number in range(5):
            await upload(client, b"12345", name=f"{number}.png")
        assert run("uploads", "purge", "--older-than-days", "0", "--yes") == "Removed 5.\n"


async def test_nothing_is_removed_without_a_yes(
    tmp_path: Path, run: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(settings_in(tmp_path)) as client:
        await upload(client, b"12345")
        everything = ("uploads", "purge", "--older-than-days", "0")
        assert "say --yes" in run.fails(*everything, code=2)
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
        assert run.fails(*everything) == "Nothing was removed."
        assert len(listed(run)) == 1


def test_what_to_remove_must_be_said_in_one_way(tmp_path: Path, run: Commands) -> None:
    for options in ((), ("id", "--key", "mine"), ("id", "--older-than-days", "1")):
        assert "either the ids of uploads, or" in run.fails("uploads", "purge", *options, code=2)
