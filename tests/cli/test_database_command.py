"""`cosmos-serve database`, beside a server that runs."""

import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from api_keys import add_key
from command_line import call
from page_blocks import blocks_of
from paths import DOCS
from queue_calls import result_of, submit, until
from servers import picture, serving, settings_in
from upload_calls import upload

SECRETS = ("token.secret", "webhook-signing-key.pem")


async def test_a_restored_backup_has_all_that_the_running_server_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    back_up, restore = (
        shlex.split(block.code)[1:]
        for block in blocks_of(DOCS / "upgrading.md")
        if block.run_by is not None
    )
    settings = settings_in(tmp_path)
    data, backup, restored = (tmp_path / name for name in ("data", "backup", "restored"))
    add_key(settings, "a team")
    async with serving(settings) as client:
        done = await submit(client)
        result = (await result_of(client, done)).json()
        urls = [await upload(client, picture()), result["video"]["url"]]
        files = [(await client.get(urlsplit(url).path)).content for url in urls]
        running = await submit(client, "sleep 3600")
        await until(client, running, "IN_PROGRESS")

        code, out, err = call(capsys, *back_up)
        assert code == 0, err
        assert out.startswith("backup: a backup of data, ")
        code, _, err = call(capsys, "database", "restore", str(backup), "--data", str(data))
        assert (code, "uses the data folder" in err) == (1, True)
        await client.put(f"/queue/fal-ai/cosmos-predict-2.5/requests/{running}/cancel")

    code, out, err = call(capsys, *restore)
    assert code == 0, err
    assert out.startswith("restored: restored from backup, ")

    for folder in (backup, restored):
        assert [(folder / name).read_bytes() for name in SECRETS] == [
            (data / name).read_bytes() for name in SECRETS
        ]
        made = [path for path in folder.rglob("*") if path.is_file()]
        assert [path for path in made if path.stat().st_mode & 0o077] == []
    _, keys, _ = call(capsys, "keys", "list", "--data", str(restored))
    assert "a team" in keys
    async with serving(settings_in(tmp_path, data=restored)) as client:
        assert (await result_of(client, done)).json() == result
        assert [(await client.get(urlsplit(url).path)).content for url in urls] == files
        await until(client, running, "IN_PROGRESS")


def test_a_damaged_database_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "jobs.sqlite3").write_bytes(b"no database" * 999)
    backup = str(tmp_path / "backup")

    code, _, err = call(capsys, "database", "backup", backup, "--data", str(tmp_path))

    assert (code, err.count("\n")) == (1, 1)
    assert f"{tmp_path}/jobs.sqlite3 cannot be copied. The server's database is damaged" in err


async def test_a_backup_beside_a_bucket_says_what_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(settings_in(tmp_path)):
        pass
    monkeypatch.setenv("COSMOS_FILES", "s3://videos/cosmos")
    data, backup, restored = (str(tmp_path / name) for name in ("data", "backup", "restored"))

    for arguments in (("backup", backup, "--data", data), ("restore", backup, "--data", restored)):
        code, out, err = call(capsys, "database", *arguments)
        assert code == 0, err
        assert "without the files, which are in s3://videos/cosmos" in out
    assert (tmp_path / "restored" / "jobs.sqlite3").is_file()
