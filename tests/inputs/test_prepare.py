"""Pictures on their way in: what a data URI may be, and how many are taken in at once."""

import asyncio
import base64
import struct
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import IO, Any

import decoder_processes
import pytest
from api_keys import add_key, by_key
from clips import clip
from http_sites import Site, running
from queue_calls import RUN, SUBMIT, cancel, result_of, submit, until
from servers import (
    APP,
    data_uri,
    picture,
    request_for_each,
    request_of,
    serving,
    settings_in,
)

from pipeline.image import MAX_BYTES
from pipeline.spec import Pixels
from server.fal.invalid_input import InvalidInput
from server.inputs.data_uri import decode_data_uri, is_data_uri
from server.inputs.decoder import MediaDecoder
from server.inputs.media import MEDIA
from server.inputs.prepare import AT_ONCE, DECODES_AT_ONCE
from server.jobs.clock import Clock

MIB = 2**20
LOOPBACK = [ip_network("127.0.0.0/8")]


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("uri", "data"),
    [
        ("data:image/png;base64," + encoded(b"abc"), b"abc"),
        ("DATA:image/png;BASE64," + encoded(b"abc"), b"abc"),
        ("data:;base64," + encoded(b"a"), b"a"),
        ("data:;base64," + encoded(b"a").replace("=", "%3D"), b"a"),
        ("data:image/svg+xml;charset=utf-8;base64," + encoded(b"abc"), b"abc"),
        ("data:;base64," + encoded(bytes(99)).replace("A", "A\r\n"), bytes(99)),
        ("data:image/png; base64, " + encoded(b"abc") + "\n", b"abc"),
        ("data:;base64,YW Jj\tZA", b"abcd"),
        ("data:;base64,-_-_", b"\xfb\xff\xbf"),
        ("data:;base64,", b""),
        ("data:,a%20b%2Cc", b"a b,c"),
        ("data:,", b""),
    ],
)
def test_a_data_uri_gives_its_bytes(uri: str, data: bytes) -> None:
    assert is_data_uri(uri)
    assert decode_data_uri(uri, "image_url", MEDIA["image"]) == data


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("data:image/png;base64", "image_load_error"),
        ("data:image/png;base64,AAAAA", "image_load_error"),
        ("data:image/png;base64,A*AA", "image_load_error"),
        ("data:image/png;base64,AA=AA", "image_load_error"),
        ("data:;base64," + "A" * (MAX_BYTES * 4 // 3 + 8), "file_too_large"),
        ("data:," + "%41" * (MAX_BYTES + 2), "file_too_large"),
        ("data:," + "A" * (MAX_BYTES + 1), "file_too_large"),
    ],
    ids=range(7),
)
def test_a_data_uri_that_cannot_be_used_is_refused(uri: str, kind: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        decode_data_uri(uri, "image_url", MEDIA["image"])

    (item,) = refused.value.items
    assert (item["loc"], item["type"]) == (["body", "image_url"], kind)
    assert item["input"].startswith("data:")
    assert len(item["input"]) < 300


def test_the_largest_image_is_let_in() -> None:
    data = bytes(MAX_BYTES)

    assert decode_data_uri("data:;base64," + encoded(data), "image_url", MEDIA["image"]) == data


class ImageSite:
    """A server of pictures that answers only when it is told to."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.asked = 0
        self.most_at_once = 0
        self._at_once = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await self.may_answer.wait()
        self._at_once -= 1
        data = picture()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def serving_images() -> AsyncIterator[tuple[ImageSite, str]]:
    images = ImageSite()
    server = await asyncio.start_server(images.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield images, f"http://127.0.0.1:{port}/picture.png"


async def test_images_are_taken_in_a_few_at_a_time_and_hold_up_nobody_else(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path, fetch_allow_nets=LOOPBACK)
    async with serving_images() as (images, url), serving(settings) as client:
        slow = [await submit(client, image_url=url) for _ in range(AT_ONCE - 1)]
        quick = await submit(client, image_url=data_uri(picture()))
        assert (await result_of(client, quick)).status_code == 200

        slow += [await submit(client, image_url=url) for _ in range(3)]
        while images.asked < AT_ONCE:
            await asyncio.sleep(0.02)
        images.may_answer.set()
        for job in slow:
            assert (await result_of(client, job)).status_code == 200
        assert images.most_at_once == AT_ONCE


async def silent(images: ImageSite, _decoder: "SlowDecoder") -> None:
    while images.asked < AT_ONCE - 1:
        await asyncio.sleep(0.02)


async def slow(_images: ImageSite, decoder: "SlowDecoder") -> None:
    while decoder.asked < DECODES_AT_ONCE - 1:
        await asyncio.sleep(0.02)


class SlowDecoder(MediaDecoder):
    """Some pictures take it for ever."""

    asked = 0

    async def prepare(
        self, name: str, file: IO[bytes], width: int, height: int, **options: Any
    ) -> Sequence[Pixels]:
        if file.read() == b"slow":
            self.asked += 1
            await asyncio.Event().wait()
        return await super().prepare(name, file, width, height, **options)


@pytest.mark.parametrize("until_stuck", [silent, slow])
async def test_pictures_of_one_key_that_take_long_leave_room_for_those_of_others(
    tmp_path: Path, until_stuck: Any
) -> None:
    decoder = SlowDecoder()
    settings = settings_in(tmp_path, auth="on", fetch_allow_nets=LOOPBACK)
    mine, yours = by_key(add_key(settings)), by_key(add_key(settings))
    async with serving_images() as (images, url), serving(settings, decoder=decoder) as client:
        stuck = request_of(image_url=url if until_stuck is silent else "data:,slow")
        for _ in range(AT_ONCE + 1):
            assert (await client.post(SUBMIT, json=stuck, headers=mine)).status_code == 200
        await until_stuck(images, decoder)

        answer = await client.post(RUN, json=request_of(), headers=yours)

        assert answer.status_code == 200
        assert (images.asked, decoder.asked) in {(AT_ONCE - 1, 0), (0, DECODES_AT_ONCE - 1)}
        images.may_answer.set()


async def test_a_job_cancelled_while_its_image_comes_stays_cancelled(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, fetch_allow_nets=LOOPBACK)
    async with serving_images() as (images, url), serving(settings) as client:
        job = await submit(client, image_url=url)
        while images.asked == 0:
            await asyncio.sleep(0.02)
        await cancel(client, job)
        images.may_answer.set()

        assert (await result_of(client, await submit(client, image_url=url))).status_code == 200
        assert (await result_of(client, job)).status_code == 499


async def test_an_image_that_was_coming_when_the_server_ended_is_fetched_anew(
    tmp_path: Path,
) -> None:
    settings = settings_in(tmp_path, fetch_allow_nets=LOOPBACK)
    async with serving_images() as (images, url):
        async with serving(settings) as client:
            job = await submit(client, image_url=url)
            while images.asked == 0:
                await asyncio.sleep(0.02)

        images.may_answer.set()
        async with serving(settings) as client:
            assert (await result_of(client, job)).status_code == 200


async def test_an_image_whose_process_is_killed_is_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = MediaDecoder(program=decoder_processes.__name__)
    monkeypatch.setattr("server.inputs.prepare.TRY_AGAIN_S", 0.01)
    async with serving(settings_in(tmp_path), decoder=decoder) as client:
        once = await submit(client, image_url=f"data:,killed until {tmp_path}/killed")
        always = await submit(client, image_url="data:,killed")
        made, failed = await result_of(client, once), await result_of(client, always)

    assert made.status_code == 200
    assert failed.status_code == 500
    assert "was killed" in failed.json()["detail"]


async def test_a_server_without_ffmpeg_blames_no_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for_each()[f"{APP}/video-to-video"]
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/no/such/ffmpeg")
    async with serving(settings_in(tmp_path), decoder=MediaDecoder()) as client:
        job = (await client.post(f"/queue/{APP}/video-to-video", json=request)).json()
        result = await result_of(client, job["request_id"])

    assert result.status_code == 500
    assert "This server cannot decode a video" in result.json()["detail"]


async def test_a_clip_of_a_url_is_never_whole_in_memory(tmp_path: Path) -> None:
    """One of 64 MiB, most of which is room that no player looks at."""
    size = 64 * MIB
    room = struct.pack(">I4s", size, b"free")

    async def large(writer: asyncio.StreamWriter) -> None:
        length = len(clip()) + size
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
        writer.write(clip() + room + bytes(MIB - len(room)))
        for _ in range(63):
            writer.write(bytes(MIB))
            await writer.drain()

    async for site in running(Site(answers={"/clip.mp4": large}), None):
        async with serving(settings_in(tmp_path, fetch_allow_nets=LOOPBACK)) as client:
            body = {"prompt": "a red car", "video_url": site.url("/clip.mp4")}
            tracemalloc.start()
            try:
                answer = await client.post(f"/run/{APP}/video-to-video", json=body)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
    assert answer.status_code == 200, answer.text
    assert peak < 16 * MIB


async def test_a_clip_of_more_than_200_mb_is_refused_before_it_comes(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 200000001\r\n\r\n"
    async for site in running(Site(answers={"/clip.mp4": head}), None):
        async with serving(settings_in(tmp_path, fetch_allow_nets=LOOPBACK)) as client:
            body = {"prompt": "a red car", "video_url": site.url("/clip.mp4")}
            answer = await client.post(f"/run/{APP}/video-to-video", json=body)

    (item,) = answer.json()["detail"]
    assert (item["type"], item["ctx"]) == ("file_too_large", {"max_size": 200_000_000})


async def test_what_is_told_of_a_picture_has_the_time_of_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.app.Clock", lambda: Clock(wall=lambda: 1e9))
    async with serving(settings_in(tmp_path)) as client:
        job = await submit(client, image_url=data_uri(picture(width=16, height=640)))
        lines = (await until(client, job, "COMPLETED"))["logs"]

    warnings = [line for line in lines if line["level"] == "WARN"]
    assert warnings
    assert {line["timestamp"][:4] for line in warnings} == {"2001"}


async def test_a_data_uri_outlives_the_server(tmp_path: Path) -> None:
    broken = settings_in(tmp_path, worker="workers:LoadFails")
    async with serving(broken) as client:
        job = await submit(client, image_url=data_uri(picture()))

    async with serving(settings_in(tmp_path)) as client:
        assert (await result_of(client, job)).status_code == 200


async def test_a_private_address_is_not_fetched_and_the_error_does_not_tell_why(
    tmp_path: Path,
) -> None:
    async with serving_images() as (images, url), serving(settings_in(tmp_path)) as client:
        listening = await result_of(client, await submit(client, image_url=url))
        nobody = await result_of(
            client, await submit(client, image_url="http://127.0.0.1:9/picture.png")
        )

    assert images.asked == 0
    messages = [answer.json()["detail"][0]["msg"] for answer in (listening, nobody)]
    assert messages[0] == messages[1]
