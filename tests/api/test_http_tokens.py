"""Tokens over HTTP: who gets one, what it opens, and when that ends."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import pytest_asyncio
from api_keys import add_key, by_key, keys_of
from queue_calls import RUN, SUBMIT
from servers import APP, ENDPOINT, request_of, serving, settings_in

from server.auth.tokens import Tokens, TokenScope
from server.config.settings import Settings
from server.fal.endpoints import ENDPOINTS
from server.keys import ApiKey, Scope

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKENS = "/rest/tokens/"
WANTED = {"allowed_apps": ["cosmos-predict-2.5"], "token_expiration": 120}
GRANT = TokenScope(Scope.RUN, (ENDPOINT,))


@dataclass(frozen=True, slots=True)
class Guarded:
    """A server that asks for keys, and one of them."""

    client: httpx.AsyncClient
    settings: Settings
    key: str

    async def ask(self, body: Any, key: str | None = None) -> httpx.Response:
        return await self.client.post(TOKENS, json=body, headers=by_key(key or self.key))

    async def token(self, **changes: Any) -> str:
        answer = await self.ask(WANTED | changes)
        assert answer.status_code == 200, answer.text
        token = answer.json()
        assert isinstance(token, str)
        return token

    def tokens_and(self, key: str, **clock: Any) -> tuple[Tokens, ApiKey]:
        """What the server signs with, to make tokens as it would, and the key as it is kept."""
        with keys_of(self.settings) as store:
            kept = next(each for each in store.all() if each.id == key.partition(":")[0])
        return Tokens((self.settings.data / "token.secret").read_bytes(), **clock), kept

    async def submit(self, token: str, **headers: str) -> httpx.Response:
        query = {"fal_jwt_token": token}
        return await self.client.post(SUBMIT, json=request_of(), params=query, headers=headers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    settings = settings_in(tmp_path_factory.mktemp("server"), auth="on")
    key = add_key(settings)
    async with serving(settings) as client:
        yield Guarded(client, settings, key)


# What a token opens.


async def test_a_token_makes_videos_by_either_way_of_sending_it(guarded: Guarded) -> None:
    client, token = guarded.client, await guarded.token()
    query = {"fal_jwt_token": token}
    assert (await client.post(RUN, json=request_of(), params=query)).status_code == 200
    stream = await client.post(f"{RUN}/stream", json=request_of(), params=query)
    assert (stream.status_code, '"video"' in stream.text) == (200, True)
    headers = {"authorization": f"Bearer {token}"}
    job = await client.post(SUBMIT, json=request_of(), headers=headers)
    assert job.status_code == 200
    status = f"/queue/{APP}/requests/{job.json()['request_id']}/status"
    assert (await client.get(status, headers=by_key(guarded.key))).status_code in (200, 202)


async def test_a_token_comes_from_fals_own_host_too_and_is_not_stored_on_its_way(
    guarded: Guarded,
) -> None:
    headers = {"host": "rest.fal.ai", **by_key(guarded.key)}
    for path in ("/tokens/", "/tokens"):
        answer = await guarded.client.post(path, content=json.dumps(WANTED), headers=headers)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"


async def test_a_token_opens_nothing_but_the_post(guarded: Guarded) -> None:
    client, token = guarded.client, await guarded.token()
    job = (await guarded.submit(token)).json()["request_id"]
    requests = [f"/queue/{app}/requests/{job}" for app in (APP, ENDPOINT)]
    for method, path in [
        *[("GET", f"{request}/status") for request in requests],
        *[("GET", f"{request}/status/stream") for request in requests],
        *[("GET", request) for request in requests],
        *[("PUT", f"{request}/cancel") for request in requests],
        ("POST", TOKENS),
    ]:
        by_query = await client.request(method, path, params={"fal_jwt_token": token})
        headers = {"authorization": f"Bearer {token}"}
        by_header = await client.request(method, path, headers=headers)
        for answer in (by_query, by_header):
            assert answer.status_code == 403, path
            detail = answer.json()["detail"]
            assert "good for POST to" in detail and ENDPOINT in detail


async def test_a_token_of_another_endpoint_is_refused(guarded: Guarded) -> None:
    tokens, key = guarded.tokens_and(guarded.key)
    for endpoint in (f"{APP}/text-to-video", f"{ENDPOINT}-2", f"{ENDPOINT}/fast"):
        token = tokens.issue(key, TokenScope(Scope.RUN, (endpoint,)), 60)
        assert (await guarded.submit(token)).status_code == 403


async def test_a_token_does_not_help_a_header_that_is_wrong(guarded: Guarded) -> None:
    answer = await guarded.submit(await guarded.token(), **by_key("me:wrong"))
    assert answer.status_code == 401


async def test_a_token_is_worth_no_more_than_its_key(guarded: Guarded) -> None:
    weak = add_key(guarded.settings, scopes=[Scope.FILES])
    tokens, key = guarded.tokens_and(weak)
    while (answer := await guarded.submit(tokens.issue(key, GRANT, 60))).status_code == 401:
        await asyncio.sleep(0.02)
    assert answer.status_code == 403
    assert "scope 'run'" in answer.json()["detail"]
    assert (await guarded.ask(WANTED, weak)).status_code == 403


async def test_where_no_key_is_needed_a_token_is_given_and_not_looked_at(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        token = (await client.post(TOKENS, json=WANTED)).json()
        query = {"fal_jwt_token": token}
        assert (await client.post(SUBMIT, json=request_of(), params=query)).status_code == 200
    async with serving(settings_in(tmp_path, key="me:s3cret")) as client:
        assert (await client.post(SUBMIT, json=request_of(), params=query)).status_code == 401


# What one is asked for.


@pytest.mark.parametrize("name", ["cosmos-predict-2.5", APP, ENDPOINT])
async def test_an_app_may_be_named_by_each_form_of_its_id(guarded: Guarded, name: str) -> None:
    token = await guarded.token(allowed_apps=[name])
    claims = jwt.decode(token, options={"verify_signature": False})
    of_app = sorted(each for each in ENDPOINTS if each.startswith(f"{APP}/"))
    assert claims["endpoints"] == ([ENDPOINT] if name == ENDPOINT else of_app)


async def test_a_token_is_a_jwt_that_names_its_key_and_lives_as_long_as_asked(
    guarded: Guarded,
) -> None:
    token = await guarded.token(token_expiration=3600)
    key_id = guarded.key.partition(":")[0]
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT", "kid": key_id}
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 3600


@pytest.mark.parametrize(
    ("body", "field", "kind"),
    [
        ({}, "allowed_apps", "missing"),
        ({"allowed_apps": []}, "allowed_apps", "too_short"),
        ({"allowed_apps": "cosmos-predict-2.5"}, "allowed_apps", "list_type"),
        ({"allowed_apps": ["flux"]}, 0, "value_error"),
        (WANTED | {"token_expiration": 3601}, "token_expiration", "less_than_equal"),
        (WANTED | {"token_expiration": 0}, "token_expiration", "greater_than"),
        ([], "body", "model_attributes_type"),
    ],
)
async def test_a_wish_for_a_token_that_cannot_be_met_names_the_field(
    guarded: Guarded, body: Any, field: str | int, kind: str
) -> None:
    answer = await guarded.ask(body)
    assert answer.status_code == 422
    (item,) = answer.json()["detail"]
    assert (item["loc"][-1], item["type"]) == (field, kind)


# When it ends.


async def test_an_expired_token_says_so(guarded: Guarded) -> None:
    hour_ago, key = guarded.tokens_and(guarded.key, now=lambda: time.time() - 3600)
    answer = await guarded.submit(hour_ago.issue(key, GRANT, 3600))
    assert answer.status_code == 401
    assert answer.json() == {"detail": "The token has expired."}


async def test_a_token_outlives_the_server_but_not_its_key(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, auth="on")
    key = add_key(settings)
    async with serving(settings) as client:
        token = await Guarded(client, settings, key).token()
    async with serving(settings) as client:
        assert (await Guarded(client, settings, key).submit(token)).status_code == 200
    with keys_of(settings) as store:
        store.revoke(key.partition(":")[0])
    async with serving(settings) as client:
        answer = await Guarded(client, settings, key).submit(token)
    assert answer.status_code == 401
    assert "has been revoked" in answer.json()["detail"]
