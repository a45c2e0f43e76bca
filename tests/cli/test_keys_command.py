"""`cosmos-serve keys`: what it makes opens a running server, until it is revoked."""

import asyncio
import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from api_keys import add_key, by_key, keys_of
from command_line import Commands, call
from queue_calls import SUBMIT
from servers import request_of, serving, settings_in

from server.errors import DatabaseDamaged
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
    add_key(settings_in(tmp_path), "test", expires_at=time.time() - 1)
    run("keys", "create", "good")
    run("keys", "revoke", run("keys", "create", "bad"))
    header, *rows = run("keys", "list").splitlines()
    assert header.split() == ["ID", "LABEL", "SCOPES", "CREATED", "LAST", "USED", "LIMITS", "STATE"]
    states = {row.split()[1]: row.split()[6] for row in rows}
    assert states == {"test": "expired", "good": "good", "bad": "revoked"}


def test_no_two_keys_that_are_good_have_the_same_label(run: Commands) -> None:
    key = run("keys", "create", "laptop")
    key_id = key.partition(":")[0]
    refused = run.fails("keys", "create", "laptop")
    assert f"The key {key_id} is called 'laptop' already" in refused
    assert len(json.loads(run("keys", "list", "--json"))) == 1

    run("keys", "revoke", "laptop")
    assert run("keys", "create", "laptop") != key


def test_a_key_is_named_by_its_label_its_id_or_the_whole_of_it(run: Commands) -> None:
    old = run("keys", "create", "laptop").strip()
    for name in ("laptop", old, old.partition(":")[0]):
        run("keys", "limits", name)
    run("keys", "revoke", "laptop")
    new = run("keys", "create", "laptop").partition(":")[0]
    run("keys", "limits", "laptop", "--queue-limit", "1")
    limits = {key["id"]: key["limits"] for key in json.loads(run("keys", "list", "--json"))}
    assert limits.pop(new)["queue_limit"] == 1, "the one that is not revoked is meant"
    (others,) = limits.values()
    assert others["queue_limit"] is None


def test_keys_of_an_earlier_release_that_share_a_label_are_told_apart(
    folder: Path, run: Commands
) -> None:
    first, second = (run("keys", "create", each).partition(":")[0] for each in ("a", "b"))
    with closing(sqlite3.connect(folder / "jobs.sqlite3")) as db, db:
        db.execute("UPDATE keys SET name = 'both'")
    message = run.fails("keys", "revoke", "both")
    assert "2 keys are called 'both'" in message
    assert first in message and second in message
    run("keys", "revoke", first)
    run("keys", "revoke", "both")


async def test_a_key_s_own_limit_holds_from_the_next_request_on(
    tmp_path: Path, run: Commands
) -> None:
    settings = settings_in(tmp_path, auth="on", key_submits_per_minute=2)
    key = run("keys", "create", "laptop", "--submits-per-minute", "1").strip()
    async with serving(settings) as client:
        assert [await submit_with(client, key) for _ in range(2)] == [200, 429]
        run("keys", "limits", "laptop", "--submits-per-minute", "default")
        assert [await submit_with(client, key) for _ in range(2)] == [200, 429]
        run("keys", "limits", "laptop", "--submits-per-minute", "4")
        assert [await submit_with(client, key) for _ in range(3)] == [200, 200, 429]


def test_the_limits_of_a_key_are_shown(run: Commands) -> None:
    run("keys", "create", "laptop", "--queue-limit", "5", "--storage-limit-mib", "100")
    run("keys", "limits", "laptop", "--queue-limit", "default", "--running-limit", "2")
    assert run("keys", "limits", "laptop").split() == [
        *("queue-limit", "default", "running-limit", "2"),
        *("submits-per-minute", "default", "storage-limit-mib", "100"),
    ]
    assert "  running-limit=2,storage-limit-mib=100  good" in run("keys", "list")


def test_what_cannot_be_done_is_said(run: Commands) -> None:
    for command in ("revoke", "limits"):
        message = run.fails("keys", command, "nobody:secret")
        assert "There is no key 'nobody'" in message
        assert "secret" not in message
    assert "needs a label" in run.fails("keys", "create", " ", code=2)
    for number in ("0", "-1", "many", str(2**31)):
        refused = run.fails("keys", "create", "a", f"--queue-limit={number}", code=2)
        assert "neither a number from 1 on nor 'default'" in refused


def test_a_file_that_is_no_database_is_named(folder: Path, run: Commands) -> None:
    for file in folder.glob("jobs.sqlite3*"):
        file.unlink()
    (folder / "jobs.sqlite3").write_bytes(b"a letter to my aunt" * 100)
    message = run.fails("keys", "list")
    assert message == f"{folder / 'jobs.sqlite3'} cannot be used. {DatabaseDamaged()}"


def test_the_folder_may_be_named_in_the_environment(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSMOS_DATA", str(folder))
    assert call(capsys, "keys", "create", "laptop")[0] == 0
    assert "laptop" in call(capsys, "keys", "list")[1]
