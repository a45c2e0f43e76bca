"""Tokens: who gets one, what it opens, and when that ends."""

import base64
import hmac
import json
import time
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from api_keys import add_key, by_key, keys_of
from hypothesis import given
from hypothesis import strategies as st
from queue_calls import RUN, SUBMIT
from servers import APP, ENDPOINT, request_of, serving, settings_in

from server.keys import ApiKey, Credential, Scope
from server.settings import Settings
from server.tokens import Grant, InvalidToken, Tokens, key_id_of

TOKENS = "/rest/tokens/"
WANTED = {"allowed_apps": ["cosmos-predict-2.5"], "token_expiration": 120}
GRANT = Grant(Scope.RUN, (ENDPOINT,))


def key_of(secret: str = "s3cret") -> ApiKey:
    return ApiKey.of(Credential("me", secret), "test", created_at=0)


async def token_from(client: httpx.AsyncClient, key: str, **changes: Any) -> str:
    answer = await client.post(TOKENS, json=WANTED | changes, headers=by_key(key))
    assert answer.status_code == 200, answer.text
    token = answer.json()
    assert isinstance(token, str)
    return token


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, auth="on")


@pytest.fixture
def key(settings: Settings) -> str:
    return add_key(settings)


# What a token opens.


async def test_a_token_makes_videos_by_either_way_of_sending_it(
    settings: Settings, key: str
) -> None:
    async with serving(settings) as client:
        token = await token_from(client, key)
        query = {"fal_jwt_token": token}
        assert (await client.post(RUN, json=request_of(), params=query)).status_code == 200
        headers = {"authorization": f"Bearer {token}"}
        job = await client.post(SUBMIT, json=request_of(), headers=headers)
        assert job.status_code == 200
        status = f"/queue/{APP}/requests/{job.json()['request_id']}/status"
        assert (await client.get(status, headers=by_key(key))).status_code in (200, 202)


async def test_a_token_comes_from_fals_own_host_too_and_is_not_stored_on_its_way(
    settings: Settings, key: str
) -> None:
    async with serving(settings) as client:
        headers = {"host": "rest.fal.ai", **by_key(key)}
        for path in ("/tokens/", "/tokens"):
            answer = await client.post(path, content=json.dumps(WANTED), headers=headers)
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["cache-control"] == "no-store"


async def test_a_token_opens_nothing_but_the_post(settings: Settings, key: str) -> None:
    async with serving(settings) as client:
        token = await token_from(client, key)
        headers = {"authorization": f"Bearer {token}"}
        job = (await client.post(SUBMIT, json=request_of(), headers=headers)).json()["request_id"]
        request = f"/queue/{APP}/requests/{job}"
        for method, path in [
            ("GET", f"{request}/status"),
            ("GET", request),
            ("PUT", f"{request}/cancel"),
            ("POST", TOKENS),
        ]:
            by_query = await client.request(method, path, params={"fal_jwt_token": token})
            by_header = await client.request(method, path, headers=headers)
            for answer in (by_query, by_header):
                assert answer.status_code == 403, path
                assert f"good for POST to {ENDPOINT} only" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["cosmos-predict-2.5", APP, ENDPOINT])
async def test_an_app_may_be_named_by_each_form_of_its_id(
    settings: Settings, key: str, name: str
) -> None:
    async with serving(settings) as client:
        token = await token_from(client, key, allowed_apps=[name])
    assert jwt.decode(token, options={"verify_signature": False})["endpoints"] == [ENDPOINT]


async def test_a_token_is_a_jwt_that_names_its_key_and_lives_as_long_as_asked(
    settings: Settings, key: str
) -> None:
    async with serving(settings) as client:
        token = await token_from(client, key, token_expiration=3600)
    assert jwt.get_unverified_header(token) == {
        "alg": "HS256",
        "typ": "JWT",
        "kid": key.partition(":")[0],
    }
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
    ],
)
async def test_a_wish_for_a_token_that_cannot_be_met_names_the_field(
    settings: Settings, key: str, body: dict[str, Any], field: str | int, kind: str
) -> None:
    async with serving(settings) as client:
        answer = await client.post(TOKENS, json=body, headers=by_key(key))
    assert answer.status_code == 422
    (item,) = answer.json()["detail"]
    assert (item["loc"][-1], item["type"]) == (field, kind)


async def test_where_no_key_is_needed_a_token_is_given_and_not_looked_at(tmp_path: Path) -> None:
    async with serving(settings_in(tmp_path)) as client:
        token = (await client.post(TOKENS, json=WANTED)).json()
        query = {"fal_jwt_token": token}
        assert (await client.post(SUBMIT, json=request_of(), params=query)).status_code == 200
    async with serving(settings_in(tmp_path, key="me:s3cret")) as client:
        assert (await client.post(SUBMIT, json=request_of(), params=query)).status_code == 401


