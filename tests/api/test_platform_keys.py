"""fal's platform API where keys are asked for: who sees what, and keys that are made over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import fal_platform as fal
import httpx
import pytest
import pytest_asyncio
from api_keys import add_key, by_key, keys_of
from fal_platform import differences
from queue_calls import SUBMIT
from servers import APP, ENDPOINT, request_of, serving, settings_in

from server.config.settings import Settings
from server.keys import Scope

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIGURED = "configured:a-long-secret"
OPERATOR = {Scope.ADMIN}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_in(tmp_path_factory.mktemp("server"), auth="on", key=CONFIGURED)


@pytest.fixture(scope="module")
def admin(settings: Settings) -> dict[str, str]:
    return by_key(add_key(settings, "operator", scopes=OPERATOR))


@pytest.fixture(scope="module")
def alice(settings: Settings) -> dict[str, str]:
    return by_key(add_key(settings, "alice"))


@pytest.fixture(scope="module")
def bob(settings: Settings) -> dict[str, str]:
    return by_key(add_key(settings, "bob"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(
    settings: Settings, admin: dict[str, str], alice: dict[str, str], bob: dict[str, str]
) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings) as client:
        yield client


async def made(client: httpx.AsyncClient, headers: dict[str, str]) -> str:
    """The id of a request that made its video."""
    job: str = (await client.post(SUBMIT, json=request_of(), headers=headers)).json()["request_id"]
    while True:
        answer = await client.get(f"/queue/{APP}/requests/{job}", headers=headers)
        if answer.status_code == 200:
            return job
        assert "in progress" in answer.text


async def listed(client: httpx.AsyncClient, headers: dict[str, str]) -> list[str]:
    path = "/v1/models/requests/by-endpoint"
    answer = await client.get(path, params={"endpoint_id": ENDPOINT}, headers=headers)
    return [item["request_id"] for item in answer.json()["items"]]


async def test_a_key_sees_its_own_requests_and_an_operator_those_of_all(
    client: httpx.AsyncClient,
    admin: dict[str, str],
    alice: dict[str, str],
    bob: dict[str, str],
) -> None:
    of_alice, of_bob = await made(client, alice), await made(client, bob)
    assert await listed(client, alice) == [of_alice]
    assert await listed(client, bob) == [of_bob]
    assert {of_alice, of_bob} <= set(await listed(client, admin))

    asked = {"endpoint_id": ENDPOINT, "expand": "summary,request_count"}
    counts = [
        (await client.get("/v1/models/analytics", params=asked, headers=headers)).json()["summary"]
        for headers in (alice, admin)
    ]
    assert counts[0] == [{"endpoint_id": ENDPOINT, "request_count": 1}]
    assert counts[1][0]["request_count"] >= 2

    path = f"/v1/models/requests/{of_bob}/payloads"
    assert (await client.delete(path, headers=alice)).status_code == 404
    assert (await client.delete(path, headers=bob)).status_code == 200
    path = f"/v1/models/requests/{of_alice}/payloads"
    assert (await client.delete(path, headers=admin)).status_code == 200


async def test_use_is_told_key_by_key(
    client: httpx.AsyncClient, admin: dict[str, str], bob: dict[str, str]
) -> None:
    await made(client, bob)
    expand = "summary,auth_method,auth_method_structured"
    every = await client.get("/v1/models/usage", params={"expand": expand}, headers=admin)
    assert differences(every.json(), fal.USAGE) == []
    ids = {
        line["auth_method"]: line["auth_method_structured"]["api_key_id"]
        for line in every.json()["summary"]
    }
    assert "bob" in ids
    one = await client.get(
        "/v1/models/usage", params={"expand": expand, "api_key_id": ids["bob"]}, headers=admin
    )
    assert [line["auth_method"] for line in one.json()["summary"]] == ["bob"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/usage"),
        ("DELETE", f"/v1/serverless/apps/{APP}/queue"),
        ("GET", "/v1/keys"),
        ("POST", "/v1/keys"),
        ("DELETE", "/v1/keys/somebody"),
    ],
)
async def test_what_is_for_operators_is_refused_to_others(
    client: httpx.AsyncClient, alice: dict[str, str], method: str, path: str
) -> None:
    answer = await client.request(method, path, headers=alice)
    assert answer.status_code == 403
    assert answer.json()["error"]["type"] == "authorization_error"
    assert "'admin'" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models", 200),
        ("/v1/meta", 200),
        (f"/v1/models/pricing?endpoint_id={ENDPOINT}", 401),
        (f"/v1/models/requests/by-endpoint?endpoint_id={ENDPOINT}", 401),
        (f"/v1/models/analytics?endpoint_id={ENDPOINT}", 401),
        (f"/v1/serverless/apps/{APP}/queue", 401),
        ("/v1/models/usage", 401),
        ("/v1/keys", 401),
    ],
)
async def test_what_is_no_secret_is_told_without_a_key(
    client: httpx.AsyncClient, path: str, status: int
) -> None:
    answer = await client.get(path)
    assert answer.status_code == status
    if status == 401:
        assert differences(answer.json(), fal.ERROR) == []
        assert answer.headers["www-authenticate"] == "Key"


async def test_a_token_of_a_page_reads_no_requests(
    client: httpx.AsyncClient, alice: dict[str, str]
) -> None:
    wanted = {"allowed_apps": [APP]}
    token = (await client.post("/rest/tokens/", json=wanted, headers=alice)).json()
    path = f"/v1/models/requests/by-endpoint?endpoint_id={ENDPOINT}"
    answer = await client.get(path, headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 403


async def test_a_key_is_made_used_listed_and_deleted(
    client: httpx.AsyncClient, settings: Settings, admin: dict[str, str]
) -> None:
    answer = await client.post("/v1/keys", json={"alias": "ci"}, headers=admin)
    new: dict[str, Any] = answer.json()
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    assert differences(new, fal.NEW_KEY) == []
    assert new["key"] == f"{new['key_id']}:{new['key_secret']}"
    with keys_of(settings) as store:
        assert store.find("ci").scopes == {Scope.RUN, Scope.FILES}
    # Both work at once: nobody has to wait until the server looks at the table again.
    assert await listed(client, by_key(new["key"])) == []
    keys = (await client.get("/v1/keys", headers=admin)).json()
    assert differences(keys, fal.KEYS) == []
    aliases = [key["alias"] for key in keys["keys"]]
    assert "ci" in aliases
    assert not {"operator", "COSMOS_KEY"} & set(aliases)
    assert new["key_secret"] not in str(keys)
    with keys_of(settings) as store:
        store.set_limits(new["key_id"], {"queue_limit": 5})
    listed_keys = (await client.get("/v1/keys", headers=admin)).json()["keys"]
    (ci,) = (key for key in listed_keys if key["alias"] == "ci")
    assert (ci["limits"]["queue_limit"], ci["limits"]["running_limit"]) == (5, None)

    path = f"/v1/keys/{new['key_id']}"
    for _ in range(2):
        assert (await client.delete(path, headers=admin)).status_code == 204
    refused = await client.get("/v1/serverless/apps/x/y/queue", headers=by_key(new["key"]))
    assert refused.status_code == 401
    keys = (await client.get("/v1/keys", headers=admin)).json()
    assert "ci" not in [key["alias"] for key in keys["keys"]]


async def test_keys_that_it_may_not_make_or_delete(
    client: httpx.AsyncClient, settings: Settings, admin: dict[str, str]
) -> None:
    taken = await client.post("/v1/keys", json={"alias": "alice"}, headers=admin)
    assert (taken.status_code, taken.json()["error"]["type"]) == (400, "validation_error")
    blank = await client.post("/v1/keys", json={"alias": " "}, headers=admin)
    assert blank.json()["error"]["message"].startswith("alias: ")
    with keys_of(settings) as store:
        operator = store.find("operator").id
    for key_id, why in ((operator, "operator's key"), ("configured", "server's settings")):
        answer = await client.delete(f"/v1/keys/{key_id}", headers=admin)
        assert answer.status_code == 403
        assert why in answer.json()["error"]["message"]
    assert await listed(client, by_key(CONFIGURED)) == []
    assert (await client.delete("/v1/keys/nobody", headers=admin)).status_code == 204
