"""Servers whose files are in S3, on a real store: what they share, and what they survive."""

import hashlib
import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from command_line import call
from crash_site import receiving
from pydantic import SecretStr
from queue_calls import SUBMIT
from s3_server import S3Server, away
from servers import (
    APP,
    COMMAND,
    RunningServer,
    logging_to,
    picture,
    request_of,
    start_server,
    started,
)
from upload_calls import UPLOAD

from server.disk import MIB
from server.errors import FilesAway
from server.files import unknown_files
from server.files.s3 import S3Files

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

REQUESTS = f"/queue/{APP}/requests"
TEXT = {"prompt": "a red car", "num_inference_steps": 2}


def submit(at: RunningServer, **fields: Any) -> str:
    answer = httpx.post(f"{at.http}{SUBMIT}", json=request_of(**fields))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


def result(at: RunningServer, job: str) -> httpx.Response:
    while httpx.get(f"{at.http}{REQUESTS}/{job}/status").json()["status"] != "COMPLETED":
        time.sleep(0.05)
    return httpx.get(f"{at.http}{REQUESTS}/{job}")


def upload(at: RunningServer, data: bytes, content_type: str = "image/png") -> str:
    sent = httpx.post(f"{at.http}{UPLOAD}", content=data, headers={"content-type": content_type})
    assert sent.status_code == 200, sent.text
    return str(sent.json()["access_url"])


def read(at: RunningServer, url: str, **headers: str) -> httpx.Response:
    """A file under the address that the server has now."""
    return httpx.get(f"{at.http}{httpx.URL(url).path}", headers=headers)


def until_ready(at: RunningServer, *, is_ready: bool) -> httpx.Response:
    while True:
        answer = httpx.get(f"{at.http}/health/ready")
        if (answer.status_code == 200) == is_ready:
            return answer
        time.sleep(0.05)


def test_what_one_server_takes_in_another_makes_and_serves(
    tmp_path: Path, postgres_database: SecretStr, bucket: str
) -> None:
    """Pictures, pixels, videos and uploads, with no folder that they share."""
    shared = {"COSMOS_DATABASE": postgres_database.get_secret_value(), "COSMOS_FILES": bucket}
    with started(tmp_path / "one", **shared) as one:
        httpx.post(f"{one.http}/admin/queue/pause")
        uploaded = upload(one, picture(colour="plum"))
        jobs = [submit(one), submit(one, image_url=uploaded)]
        files = S3Files.at(bucket, scratch=tmp_path)
        while sum(each.startswith("pixels-") for each in files.ids()) < 2:
            time.sleep(0.05)
        assert one.end() == 0
    assert not list((tmp_path / "one/data").glob("files/*/*"))
    with receiving() as receiver, started(tmp_path / "other", **shared) as other:
        httpx.post(f"{other.http}/admin/queue/resume")
        made = [result(other, job) for job in jobs]
        assert [each.status_code for each in made] == [200, 200]
        hooked = httpx.post(
            f"{other.http}{SUBMIT}",
            json=request_of(sync_mode=True),
            params={"fal_webhook": receiver.url},
        )
        assert hooked.status_code == 200
        while not receiver.hooks:
            time.sleep(0.05)
        video = receiver.hooks[0]["payload"]["video"]["url"]
        assert video.startswith("data:video/mp4;base64,")
        url = made[0].json()["video"]["url"]
        part = read(other, url, range="bytes=10-19")
        assert (part.status_code, part.content) == (206, read(other, url).content[10:20])
        assert read(other, uploaded).content == picture(colour="plum")
        assert other.end() == 0


def test_a_bucket_that_is_away_for_a_while_costs_no_job(
    tmp_path: Path, bucket: str, s3_server: S3Server
) -> None:
    with started(tmp_path, COSMOS_FILES=bucket) as one:
        until_ready(one, is_ready=True)
        waiting = [submit(one, prompt="sleep 0.5") for _ in range(3)]
        with away(s3_server):
            problem = until_ready(one, is_ready=False).json()["checks"]
            text = httpx.post(f"{one.http}/queue/{APP}/text-to-video", json=TEXT)
            refused = httpx.post(f"{one.http}{SUBMIT}", json=request_of())
        until_ready(one, is_ready=True)
        jobs = [*waiting, text.json()["request_id"], submit(one)]
        videos = [result(one, job).json()["video"]["url"] for job in jobs]
        assert [read(one, url).status_code for url in videos] == [200] * 5
        assert one.end() == 0
    assert {"name": "files", "passed": False} in [
        {name: each[name] for name in ("name", "passed")} for each in problem
    ]
    assert (refused.status_code, refused.headers["x-fal-retryable"]) == (503, "true")