# When it ends.


async def test_a_token_ends_with_its_key(settings: Settings, key: str) -> None:
    async with serving(settings) as client:
        query = {"fal_jwt_token": await token_from(client, key)}
    with keys_of(settings) as store:
        store.revoke(key.partition(":")[0])
    async with serving(settings) as client:
        answer = await client.post(SUBMIT, json=request_of(), params=query)
    assert answer.status_code == 401
    assert "has been revoked" in answer.json()["detail"]


async def test_a_token_outlives_the_server(settings: Settings, key: str) -> None:
    async with serving(settings) as client:
        query = {"fal_jwt_token": await token_from(client, key)}
    async with serving(settings) as client:
        assert (await client.post(SUBMIT, json=request_of(), params=query)).status_code == 200


async def test_an_expired_token_says_so(settings: Settings, key: str) -> None:
    async with serving(settings) as client:
        with keys_of(settings) as store:
            (kept,) = store.all()
        secret = (settings.data / "token.secret").read_bytes()
        hour_ago = Tokens(secret, now=lambda: time.time() - 3600)
        query = {"fal_jwt_token": hour_ago.issue(kept, GRANT, 3600)}
        answer = await client.post(SUBMIT, json=request_of(), params=query)
        assert answer.status_code == 401
        assert answer.json() == {"detail": "The token has expired."}


async def test_a_token_is_worth_no_more_than_its_key(settings: Settings, key: str) -> None:
    weak = add_key(settings, scopes=[Scope.FILES])
    async with serving(settings) as client:
        with keys_of(settings) as store:
            kept = next(each for each in store.all() if each.id == weak.partition(":")[0])
        token = Tokens((settings.data / "token.secret").read_bytes()).issue(kept, GRANT, 60)
        query = {"fal_jwt_token": token}
        answer = await client.post(SUBMIT, json=request_of(), params=query)
        assert (answer.status_code, "scope 'run'" in answer.json()["detail"]) == (403, True)


# What is no token.


def forgeries() -> dict[str, str]:
    tokens, key = Tokens(b"s" * 32), key_of()
    header, _, signature = tokens.issue(key, GRANT, 60).split(".")
    claims = {"exp": 2**40, "scope": "run", "endpoints": [ENDPOINT]}
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    named = {"kid": "me"}
    secret = hmac.digest(b"s" * 32, key.secret_sha256.encode(), "sha256")
    assert tokens.read(jwt.encode(claims, secret), key) == GRANT, "all else is as it should be"
    return {
        "another server's": Tokens(b"t" * 32).issue(key, GRANT, 60),
        "of the key's former secret": tokens.issue(key_of("before"), GRANT, 60),
        "a longer life": f"{header}.{payload}.{signature}",
        "an empty signature": f"{header}.{payload}.",
        "no signature": jwt.encode(claims, "", "none", headers=named),
        "signed with what the table has": jwt.encode(claims, key.secret_sha256, headers=named),
        "another algorithm": jwt.encode(claims, secret * 2, "HS512", headers=named),
        "no end": jwt.encode({"scope": "run", "endpoints": [ENDPOINT]}, secret, headers=named),
    }


@pytest.mark.parametrize("text", forgeries().values(), ids=forgeries().keys())
def test_a_forgery_is_refused(text: str) -> None:
    with pytest.raises(InvalidToken, match="not one of this server's"):
        Tokens(b"s" * 32).read(text, key_of())


def test_a_genuine_token_is_read() -> None:
    tokens = Tokens(b"s" * 32)
    text = tokens.issue(key_of(), GRANT, 60)
    assert key_id_of(text) == "me"
    assert tokens.read(text, key_of()) == GRANT


@given(st.text(max_size=80) | st.from_regex(r"[\w-]{0,40}\.[\w-]{0,40}\.[\w-]{0,40}"))
def test_any_text_is_no_token(text: str) -> None:
    with pytest.raises(InvalidToken):
        Tokens(b"s" * 32).read(text, key_of())
    key_id_of(text)


def test_a_header_of_a_thousand_brackets_is_no_token() -> None:
    header = base64.urlsafe_b64encode(b"[" * 9000).decode().rstrip("=")
    assert key_id_of(f"{header}.e30.x") is None


async def test_a_token_in_the_query_does_not_help_a_header_that_is_wrong(
    settings: Settings, key: str
) -> None:
    async with serving(settings) as client:
        query = {"fal_jwt_token": await token_from(client, key)}
        answer = await client.post(
            SUBMIT, json=request_of(), params=query, headers=by_key("me:wrong")
        )
        assert answer.status_code == 401
