"""`cosmos-serve keys`: what it makes opens a running server, until it is revoked."""

import asyncio
import json
import time
from pathlib import Path

import httpx
import pytest
from api_keys import add_key, by_key, keys_of
from command_line import Commands, call
from queue_calls import SUBMIT
from servers import request_of, serving, settings_in

from server.keys import Credential, Scope


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with keys_of(settings_in(tmp_path)):
        return tmp_path / "data"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], folder: Path) -> Commands:
    return Commands(capsys, str(folder))


async def submit_with(client: httpx.AsyncClient, key: str) -> int:
    return (await client.post(SUBMIT, json=request_of(), headers=by_key(key))).status_code


async def test_a_key_that_is_made_and_revoked_beside_a_running_server(
    tmp_path: Path, run: Commands
) -> None:
    settings = settings_in(tmp_path, auth="on")
    add_key(settings)
    async with serving(settings) as client:
        key = run("keys", "create", "laptop").strip()
        while (status := await submit_with(client, key)) == 401:
            await asyncio.sleep(0.05)
        assert status == 200

        run("keys", "revoke", key.partition(":")[0])
        while (status := await submit_with(client, key)) == 200:
            await asyncio.sleep(0.05)
        assert status == 401


def test_a_key_is_shown_once_and_only_its_hash_is_kept(folder: Path, run: Commands) -> None:
    credential = Credential.parse(run("keys", "create", "laptop").strip())
    assert credential is not None
    assert credential.key_id in run("keys", "list")
    assert credential.secret not in run("keys", "list") + run("keys", "list", "--json")
    for file in folder.glob("jobs.sqlite3*"):
        assert credential.secret.encode() not in file.read_bytes()


def test_a_key_has_the_label_the_scopes_and_the_time_that_were_asked_for(run: Commands) -> None:
    plain = run("keys", "create", "plain").partition(":")[0]
    options = ["--scope", "admin", "--scope", "run", "--expires-in-days", "30"]
    admin = run("keys", "create", "the operators'", *options).partition(":")[0]
    keys = {key["id"]: key for key in json.loads(run("keys", "list", "--json"))}
    assert (keys[plain]["scopes"], keys[plain]["expires_at"]) == ([Scope.FILES, Scope.RUN], None)
    assert keys[admin]["label"] == "the operators'"
    assert keys[admin]["scopes"] == [Scope.ADMIN, Scope.RUN]
    assert keys[admin]["expires_at"] - keys[admin]["created_at"] == 30 * 86_400


def test_the_list_says_which_keys_are_still_good(tmp_path: Path, run: Commands) -> None:
    add_key(settings_in(tmp_path), expires_at=time.time() - 1)
    run("keys", "create", "good")
    run("keys", "revoke", run("keys", "create", "bad"))
    header, *rows = run("keys", "list").splitlines()
    assert header.split() == ["ID", "LABEL", "SCOPES", "CREATED", "LAST", "USED", "STATE"]
    states = {row.split()[1]: " ".join(row.split()[5:6]) for row in rows}
    assert states == {"test": "expired", "good": "good", "bad": "revoked"}


def test_what_cannot_be_done_is_said(run: Commands) -> None:
    assert "There is no key 'nobody'" in run.fails("keys", "revoke", "nobody")


def test_a_file_that_is_no_database_is_named(folder: Path, run: Commands) -> None:
    for file in folder.glob("jobs.sqlite3*"):
        file.unlink()
    (folder / "jobs.sqlite3").write_bytes(b"a letter to my aunt" * 100)
    message = run.fails("keys", "list")
    assert message == f"{folder / 'jobs.sqlite3'} cannot be used: file is not a database."


def test_the_folder_may_be_named_in_the_environment(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSMOS_DATA", str(folder))
    assert call(capsys, "keys", "create", "laptop")[0] == 0
    assert "laptop" in call(capsys, "keys", "list")[1]