def test_a_file_that_is_being_sent_as_the_bucket_goes_is_a_line_of_the_log(
    tmp_path: Path, bucket: str, s3_server: S3Server
) -> None:
    log = tmp_path / "log"
    one = start_server(tmp_path, program=logging_to(log), COSMOS_FILES=bucket)
    try:
        url = upload(one, os.urandom(64 * MIB), "application/octet-stream")
        with httpx.stream("GET", url, timeout=60) as answer:
            pieces = answer.iter_raw(65536)
            next(pieces)
            with away(s3_server), pytest.raises(httpx.RemoteProtocolError):
                list(pieces)
    finally:
        one.end(signal.SIGKILL)
    said = log.read_text()
    assert said.count("An answer was cut off") == 1
    assert "Traceback" not in said
    assert "without completing" not in said


def test_wrong_credentials_have_jobs_wait_for_the_right_ones(tmp_path: Path, bucket: str) -> None:
    wrong = {"COSMOS_FILES": bucket, "AWS_SECRET_ACCESS_KEY": "another"}
    with started(tmp_path, **wrong) as one:
        checks = until_ready(one, is_ready=False).json()["checks"]
        while not any(each["name"] == "files" and not each["passed"] for each in checks):
            checks = until_ready(one, is_ready=False).json()["checks"]
        problems = [each["problem"] for each in checks if each["name"] == "files"]
        assert problems == [
            "The store of the server's files refuses the server: SignatureDoesNotMatch."
        ]
        accepted = httpx.post(f"{one.http}/queue/{APP}/text-to-video", json=TEXT)
        assert accepted.status_code == 200
        assert one.end() == 0
    with started(tmp_path, COSMOS_FILES=bucket) as one:
        assert result(one, accepted.json()["request_id"]).status_code == 200


def test_a_bucket_that_is_not_there_has_lost_no_file(
    tmp_path: Path, bucket: str, s3_server: S3Server
) -> None:
    files = S3Files.at("s3://another/x", scratch=tmp_path)
    with pytest.raises(FilesAway, match="The bucket of the server's files is not there"):
        files.read("a" * 32)


def test_a_redirect_is_to_a_url_that_the_bucket_answers(tmp_path: Path, bucket: str) -> None:
    with started(tmp_path, COSMOS_FILES=bucket, COSMOS_FILES_SERVING="redirect") as one:
        url = result(one, submit(one, prompt="bytes 6000000")).json()["video"]["url"]
        redirect = read(one, url)
        assert redirect.status_code == 307
        part = httpx.get(redirect.headers["location"], headers={"range": "bytes=5999990-"})
        assert (part.status_code, len(part.content)) == (206, 10)
        assert part.headers["content-type"] == "video/mp4"
        unsigned = redirect.headers["location"].partition("?")[0]
        assert httpx.get(unsigned).status_code == 403


def test_a_server_s_files_are_moved_and_old_urls_answer(
    tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    with started(tmp_path) as one:
        made = result(one, submit(one, prompt="bytes 6000000")).json()
        urls = [made["video"]["url"], upload(one, picture()), upload(one, b"a text", "text/plain")]
        hashes = [hashlib.sha256(read(one, url).content).hexdigest() for url in urls]
        code, _, err = call(capsys, "files", "copy", "--data", str(data))
        assert (code, "COSMOS_FILES is not set" in err) == (2, True)
        monkeypatch.setenv("COSMOS_FILES", bucket)
        code, _, err = call(capsys, "files", "copy", "--data", str(data))
        assert (code, "uses the data folder" in err) == (1, True)
        assert one.end() == 0

    copied = call(capsys, "files", "copy", "--data", str(data))
    again = call(capsys, "files", "copy", "--data", str(data))
    assert copied[0] == again[0] == 0, copied
    assert f"{bucket}: 6 files copied" in copied[1]
    assert "0 files copied" in again[1]
    assert "6 files had been copied before" in again[1]
    a_day_later = partial(unknown_files.unknown_objects, old_s=-60.0)
    monkeypatch.setattr(unknown_files, "unknown_objects", a_day_later)
    S3Files.at(bucket, scratch=tmp_path).put("f" * 32, b"x", "text/plain", is_new=True)
    for options, said in (
        ("--dry-run", "f" * 32),
        ("--yes", "Removed 1."),
        ("--yes", "Removed 0."),
    ):
        assert said in call(capsys, "files", "prune", "--data", str(data), options)[1]
    shutil.rmtree(data / "files")
    with started(tmp_path, COSMOS_FILES=bucket) as one:
        for url, sha256 in zip(urls, hashes, strict=True):
            assert hashlib.sha256(read(one, url).content).hexdigest() == sha256
        assert one.end() == 0


def test_the_doctor_says_whether_the_bucket_can_be_used(tmp_path: Path, bucket: str) -> None:
    def said(**environment: str) -> str:
        command = [str(COMMAND), "doctor", "--json"]
        ran = subprocess.run(
            [*command, "--weights", str(tmp_path), "--data", str(tmp_path)],
            env={**os.environ, "COSMOS_FILES": bucket, **environment},
            capture_output=True,
            text=True,
        )
        return ran.stdout

    assert f"{bucket} can be written" in said()
    refused = said(AWS_SECRET_ACCESS_KEY="a-wrong-secret")
    assert "refuses the server: SignatureDoesNotMatch" in refused
    assert "a-wrong-secret" not in refused
