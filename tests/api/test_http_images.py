"""The pictures that callers send, and what they are told of those that cannot be used."""

import io
from pathlib import Path

import httpx
import pytest
from PIL import Image
from queue_calls import RUN, result_of, submit, until
from servers import BASE_URL, data_uri, picture, request_of, serving, settings_in
from upload_calls import kept, upload

from pipeline.image import MAX_BYTES

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("image_url", "kind"),
    [
        ("data:image/png;base64,AAAA", "image_load_error"),
        ("data:image/png;base64,!", "image_load_error"),
        ("data:image/png;base64", "image_load_error"),
        (f"{BASE_URL}/files/nothing/here.png", "file_download_error"),
        ("http://127.0.0.1:9/car.png", "file_download_error"),
        ("ftp://example.com/car.png", "file_download_error"),
        ("car.png", "file_download_error"),
        ("", "file_download_error"),
    ],
)
async def test_a_picture_that_cannot_be_used_is_reported_in_fals_words(
    client: httpx.AsyncClient, image_url: str, kind: str
) -> None:
    by_run = await client.post(RUN, json=request_of(image_url=image_url))
    by_queue = await result_of(client, await submit(client, image_url=image_url))

    for answer in (by_run, by_queue):
        assert answer.status_code == 422
        (item,) = answer.json()["detail"]
        assert item["loc"] == ["body", "image_url"]
        assert item["type"] == kind
        assert item["url"] == f"https://docs.fal.ai/errors#{kind}"
        assert item["input"] == image_url[:200] or item["input"] == "data:…"


async def test_a_data_uri_need_not_be_base64_nor_say_its_type(client: httpx.AsyncClient) -> None:
    quoted = "data:," + "".join(f"%{byte:02x}" for byte in picture())

    answer = await client.post(RUN, json=request_of(image_url=quoted))

    assert answer.status_code == 200


async def test_what_is_cropped_of_a_picture_stands_in_the_log_of_its_job(
    client: httpx.AsyncClient,
) -> None:
    job = await submit(client, image_url=data_uri(picture(96, 200)))

    first, *_ = (await until(client, job, "COMPLETED"))["logs"]

    assert first["level"] == "WARN"
    assert "68% of the picture is cropped away" in first["message"]


async def test_white_space_around_a_url_does_not_count(client: httpx.AsyncClient) -> None:
    for image_url in (data_uri(picture()), await upload(client, picture())):
        answer = await client.post(RUN, json=request_of(image_url=f" {image_url}\n"))
        assert answer.status_code == 200, answer.text


async def test_an_upload_that_is_compressed_is_refused_and_not_stored(
    client: httpx.AsyncClient,
) -> None:
    for coding, status in (("gzip", 415), ("identity", 200)):
        answer = await client.post(
            "/files/upload", content=picture(), headers={"content-encoding": coding}
        )
        assert answer.status_code == status, answer.text


async def test_a_file_of_our_own_is_read_from_the_disk(client: httpx.AsyncClient) -> None:
    video = (await client.post(RUN, json=request_of())).json()["video"]["url"]

    answer = await client.post(RUN, json=request_of(image_url=video))

    # It was found, though nothing listens at that address; but a video is no picture.
    assert answer.json()["detail"][0]["type"] == "image_load_error"


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF", "PNG", "AVIF"])
async def test_an_uploaded_picture_is_used_whatever_its_format(
    client: httpx.AsyncClient, format: str
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (100, 100), "red").save(file, format)
    # What it says of its type is not asked.
    url = await upload(client, file.getvalue(), "text/plain", "Käse.txt")

    for image_url in (url, data_uri(file.getvalue())):
        answer = await client.post(RUN, json=request_of(image_url=image_url))
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "base",
    [
        "http://LOCALHOST:8000",
        "http://127.0.0.1:8000",
        "https://v3.fal.media",
        "http://v3.fal.media:8000",
    ],
)
async def test_a_file_of_this_server_is_known_by_each_of_its_names(
    client: httpx.AsyncClient, base: str
) -> None:
    url = (await upload(client, picture())).replace(BASE_URL, base)

    answer = await client.post(RUN, json=request_of(image_url=url))

    assert answer.status_code == 200, answer.text


async def test_a_file_of_our_own_is_known_by_the_public_url(tmp_path: Path) -> None:
    public_url = "https://videos.example.com/cosmos"
    async with serving(settings_in(tmp_path, public_url=public_url)) as client:
        url = await upload(client, picture())
        assert url.startswith(f"{public_url}/files/")

        answer = await client.post(RUN, json=request_of(image_url=url))

        assert answer.status_code == 200, answer.text


async def test_a_wrong_url_of_this_server_is_not_downloaded(
    client: httpx.AsyncClient,
) -> None:
    url = await upload(client, picture(), name="car.png")
    elsewhere = [
        url.replace("car.png", "cat.png"),
        url.removesuffix("/car.png"),
        f"{url}/car.png",
        f"{BASE_URL}/files/{'0' * 32}/car.png",
        f"https://v3.fal.media/files/{'0' * 32}/car.png",
    ]

    for image_url in elsewhere:
        answer = await client.post(RUN, json=request_of(image_url=image_url))
        [item] = answer.json()["detail"]
        assert item["type"] == "file_download_error"
        assert item["msg"] == "This server has no such file."


async def test_a_file_too_large_for_a_picture_is_not_even_read(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        url = await upload(client, picture() + bytes(MAX_BYTES))
        [file] = kept(tmp_path)
        next(tmp_path.rglob(file)).unlink()

        answer = await client.post(RUN, json=request_of(image_url=url))

    [item] = answer.json()["detail"]
    assert (item["type"], item["ctx"]) == ("file_too_large", {"max_size": MAX_BYTES})


async def test_the_worker_gets_the_picture_at_the_size_of_the_checkpoint(
    client: httpx.AsyncClient,
) -> None:
    async def video(colour: str) -> bytes:
        image_url = data_uri(picture(333, 100, colour))
        output = (await client.post(RUN, json=request_of(image_url=image_url, seed=1))).json()
        return (await client.get(output["video"]["url"])).content

    assert await video("red") != await video("green")
