"""The documents of the API as they are served: for whom they are, and that they are true."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_documents import BASE_URL, LLMS, own, published
from openapi_schema_validator import OAS30Validator, OAS31Validator
from queue_calls import RUN, SUBMIT, cancel, result_of, status_of, submit, until
from servers import APP, ENDPOINT, MAX_FRAMES, picture, request_of, serving, settings_in

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUEUE_DOCUMENT = "/api/openapi/queue/openapi.json"


@pytest.mark.parametrize(
    ("host", "queue"),
    [("localhost:8000", "http://localhost:8000/queue"), ("fal.ai", "http://queue.fal.run")],
)
async def test_the_document_leads_back_to_where_it_was_read(
    client: httpx.AsyncClient, host: str, queue: str
) -> None:
    answer = await client.get(
        QUEUE_DOCUMENT, params={"endpoint_id": ENDPOINT}, headers={"host": host}
    )
    assert answer.json()["servers"] == [{"url": queue}]


async def test_no_more_frames_are_offered_than_the_checkpoint_makes(
    client: httpx.AsyncClient,
) -> None:
    for path in (f"{QUEUE_DOCUMENT}?endpoint_id={ENDPOINT}", "/openapi.json"):
        schemas = (await client.get(path)).json()["components"]["schemas"]
        frames = schemas["CosmosPredict25ImageToVideoInput"]["properties"]["num_frames"]
        assert (frames["default"], frames["maximum"]) == (MAX_FRAMES, MAX_FRAMES)


@pytest.mark.parametrize("query", ["", "?endpoint_id=", "?endpoint_id=fal-ai/flux/dev"])
async def test_an_endpoint_that_is_not_here_is_answered_with_those_that_are(
    client: httpx.AsyncClient, query: str
) -> None:
    answer = await client.get(QUEUE_DOCUMENT + query)
    assert answer.status_code == 400
    assert ENDPOINT in answer.json()["detail"]


async def test_where_fals_names_lead_here_the_text_changes_nothing(
    client: httpx.AsyncClient,
) -> None:
    text = (await client.get(LLMS, headers={"host": "fal.ai"})).text
    assert "http://fal.run/fal-ai/cosmos-predict-2.5/image-to-video" in text
    assert "FAL_RUN_HOST" not in text
    assert "proxyUrl" not in text


async def test_the_text_is_on_a_short_path_too(client: httpx.AsyncClient) -> None:
    full, short = [await client.get(path) for path in (LLMS, "/llms.txt")]
    assert full.text in short.text
    assert full.headers["content-type"] == "text/plain; charset=utf-8"
    assert (await client.get("/models/fal-ai/flux/llms.txt")).status_code == 404


# The page.


async def test_the_page_loads_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "//" not in re.sub(r"^\s*//.*$", "", page.text, flags=re.MULTILINE)
    references = re.findall(r"""(?:src|href)="([^"]+)"|url: '([^']+)'""", page.text)
    paths = [one or other for one, other in references]
    assert len(paths) == 4
    for path in paths:
        answer = await client.get(path)
        assert (path, answer.status_code) == (path, 200)
        assert len(answer.content) > 500
    assert '"validatorUrl": null' in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert set(re.findall(r"(\w+)-src ([^;]+)", policy)) == {
        ("default", "'none'"),
        ("script", "'self' 'unsafe-inline'"),
        ("style", "'self' 'unsafe-inline'"),
        ("img", "'self' data:"),
        ("connect", "'self'"),
    }


async def test_the_page_follows_the_public_url(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, public_url=BASE_URL)) as client:
        page = (await client.get("/docs")).text
    assert 'src="/cosmos/docs/swagger-ui-bundle.js"' in page
    assert "url: '/cosmos/openapi.json'" in page


async def test_on_fals_host_the_page_shows_fals_document(client: httpx.AsyncClient) -> None:
    page = (await client.get("/docs", headers={"host": "fal.ai"})).text
    (path,) = re.findall(r"url: '([^']+)'", page)
    assert (await client.get(path, headers={"host": "fal.ai"})).json()["openapi"] == "3.0.4"
    assert (await client.get("/openapi.json", headers={"host": "fal.ai"})).status_code == 404


