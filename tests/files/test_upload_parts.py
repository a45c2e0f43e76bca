"""Files that come in parts, under the URLs of fal's Python client and of its JavaScript client."""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_keys import add_key, by_key
from servers import serving, settings_in
from upload_calls import INITIATE_MULTIPART, MULTIPART, complete, initiate, kept, put

pytestmark = pytest.mark.asyncio(loop_scope="module")

PART_BYTES = 300_000
DATA = random.Random(1).randbytes(11 * PART_BYTES + 1)
PARTS = [DATA[start : start + PART_BYTES] for start in range(0, len(DATA), PART_BYTES)]


@dataclass(frozen=True, slots=True)
class Begun:
    """An upload in parts: where the parts go, and where the file will be."""

    parts_url: str
    file_url: str


async def begin_as_python(
    client: httpx.AsyncClient, headers: Mapping[str, str] | None = None
) -> Begun:
    plain = {"content-type": "text/plain", "x-fal-file-name": "notes.txt"}
    answer = await client.post(MULTIPART, headers=plain | dict(headers or {}))
    assert answer.status_code == 200, answer.text
    url = answer.json()["access_url"]
    return Begun(f"{url}/multipart/{answer.json()['uploadId']}", url)


async def begin_as_javascript(client: httpx.AsyncClient) -> Begun:
    return Begun(*await initiate(client, INITIATE_MULTIPART, "notes.txt", "text/plain"))


BEGIN = pytest.mark.parametrize("begin", [begin_as_python, begin_as_javascript])


async def put_parts(
    client: httpx.AsyncClient, begun: Begun, parts: Mapping[int, bytes]
) -> list[dict[str, Any]]:
    """Send the parts at the same time; what is said of each, in the order they were given."""

    async def put_one(number: int, data: bytes) -> dict[str, Any]:
        answer = await put(client, f"{begun.parts_url}/{number}", data, None)
        assert answer.status_code == 200, answer.text
        # The Python client reads the header, the JavaScript client the body.
        assert answer.json() == {"partNumber": number, "etag": answer.headers["etag"]}
        return dict(answer.json())

    return await asyncio.gather(*(put_one(number, data) for number, data in parts.items()))


@BEGIN
async def test_parts_become_one_file_in_the_order_of_their_numbers(
    client: httpx.AsyncClient, begin: Any
) -> None:
    begun = await begin(client)
    numbered = list(enumerate(PARTS, start=1))
    random.Random(2).shuffle(numbered)

    listed = await put_parts(client, begun, dict(numbered))
    assert (await client.get(begun.file_url)).status_code == 404
    answer = await complete(client, begun.parts_url, listed)

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    file = await client.get(begun.file_url)
    assert file.content == DATA
    assert file.headers["content-type"] == "text/plain"
    assert begun.file_url.endswith("/notes.txt")


@BEGIN
async def test_parts_may_be_empty(client: httpx.AsyncClient, begin: Any) -> None:
    # An older Python client sends all but the first so.
    begun = await begin(client)
    listed = await put_parts(client, begun, {1: b"all of it", 2: b"", 3: b""})

    assert (await complete(client, begun.parts_url, listed)).status_code == 200
    assert (await client.get(begun.file_url)).content == b"all of it"


async def test_a_part_that_is_sent_again_replaces_the_first(client: httpx.AsyncClient) -> None:
    begun = await begin_as_python(client)
    [first] = await put_parts(client, begun, {1: b"first"})
    [second] = await put_parts(client, begun, {1: b"second"})

    refused = await complete(client, begun.parts_url, [first])
    assert refused.status_code == 400
    assert "Part 1" in refused.json()["detail"]
    assert (await complete(client, begun.parts_url, [second])).status_code == 200
    assert (await client.get(begun.file_url)).content == b"second"


async def test_an_etag_may_come_without_its_quotes(client: httpx.AsyncClient) -> None:
    begun = await begin_as_python(client)
    [part] = await put_parts(client, begun, {1: b"x"})
    bare = {**part, "etag": part["etag"].strip('"')}

    assert (await complete(client, begun.parts_url, [bare])).status_code == 200


async def test_a_part_that_is_not_listed_is_left_out(client: httpx.AsyncClient) -> None:
    begun = await begin_as_python(client)
    parts = await put_parts(client, begun, {1: b"a", 2: b"b", 3: b"c"})

    await complete(client, begun.parts_url, [parts[2], parts[0]])

    assert (await client.get(begun.file_url)).content == b"ac"


