"""Webhooks over the real app, with a scripted worker and a receiver on loopback."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from http_sites import Site, answer, running
from queue_calls import SUBMIT, cancel, result_of, until
from receivers import Hook, hang, hooks_at, until_hooked, verifies, webhook_rows
from servers import BASE_URL, request_of, serving, settings_in

pytestmark = pytest.mark.asyncio(loop_scope="module")

JWKS = "/.well-known/jwks.json"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sender(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that may send to loopback."""
    settings = settings_in(tmp_path_factory.mktemp("server"), fetch_allow_nets="127.0.0.0/8")
    async with serving(settings) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def receiver() -> AsyncIterator[Site]:
    async for site in running(Site(answers={"/hook": answer()}), None):
        yield site


async def submit_with(
    client: httpx.AsyncClient, url: str, prompt: str = "a red car", **fields: Any
) -> str:
    body = request_of(prompt, **fields)
    answered = await client.post(SUBMIT, params={"fal_webhook": url}, json=body)
    assert answered.status_code == 200, answered.text
    return str(answered.json()["request_id"])


async def told(client: httpx.AsyncClient, receiver: Site, **fields: Any) -> tuple[str, Hook]:
    """The id of a new job, and its webhook."""
    job = await submit_with(client, receiver.url("/hook"), **fields)
    (hook,) = await until_hooked(receiver)
    return job, hook


async def test_a_success_is_told_with_the_output(sender: httpx.AsyncClient, receiver: Site) -> None:
    job, hook = await told(sender, receiver)

    assert hook.headers["content-type"] == "application/json"
    assert hook.headers["x-fal-webhook-request-id"] == job
    assert hook.json() == {
        "request_id": job,
        "gateway_request_id": job,
        "status": "OK",
        "payload": (await result_of(sender, job)).json(),
    }
    assert hook.json()["payload"]["video"]["url"].startswith(f"{BASE_URL}/files/")


async def test_the_urls_in_it_are_those_of_the_host_that_was_asked(
    sender: httpx.AsyncClient, receiver: Site
) -> None:
    params = {"fal_webhook": receiver.url("/hook")}
    path, host = SUBMIT.removeprefix("/queue"), {"host": "queue.fal.run"}
    await sender.post(path, params=params, json=request_of(), headers=host)
    (hook,) = await until_hooked(receiver)

    assert hook.json()["payload"]["video"]["url"].startswith("http://v3.fal.media/files/")


async def test_a_query_within_the_url_arrives_as_it_was(
    sender: httpx.AsyncClient, receiver: Site
) -> None:
    target = "/hook?token=a%26b&next=http%3A%2F%2Fx.example%2F%3Fq%3D1"
    receiver.answers[target] = answer()

    await submit_with(sender, receiver.url(target))

    assert [hook.target for hook in await until_hooked(receiver)] == [target]


async def test_one_that_was_taken_is_not_sent_again(tmp_path: Path, receiver: Site) -> None:
    settings = settings_in(tmp_path, fetch_allow_nets="127.0.0.0/8")
    async with serving(settings) as client:
        await told(client, receiver)
        while webhook_rows(settings.data, "delivered_at") == [(None,)]:
            await asyncio.sleep(0.01)

    assert webhook_rows(settings.data, "tries, not_before, given_up_at") == [(1, None, None)]
    assert len(hooks_at(receiver)) == 1


@pytest.mark.parametrize(
    ("fields", "status"), [({"num_frames": 8}, 422), ({"prompt": "raise"}, 500)]
)
async def test_a_failure_is_told_with_the_body_of_its_result(
    sender: httpx.AsyncClient, receiver: Site, fields: dict[str, Any], status: int
) -> None:
    job, hook = await told(sender, receiver, **fields)

    result = await result_of(sender, job)
    assert result.status_code == status
    assert hook.json() == {
        "request_id": job,
        "gateway_request_id": job,
        "status": "ERROR",
        "error": f"Invalid status code: {status}",
        "payload": result.json(),
    }


async def test_a_cancelled_job_is_told_as_a_failure(
    sender: httpx.AsyncClient, receiver: Site
) -> None:
    job = await submit_with(sender, receiver.url("/hook"), "sleep 3600")
    await until(sender, job, "IN_PROGRESS")
    await cancel(sender, job)
    (hook,) = await until_hooked(receiver)

    assert hook.json()["error"] == "Invalid status code: 499"
    assert hook.json()["payload"]["error_type"] == "client_cancelled"


async def test_sync_mode_puts_the_video_into_the_webhook(
    sender: httpx.AsyncClient, receiver: Site
) -> None:
    _, hook = await told(sender, receiver, sync_mode=True)

    video = hook.json()["payload"]["video"]
    header, _, data = video["url"].partition(",")
    assert header == "data:video/mp4;base64"
    assert len(base64.b64decode(data)) == video["file_size"]


