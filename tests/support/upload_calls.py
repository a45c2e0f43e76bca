"""What tests do to upload a file, in a word each, as fal's clients do it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from httpx import Response

TOKEN = "/rest/storage/auth/token?storage_type=fal-cdn-v3"
UPLOAD = "/files/upload"
MULTIPART = "/files/upload/multipart"
INITIATE = "/rest/storage/upload/initiate?storage_type=fal-cdn-v3"
INITIATE_MULTIPART = "/rest/storage/upload/initiate-multipart?storage_type=fal-cdn-v3"


async def upload(
    client: httpx.AsyncClient,
    data: bytes,
    content_type: str = "image/png",
    name: str | None = None,
    **headers: str,
) -> str:
    """The URL of a new file, sent whole."""
    sent = {"content-type": content_type, **headers}
    if name is not None:
        sent["x-fal-file-name"] = name
    # httpx takes no more than ASCII in a header's text.
    raw = [(key.encode(), text.encode()) for key, text in sent.items()]
    answer = await client.post(UPLOAD, content=data, headers=raw)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_url"])


async def initiate(
    client: httpx.AsyncClient,
    path: str = INITIATE,
    name: str = "car.png",
    content_type: str = "image/png",
    headers: Mapping[str, str] | None = None,
) -> tuple[str, str]:
    """The URL to put a file to, and the one that it will have."""
    body = {"file_name": name, "content_type": content_type}
    answer = await client.post(path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["upload_url"], answer.json()["file_url"]


async def put(
    client: httpx.AsyncClient, url: str, data: bytes, content_type: str | None = "image/png"
) -> Response:
    headers = {} if content_type is None else {"content-type": content_type}
    return await client.put(url, content=data, headers=headers)


async def complete(
    client: httpx.AsyncClient, url: str, parts: Sequence[Mapping[str, Any]]
) -> Response:
    return await client.post(f"{url}/complete", json={"parts": parts})


def kept(folder: Path) -> list[str]:
    """The names of all files that a server keeps for its callers, and of those on their way."""
    return sorted(path.name for path in (folder / "data/files").rglob("*") if path.is_file())