@pytest.mark.parametrize("name", ["oauth2-redirect.html", "main.py", "..%2fmain.py", "%2e%2e"])
async def test_no_other_file_is_served_with_the_page(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/docs/{name}")).status_code == 404


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/llms.txt", LLMS])
async def test_a_document_is_only_read(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


async def test_documents_are_read_without_a_key(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, key="me:s3cret")) as client:
        for path in ("/docs", "/openapi.json", LLMS, f"{QUEUE_DOCUMENT}?endpoint_id={ENDPOINT}"):
            assert (await client.get(path)).status_code == 200


# What the documents say, against what the server answers.


def described_answer(
    document: dict[str, Any], path: str, method: str, answer: httpx.Response
) -> dict[str, Any]:
    """The answer of this status in the document; the own document also has one for the others."""
    answers = document["paths"][path][method]["responses"]
    found: dict[str, Any] = answers.get(str(answer.status_code)) or answers["default"]
    return found


def check(document: dict[str, Any], path: str, answer: httpx.Response, method: str = "get") -> None:
    """Fail unless the answer is as the document says."""
    found = described_answer(document, path, method, answer)
    (media_type,) = found["content"]
    assert answer.headers["content-type"].startswith(media_type.removesuffix("*/*"))
    assert set(found.get("headers", ())) <= set(answer.headers)
    schema = {**found["content"][media_type]["schema"], "components": document["components"]}
    validator = OAS30Validator if document["openapi"].startswith("3.0") else OAS31Validator
    validator(schema).validate(answer.json() if "json" in media_type else answer.text)


async def test_the_life_of_a_request_is_as_both_documents_say(client: httpx.AsyncClient) -> None:
    fals, ours = published(), own()
    request, long_request = f"/queue/{APP}/requests", f"/{ENDPOINT}/requests/{{request_id}}"
    submitted = await client.post(SUBMIT, json=request_of("a red car; sleep 0.2"))
    check(fals, f"/{ENDPOINT}", submitted, "post")
    check(ours, SUBMIT, submitted, "post")
    job = submitted.json()["request_id"]
    pending = await client.get(f"{request}/{job}")
    check(ours, f"{request}/{{request_id}}", pending)
    waiting = await status_of(client, job, logs="1")
    await until(client, job, "COMPLETED")
    done = await status_of(client, job, logs="1")
    assert (pending.status_code, waiting.status_code, done.status_code) == (400, 202, 200)
    for status in (waiting, done):
        check(fals, f"{long_request}/status", status)
        check(ours, f"{request}/{{request_id}}/status", status)
    output = await result_of(client, job)
    check(fals, long_request, output)
    check(ours, f"{request}/{{request_id}}", output)
    refused = await cancel(client, job)
    check(fals, f"{long_request}/cancel", refused, "put")
    check(ours, f"{request}/{{request_id}}/cancel", refused, "put")


async def test_a_cancel_is_as_both_documents_say(client: httpx.AsyncClient) -> None:
    fals, ours = published(), own()
    job = await submit(client, "a red car; sleep 5")
    answer = await cancel(client, job)
    assert answer.status_code == 202
    check(fals, f"/{ENDPOINT}/requests/{{request_id}}/cancel", answer, "put")
    check(ours, f"/queue/{APP}/requests/{{request_id}}/cancel", answer, "put")
    ended = await result_of(client, job)
    assert ended.status_code == 499
    check(ours, f"/queue/{APP}/requests/{{request_id}}", ended)


async def test_a_run_is_as_the_document_says(client: httpx.AsyncClient) -> None:
    good = await client.post(RUN, json=request_of())
    bad = await client.post(RUN, json=request_of(num_frames=8))
    assert (good.status_code, bad.status_code) == (200, 422)
    for answer in (good, bad):
        check(own(), RUN, answer, "post")


async def test_uploads_are_as_the_document_says(client: httpx.AsyncClient) -> None:
    ours = own()
    named = {"file_name": "a.png", "content_type": "image/png"}
    calls: dict[str, dict[str, Any]] = {
        "/rest/storage/auth/token": {},
        "/rest/storage/upload/initiate": {"json": named},
        "/rest/storage/upload/initiate-multipart": {"json": named},
        "/rest/tokens": {"json": {"allowed_apps": ["cosmos-predict-2.5"]}},
        "/files/upload": {"content": picture(), "headers": {"content-type": "image/png"}},
        "/files/upload/multipart": {"headers": {"content-type": "image/png"}},
    }
    answers = {path: await client.post(path, **call) for path, call in calls.items()}
    for path, answer in answers.items():
        check(ours, path, answer, "post")
    whole = answers["/rest/storage/upload/initiate"].json()["upload_url"]
    check(ours, "/files/upload/{upload_id}", await client.put(whole, content=picture()), "put")
    parts = answers["/rest/storage/upload/initiate-multipart"].json()["upload_url"]
    part = await client.put(f"{parts}/1", content=picture())
    check(ours, "/files/upload/{upload_id}/{number}", part, "put")
    complete = await client.post(f"{parts}/complete", json={"parts": [part.json()]})
    check(ours, "/files/upload/{upload_id}/complete", complete, "post")
    begun = answers["/files/upload/multipart"].json()
    parts = f"{begun['access_url']}/multipart/{begun['uploadId']}"
    part = await client.put(f"{parts}/1", content=picture())
    path = "/files/{file_id}/{name}/multipart/{upload_id}"
    check(ours, f"{path}/{{number}}", part, "put")
    complete = await client.post(f"{parts}/complete", json={"parts": [part.json()]})
    check(ours, f"{path}/complete", complete, "post")