async def test_the_signature_verifies_and_that_of_another_body_does_not(
    sender: httpx.AsyncClient, receiver: Site
) -> None:
    _, hook = await told(sender, receiver)
    jwks = (await sender.get(JWKS)).json()

    assert verifies(hook, jwks, time.time())
    assert not verifies(replace(hook, body=hook.body.replace(b"OK", b"KO")), jwks, time.time())
    assert not verifies(hook, jwks, time.time() + 600)
    for name in ("request-id", "user-id"):
        forged = {**hook.headers, f"x-fal-webhook-{name}": "another"}
        assert not verifies(replace(hook, headers=forged), jwks, time.time())


@pytest.mark.parametrize(
    "url",
    [
        *("rest.fal.ai", "rest.alpha.fal.ai", "fal.run", "queue.fal.run", "fal.ai"),
        *("localhost:8000", "localhost:8000/rest", "localhost:8000/run", "localhost:8000/queue"),
    ],
)
async def test_the_key_set_is_on_every_host_and_prefix(sender: httpx.AsyncClient, url: str) -> None:
    answered = await sender.get(f"http://{url}{JWKS}")

    assert answered.status_code == 200
    assert answered.headers["content-type"] == "application/json"
    assert answered.headers["cache-control"] == "public, max-age=3600"
    (key,) = answered.json()["keys"]
    assert key.keys() == {"kty", "crv", "x", "kid"}
    assert (key["kty"], key["crv"], len(key["x"])) == ("OKP", "Ed25519", 43)


async def test_with_keys_the_user_is_the_keys_owner_and_the_key_set_is_public(
    tmp_path: Path, receiver: Site
) -> None:
    settings = settings_in(
        tmp_path, key="alice:secret", fetch_allow_nets="127.0.0.0/8", webhook_jwks_padded=True
    )
    async with serving(settings) as client:
        params = {"fal_webhook": receiver.url("/hook")}
        auth = {"authorization": "Key alice:secret"}
        await client.post(SUBMIT, params=params, json=request_of(), headers=auth)
        (hook,) = await until_hooked(receiver)
        jwks = (await client.get(JWKS)).json()

    assert hook.headers["x-fal-webhook-user-id"] == "alice"
    assert verifies(hook, jwks, time.time())
    # As fal's Python sample decodes it: without its padding this raises.
    assert len(base64.urlsafe_b64decode(jwks["keys"][0]["x"])) == 32


async def test_no_name_is_looked_up_for_a_caller_without_a_key(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, key="alice:secret")) as client:
        answered = await client.post(SUBMIT, params={"fal_webhook": "http://10.0.0.1/"}, json={})

    assert answered.status_code == 401


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9/hook", "COSMOS_FETCH_ALLOW_NETS"),
        ("http://localhost/hook", "COSMOS_FETCH_ALLOW_NETS"),
        ("https://10.1.2.3/hook", "COSMOS_FETCH_ALLOW_HOSTS"),
        ("http://169.254.169.254/latest", "does not connect to 169.254.169.254"),
        ("http://[::1]/", "not only public"),
        ("ftp://example.com/", "must begin with http:// or https://"),
        ("", "must begin with http:// or https://"),
        ("http://user:word@example.com/", "must not contain a user name"),
        ("http://exa mple/", "The webhook cannot be sent."),
        ("http://\x00/", "The webhook cannot be sent."),
        ("http://[::1", "The webhook cannot be sent."),
    ],
)
async def test_a_url_that_is_never_sent_to_is_refused_when_it_is_given(
    client: httpx.AsyncClient, url: str, message: str
) -> None:
    answered = await client.post(SUBMIT, params={"fal_webhook": url}, json=request_of())

    assert answered.status_code == 422
    (item,) = answered.json()["detail"]
    assert item["loc"] == ["query", "fal_webhook"]
    assert item["type"] == "value_error"
    # A half surrogate and the character 0 can be kept nowhere, and are not repeated.
    assert item["input"] == url.replace("\x00", "\ufffd")
    assert message in item["msg"]


async def test_a_name_that_does_not_resolve_yet_is_accepted(client: httpx.AsyncClient) -> None:
    params = {"fal_webhook": "http://hooks.invalid/hook"}

    assert (await client.post(SUBMIT, params=params, json=request_of())).status_code == 200


async def test_a_server_that_ends_while_it_sends_sends_again_at_its_next_start(
    tmp_path: Path, receiver: Site
) -> None:
    settings = settings_in(tmp_path, fetch_allow_nets="127.0.0.0/8")
    receiver.answers["/hook"] = hang
    async with serving(settings) as client:
        _, first = await told(client, receiver)
        jwks = (await client.get(JWKS)).json()
    receiver.answers["/hook"] = answer()
    async with serving(settings) as client:
        _, second = await until_hooked(receiver, 2)
        assert (await client.get(JWKS)).json() == jwks, "the key is another after a restart"

    assert second.body == first.body
    assert verifies(second, jwks, time.time())
