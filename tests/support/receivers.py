"""Receivers of webhooks on loopback, and how fal's documents tell them to check what they get."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from http_sites import Script, Site
from job_fixtures import sql
from nacl.encoding import HexEncoder
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

TOLERANCE_S = 300
"""How far fal's samples let the timestamp be from their own clock."""


@dataclass(frozen=True, slots=True)
class Hook:
    """A webhook as its receiver got it; the names of headers are in lower case."""

    target: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.body)
        return body


def hooks_at(site: Site) -> list[Hook]:
    """All that the site has got so far."""
    return [_hook(*got) for got in zip(site.requests, site.bodies, strict=True)]


async def until_hooked(site: Site, count: int = 1) -> list[Hook]:
    """Wait until the site has got so many."""
    await until(lambda: len(site.requests) >= count)
    return hooks_at(site)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


def in_turn(*answers: bytes) -> Script:
    """A script that gives these answers, one to each request."""
    left = list(answers)

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0))
        await writer.drain()

    return answer


async def hang(_writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


def webhook_rows(folder: Path, columns: str) -> list[tuple[Any, ...]]:
    """These columns of the table of webhooks in the data folder, oldest first."""
    return sql(folder / "jobs.sqlite3", f"SELECT {columns} FROM webhooks ORDER BY id")


def verifies(hook: Hook, jwks: Mapping[str, Any], now: float) -> bool:
    """The Python recipe of fal's documents, but that a lack of padding in `x` is made good.

    It shares no code with the server: the signature is checked by libsodium.
    """
    timestamp = hook.headers["x-fal-webhook-timestamp"]
    if abs(now - int(timestamp)) > TOLERANCE_S:
        return False
    parts = [
        hook.headers["x-fal-webhook-request-id"],
        hook.headers["x-fal-webhook-user-id"],
        timestamp,
        hashlib.sha256(hook.body).hexdigest(),
    ]
    message = "\n".join(parts).encode("utf-8")
    signature = bytes.fromhex(hook.headers["x-fal-webhook-signature"])
    for key in jwks["keys"]:
        public_key = base64.urlsafe_b64decode(key["x"] + "=" * (-len(key["x"]) % 4))
        try:
            VerifyKey(public_key.hex().encode(), encoder=HexEncoder).verify(message, signature)
        except BadSignatureError:
            continue
        return True
    return False


def _hook(request: str, body: bytes) -> Hook:
    first, *lines = request.strip().split("\r\n")
    headers = (line.split(": ", 1) for line in lines)
    return Hook(first.split()[1], {name.lower(): value for name, value in headers}, body)
