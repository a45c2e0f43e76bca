"""An endpoint in the shape of OpenAI's moderations, on loopback, that answers as tests tell it."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from http_sites import Script, Site, answer, running
from PIL import Image

PATH = "/v1/moderations"
PROBE_TEXT, PROBE_GREY = "A calm sea.", 128

Part = dict[str, Any]


def flagged(*flags: object) -> bytes:
    """An answer with such results."""
    results = [{"flagged": flag, "categories": {}} for flag in flags]
    return answer(json.dumps({"id": "modr-1", "results": results}).encode())


def status(line: str, *headers: str) -> bytes:
    return answer(b"", *headers, status=line)


async def stall(_writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


def grey_of(part: Part) -> int | None:
    """How bright the first pixel of a picture is, 0 to 255; None of a text."""
    if part["type"] != "image_url":
        return None
    head, _, data = part["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.format == "JPEG"
        return image.convert("L").tobytes()[0]


def is_probe(part: Part) -> bool:
    """Whether this is what a server asks about on its own account."""
    return part.get("text") == PROBE_TEXT or grey_of(part) == PROBE_GREY


def is_frame(part: Part, number: int) -> bool:
    """Whether this is that frame of a scripted worker; its other pictures are far brighter."""
    return grey_of(part) == number


@dataclass
class Moderations:
    """`judge` makes the answer to each part; what was asked, the probes aside, is in `asked`."""

    site: Site = field(default_factory=Site)
    judge: Callable[[Part], bytes | Script] = lambda part: flagged(False)
    asked: list[Part] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.site.url(PATH)

    @property
    def texts(self) -> list[str]:
        return [part["text"] for part in self.asked if part["type"] == "text"]

    async def answer(self, writer: asyncio.StreamWriter) -> None:
        body = json.loads(self.site.bodies[-1])
        self.bodies.append(body)
        (part,) = body["input"]
        if not is_probe(part):
            self.asked.append(part)
        answered = self.judge(part)
        if isinstance(answered, bytes):
            writer.write(answered)
            await writer.drain()
        else:
            await answered(writer)


@asynccontextmanager
async def moderations() -> AsyncIterator[Moderations]:
    """The endpoint, running during the block."""
    endpoint = Moderations()
    endpoint.site.answers[PATH] = endpoint.answer
    async for _ in running(endpoint.site, None):
        yield endpoint
