"""Servers in processes of their own that share the jobs of one PostgreSQL, and calls to them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr
from queue_calls import SUBMIT
from servers import APP, RunningServer, request_of, started

REQUESTS = f"/queue/{APP}/requests"


@contextmanager
def server(
    folder: Path, url: SecretStr, files: Path | str | None = None, **environment: str
) -> Iterator[RunningServer]:
    """A server in a process of its own; its files may be in the folder of another, or in S3."""
    data = folder / "data"
    if isinstance(files, str):
        environment["COSMOS_FILES"] = files
    elif files is not None and not files.is_relative_to(folder):
        data.mkdir(parents=True)
        (data / "files").symlink_to(files)
    with started(folder, COSMOS_DATABASE=url.get_secret_value(), **environment) as running:
        yield running


def submit(at: RunningServer, prompt: str = "", **params: str) -> str:
    answer = httpx.post(f"{at.http}{SUBMIT}", json=request_of(prompt), params=params)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


def until(at: RunningServer, job: str, status: str) -> dict[str, Any]:
    """Wait for a status; a database that is away is one that comes back."""
    while True:
        answer = httpx.get(f"{at.http}{REQUESTS}/{job}/status?logs=1")
        if answer.status_code != 503 and answer.json()["status"] == status:
            return dict(answer.json())
        time.sleep(0.02)


def result(at: RunningServer, job: str) -> httpx.Response:
    until(at, job, "COMPLETED")
    return httpx.get(f"{at.http}{REQUESTS}/{job}")
