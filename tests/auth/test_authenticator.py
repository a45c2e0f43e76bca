"""Who is let in, what they may do, and whose requests they see."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest
from api_keys import add_key, by_key, keys_of
from queue_calls import RUN, SUBMIT
from servers import APP, ENDPOINT, request_of, serving, settings_in

from server.keys import Credential, Scope

UNKNOWN_JOB = f"/queue/{APP}/requests/00000000-0000-4000-8000-000000000000/status"
"""A caller that is let in is told that there is no such request."""


async def asks(client: httpx.AsyncClient, authorization: str) -> httpx.Response:
    return await client.get(UNKNOWN_JOB, headers={"authorization": authorization})


async def test_every_form_of_a_key_that_clients_send_is_taken(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    key = add_key(settings)
    async with serving(settings) as client:
        for form in ("Key {}", "key {}", "KEY {}", "Bearer {}", "bearer {}", "Key   {}", "Key {} "):
            assert (await asks(client, form.format(key))).status_code == 404, form


async def test_all_else_gets_a_401_that_names_itself_and_says_no_more(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    key_id, _, secret = add_key(settings).partition(":")
    forms = ["", "Key", "Key ", f"{key_id}:{secret}", f"Basic {key_id}:{secret}", f"Key {secret}"]
    forms += [f"Key {key_id}:", f"Key :{secret}", f"Key {key_id}", f"Key {key_id}:{secret}x"]
    forms += [f"Key x{key_id}:{secret}", f"Key {key_id}: {secret}", f"Key {key_id.upper()}:x"]
    forms += ["Bearer a.b.c", "Key a.b.c", "Bearer ..", f"Bearer {'[' * 4000}", "Key \xe9:\xe9"]
    async with serving(settings) as client:
        for form in forms:
            answer = await client.get(
                UNKNOWN_JOB, headers=[(b"authorization", form.encode("latin-1"))]
            )
            assert answer.status_code == 401, form
            assert "not one of this server's" in answer.json()["detail"], form
            assert answer.headers["x-fal-request-id"]
            assert answer.headers["www-authenticate"] == "Key"
            assert secret not in answer.text
        missing = await client.get(UNKNOWN_JOB)
        assert missing.status_code == 401
        assert "Authorization: Key <id>:<secret>" in missing.json()["detail"]


async def test_a_caller_without_a_key_can_make_and_ask_nothing(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, key="me:s3cret")) as client:
        for path in (RUN, SUBMIT, "/rest/tokens/"):
            assert (await client.post(path, json=request_of())).status_code == 401
        job = (await client.post(SUBMIT, json=request_of(), headers=by_key("me:s3cret"))).json()
        for path in ("/status", "", "/status/stream"):
            answer = await client.get(f"/queue/{APP}/requests/{job['request_id']}{path}")
            assert answer.status_code == 401
        assert (await client.put(job["cancel_url"])).status_code == 401
        assert (await client.get("/health/live")).status_code == 200


async def test_a_file_is_read_by_its_url_without_a_key(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path, key="me:s3cret")) as client:
        answer = await client.post(RUN, json=request_of(), headers=by_key("me:s3cret"))
        assert answer.status_code == 200, answer.text
        assert (await client.get(answer.json()["video"]["url"])).status_code == 200


async def test_a_key_that_has_ended_says_so_to_its_owner_alone(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    expired, revoked = add_key(settings, expires_at=time.time() - 1), add_key(settings)
    with keys_of(settings) as store:
        store.revoke(revoked.partition(":")[0])
    async with serving(settings) as client:
        for key, reason in ((expired, "has expired"), (revoked, "has been revoked")):
            answer = await asks(client, f"Key {key}")
            assert (answer.status_code, reason in answer.json()["detail"]) == (401, True)
            guess = await asks(client, f"Key {key.partition(':')[0]}:guess")
            assert guess.json()["detail"] == "The key is not one of this server's."


async def test_a_key_is_made_and_revoked_while_the_server_runs(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    async with serving(settings) as client:
        key = add_key(settings)
        while (answer := await asks(client, f"Key {key}")).status_code == 401:
            await asyncio.sleep(0.02)
        assert answer.status_code == 404, "let in, and told that there is no such request"
        with keys_of(settings) as store:
            store.revoke(key.partition(":")[0])
        while (answer := await asks(client, f"Key {key}")).status_code == 404:
            await asyncio.sleep(0.02)
        assert answer.status_code == 401


async def test_a_wait_ends_when_its_key_is_revoked(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    async with serving(settings) as client:
        key = add_key(settings)
        while (await asks(client, f"Key {key}")).status_code == 401:
            await asyncio.sleep(0.02)
        headers = by_key(key)
        slow = request_of("sleep 3600")
        job = (await client.post(SUBMIT, json=slow, headers=headers)).json()["request_id"]
        watching = [
            asyncio.create_task(request)
            for request in (
                client.get(f"/queue/{APP}/requests/{job}/status/stream", headers=headers),
                client.post(f"{RUN}/stream", json=slow, headers=headers),
                client.post(RUN, json=slow, headers=headers),
            )
        ]
        await asyncio.sleep(0.5)
        assert not any(task.done() for task in watching)

        with keys_of(settings) as store:
            store.revoke(key.partition(":")[0])

        status, stream, run = await asyncio.gather(*watching)
        assert "COMPLETED" not in status.text + stream.text
        assert (run.status_code, "revoked" in run.json()["detail"]) == (401, True)


@pytest.mark.parametrize("path", [RUN, SUBMIT, "/rest/tokens/"])
async def test_a_key_for_files_alone_makes_no_videos(tmp_path: Path, path: str) -> None:
    settings = settings_in(tmp_path, auth="on")
    key = add_key(settings, scopes=[Scope.FILES])
    async with serving(settings) as client:
        answer = await client.post(path, json=request_of(), headers=by_key(key))
        assert answer.status_code == 403
        assert answer.json() == {"detail": "This key does not have the scope 'run'."}
        assert answer.headers["x-fal-request-id"]


@pytest.mark.parametrize("app", [APP, ENDPOINT])
async def test_a_request_does_not_exist_for_another_key(tmp_path: Path, app: str) -> None:
    settings = settings_in(tmp_path, auth="on", worker="workers:SlowLoad")
    (settings.weights / "loading").touch()
    mine, yours = by_key(add_key(settings)), by_key(add_key(settings))
    async with serving(settings) as client:
        job = (await client.post(SUBMIT, json=request_of(), headers=mine)).json()["request_id"]
        request = f"/queue/{app}/requests/{job}"
        for moment in ("it waits", "it is done"):
            for path in ("", "/status", "/status/stream"):
                answer = await client.get(request + path, headers=yours)
                assert (answer.status_code, answer.json()) == (404, {"detail": "Request not found"})
            answer = await client.put(f"{request}/cancel", headers=yours)
            assert (answer.status_code, answer.json()) == (404, {"detail": "Request not found"})
            if moment == "it waits":
                assert (await client.put(f"{request}/cancel", headers=mine)).status_code == 202
        assert (await client.get(f"{request}/status", headers=mine)).json()["status"] == "COMPLETED"
        (settings.weights / "loading").unlink()


async def test_where_no_key_is_needed_none_is_looked_at(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        for form in ("Key any:thing", "Bearer a.b.c", "nonsense"):
            assert (await asks(client, form)).status_code == 404
        assert (await client.get(f"{UNKNOWN_JOB}?fal_jwt_token=x")).status_code == 404
    async with serving(settings_in(tmp_path, key="me:s3cret")) as client:
        assert (await client.get(UNKNOWN_JOB)).status_code == 401


def test_credentials_do_not_show_when_they_are_printed() -> None:
    credential = Credential.new()
    assert credential.secret not in repr(credential)
    assert Credential.parse(credential.text) == credential