async def test_to_complete_twice_is_to_complete_once(client: httpx.AsyncClient) -> None:
    begun = await begin_as_python(client)
    listed = await put_parts(client, begun, {1: b"x"})

    answers = [await complete(client, begun.parts_url, listed) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert (await client.get(begun.file_url)).content == b"x"


@BEGIN
async def test_no_part_is_taken_once_the_file_is_complete(
    client: httpx.AsyncClient, begin: Any
) -> None:
    begun = await begin(client)
    await complete(client, begun.parts_url, await put_parts(client, begun, {1: b"x"}))

    assert (await put(client, f"{begun.parts_url}/2", b"y", None)).status_code == 410
    assert (await client.get(begun.file_url)).content == b"x"


@pytest.mark.parametrize("number", ["0", "10001", "-1", "one", "1.0", "²", "9" * 30])
async def test_a_part_has_a_number(client: httpx.AsyncClient, number: str) -> None:
    begun = await begin_as_python(client)

    assert (await put(client, f"{begun.parts_url}/{number}", b"x", None)).status_code == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("", 422),
        ("{}", 422),
        ('{"parts": {}}', 422),
        ('{"parts": [{"partNumber": 1}]}', 422),
        ('{"parts": []}', 400),
        ('{"parts": [{"partNumber": 7, "etag": "x"}]}', 400),
    ],
)
async def test_a_list_of_parts_that_makes_no_file_is_refused(
    client: httpx.AsyncClient, body: str, status: int
) -> None:
    begun = await begin_as_python(client)
    await put_parts(client, begun, {1: b"x"})

    answer = await client.post(f"{begun.parts_url}/complete", content=body)

    assert answer.status_code == status
    assert (await client.get(begun.file_url)).status_code == 404


async def test_whole_files_and_parts_are_not_mixed_up(client: httpx.AsyncClient) -> None:
    in_parts, (whole, _) = await begin_as_javascript(client), await initiate(client)

    assert (await put(client, in_parts.parts_url, b"x")).status_code == 400
    assert (await put(client, f"{whole}/1", b"x")).status_code == 400
    assert (await complete(client, whole, [])).status_code == 400


async def test_parts_go_to_their_own_file(client: httpx.AsyncClient) -> None:
    begun, other = await begin_as_python(client), await begin_as_python(client)
    upload_id = begun.parts_url.rpartition("/")[2]

    answer = await put(client, f"{other.file_url}/multipart/{upload_id}/1", b"x", None)

    assert answer.status_code == 404


async def test_parts_are_gone_from_the_disk_once_they_are_a_file(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        begun = await begin_as_python(client)
        listed = await put_parts(client, begun, {1: b"x", 2: b"y"})
        await put_parts(client, begun, {2: b"y"})
        assert len(kept(tmp_path)) == 2

        await complete(client, begun.parts_url, listed)

        assert kept(tmp_path) == [httpx.URL(begun.file_url).path.split("/")[2]]


async def test_all_parts_together_have_the_limit_of_a_file(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, upload_limit_mib=1)) as client:
        begun = await begin_as_python(client)
        listed = await put_parts(client, begun, {1: bytes(1_000_000)})

        answer = await put(client, f"{begun.parts_url}/2", bytes(100_000), None)

        assert answer.status_code == 413
        assert len(kept(tmp_path)) == 1
        assert (await complete(client, begun.parts_url, listed)).status_code == 200


async def test_parts_count_among_what_all_files_together_may_have(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, storage_limit_mib=1)) as client:
        begun, other = await begin_as_python(client), await begin_as_python(client)
        listed = await put_parts(client, begun, {1: bytes(1_000_000)})

        assert (await put(client, f"{other.parts_url}/1", bytes(100_000), None)).status_code == 507
        # To make them a file takes no more.
        assert (await complete(client, begun.parts_url, listed)).status_code == 200


async def test_parts_under_the_files_url_need_the_key_that_began(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    mine, other = add_key(settings), add_key(settings)
    async with serving(settings) as client:
        begun = await begin_as_python(client, by_key(mine))
        part = f"{begun.parts_url}/1"

        assert (await client.put(part, content=b"x")).status_code == 401
        assert (await client.put(part, content=b"x", headers=by_key(other))).status_code == 404
        assert (await client.put(part, content=b"x", headers=by_key(mine))).status_code == 200


async def test_parts_outlive_a_restart(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        begun = await begin_as_python(client)
        listed = await put_parts(client, begun, {1: b"before "})
    async with serving(settings) as client:
        listed += await put_parts(client, begun, {2: b"after"})
        await complete(client, begun.parts_url, listed)

        assert (await client.get(begun.file_url)).content == b"before after"
