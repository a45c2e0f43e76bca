"""fal's platform API under `/v1`, over the real app, where no key is asked for."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import fal_platform as fal
import httpx
import pytest
import pytest_asyncio
from asgi_calls import app_of
from fal_platform import differences
from queue_calls import SUBMIT, cancel, result_of, status_of, submit, until
from servers import APP, BASE_URL, ENDPOINT, request_of, serving, settings_in

from server.fal.endpoints import EXTEND

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = f"{APP}/text-to-video"
BY_ENDPOINT = "/v1/models/requests/by-endpoint"
QUEUE = f"/v1/serverless/apps/{APP}/queue"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    settings = settings_in(tmp_path_factory.mktemp("server"), prices=f"{ENDPOINT}=0.20")
    async with serving(settings) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ended(client: httpx.AsyncClient) -> dict[str, str]:
    """A request that succeeded, one that failed, and one whose input was at fault."""
    jobs = {
        "success": await submit(client, "a red car", num_frames=9),
        "error": await submit(client, "raise"),
        "user_error": await submit(client, num_frames=1),
    }
    for job in jobs.values():
        await result_of(client, job)
    return jobs


async def got(client: httpx.AsyncClient, path: str, shape: Any, **params: Any) -> Any:
    """The answer to a GET, which is of fal's shape."""
    answer = await client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    assert differences(answer.json(), shape) == []
    return answer.json()


async def test_models_are_listed_in_fal_s_shape_and_in_openai_s(client: httpx.AsyncClient) -> None:
    listed = await got(client, "/v1/models", fal.MODELS, expand="openapi-3.0")
    ids = [f"{APP}/{name}" for name in ("image-to-video", "text-to-video", "video-to-video")]
    ids.append(EXTEND)
    assert [each["endpoint_id"] for each in listed["models"]] == ids
    assert [each["id"] for each in listed["data"]] == ids
    assert listed["object"] == "list"
    assert {each["object"] for each in listed["data"]} == {"model"}
    metadata = listed["models"][0]["metadata"]
    assert metadata["model_url"] == f"{BASE_URL}/run/{ENDPOINT}"
    assert listed["data"][0]["created"] == int(
        datetime.fromisoformat(metadata["updated_at"]).timestamp()
    )
    document = listed["models"][0]["openapi"]
    assert f"/{ENDPOINT}" in document["paths"]
    assert "thumbnail_url" not in metadata
    plain = await got(client, "/v1/models", fal.MODELS)
    assert "openapi" not in plain["models"][0]


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"q": "TEXT prompt"}, ["text-to-video"]),
        ({"q": "nothing like it"}, []),
        ({"category": "image-to-video"}, ["image-to-video"]),
        ({"status": "active", "category": "text-to-video"}, ["text-to-video"]),
        ({"status": "deprecated"}, []),
        ({"endpoint_id": f"{ENDPOINT},{TEXT}"}, ["image-to-video", "text-to-video"]),
        ({"endpoint_id": [TEXT, ENDPOINT]}, ["text-to-video", "image-to-video"]),
        ({"endpoint_id": [ENDPOINT], "q": "text prompt"}, []),
    ],
)
async def test_models_are_searched(
    client: httpx.AsyncClient, params: dict[str, Any], names: list[str]
) -> None:
    listed = await got(client, "/v1/models", fal.MODELS, **params)
    assert [each["endpoint_id"] for each in listed["models"]] == [f"{APP}/{name}" for name in names]
    assert len(listed["data"]) == len(names)


async def test_lists_come_in_pages(client: httpx.AsyncClient) -> None:
    found, cursor = [], None
    while True:
        params = {"limit": 2} | ({} if cursor is None else {"cursor": cursor})
        page = await got(client, "/v1/models", fal.MODELS, **params)
        found += [each["endpoint_id"] for each in page["models"]]
        cursor = page["next_cursor"]
        assert page["has_more"] == (cursor is not None)
        if cursor is None:
            break
    assert len(found) == len(set(found)) == 4


async def test_on_fal_s_own_host_the_paths_are_the_same(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/models", headers={"host": "api.fal.ai"})
    metadata = answer.json()["models"][0]["metadata"]
    assert metadata["model_url"] == f"http://fal.run/{ENDPOINT}"
    assert (await client.get("/models", headers={"host": "api.fal.ai"})).status_code == 404


async def test_prices_are_the_operator_s_or_nothing(client: httpx.AsyncClient) -> None:
    priced = await got(client, "/v1/models/pricing", fal.PRICES, endpoint_id=f"{ENDPOINT},{TEXT}")
    assert [each["unit_price"] for each in priced["prices"]] == [0.2, 0.0]
    assert {(each["unit"], each["currency"]) for each in priced["prices"]} == {("video", "USD")}


@pytest.mark.parametrize(
    ("kind", "quantity"),
    [("historical_api_price", "call_quantity"), ("unit_price", "unit_quantity")],
)
async def test_costs_are_estimated(client: httpx.AsyncClient, kind: str, quantity: str) -> None:
    endpoints = {ENDPOINT: {quantity: 3}, TEXT: {quantity: 5}}
    asked = {"estimate_type": kind, "endpoints": endpoints}
    answer = await client.post("/v1/models/pricing/estimate", json=asked)
    assert differences(answer.json(), fal.ESTIMATE) == []
    assert answer.json() == {"estimate_type": kind, "total_cost": 0.6, "currency": "USD"}


async def test_requests_that_ended_are_listed(
    client: httpx.AsyncClient, ended: dict[str, str]
) -> None:
    listed = await got(client, BY_ENDPOINT, fal.REQUESTS, endpoint_id=ENDPOINT)
    by_id = {item["request_id"]: item for item in listed["items"]}
    assert (
        list(by_id)[:3] == sorted(by_id, key=lambda id_: by_id[id_]["ended_at"], reverse=True)[:3]
    )
    assert [by_id[ended[name]]["status_code"] for name in ended] == [200, 500, 422]
    for name, job in ended.items():
        item = by_id[job]
        assert item["endpoint_id"] == ENDPOINT
        assert item["sent_at"] <= item["started_at"] <= item["ended_at"]
        assert "json_input" not in item
        wanted = {"endpoint_id": ENDPOINT, "status": name}
        of_status = await got(client, BY_ENDPOINT, fal.REQUESTS, **wanted)
        assert job in [each["request_id"] for each in of_status["items"]]
        assert {each["status_code"] // 100 for each in of_status["items"]} == {
            item["status_code"] // 100
        }


async def test_payloads_are_those_of_the_queue(
    client: httpx.AsyncClient, ended: dict[str, str]
) -> None:
    async def payloads(job: str) -> dict[str, Any]:
        wanted = {"endpoint_id": ENDPOINT, "request_id": job, "expand": "payloads"}
        (item,) = (await got(client, BY_ENDPOINT, fal.REQUESTS, **wanted))["items"]
        return dict(item)

    made = await payloads(ended["success"])
    assert made["json_output"] == (await result_of(client, ended["success"])).json()
    given = made["json_input"]
    assert (given["prompt"], given["num_frames"]) == ("a red car", 9)
    assert given["seed"] == made["json_output"]["seed"]
    assert given["video_output_type"] == "X264 (.mp4)"
    assert given["image_url"] == "data:…"
    thumbnail = await client.get(made["thumbnail_url"])
    assert thumbnail.headers["content-type"] == "image/webp"
    failed = await payloads(ended["error"])
    assert "thumbnail_url" not in failed
    assert failed["json_output"] == (await result_of(client, ended["error"])).json()
    invalid = await payloads(ended["user_error"])
    assert "json_input" not in invalid
    assert invalid["json_output"]["detail"][0]["loc"] == ["body", "num_frames"]


async def test_the_longest_requests_come_first_if_asked_for(
    client: httpx.AsyncClient, ended: dict[str, str]
) -> None:
    wanted = {"endpoint_id": ENDPOINT, "sort_by": "duration", "limit": 1}
    durations, cursor = [], None
    for _ in ended:
        params = wanted | ({} if cursor is None else {"cursor": cursor})
        page = await got(client, BY_ENDPOINT, fal.REQUESTS, **params)
        durations += [item["duration"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert len(durations) == len(ended)
    assert durations == sorted(durations, reverse=True)


async def test_use_is_shown_at_the_price_of_now(
    client: httpx.AsyncClient, ended: dict[str, str]
) -> None:
    expand = "time_series,summary,auth_method,auth_method_structured"
    used = await got(client, "/v1/models/usage", fal.USAGE, expand=expand)
    (line,) = used["summary"]
    assert line["quantity"] >= 1
    assert line["cost"] == line["cost_total"] == pytest.approx(line["quantity"] * 0.2)
    assert line["gpu_seconds"] > 0
    assert line["auth_method"] == "None"
    buckets = used["time_series"]
    # The last day, in hours.
    assert all(each["bucket"].endswith(":00:00+00:00") for each in buckets)
    in_buckets = [each for bucket in buckets for each in bucket["results"]]
    assert sum(each["quantity"] for each in in_buckets) == line["quantity"]
    tokyo = await got(client, "/v1/models/usage", fal.USAGE, timeframe="day", timezone="Asia/Tokyo")
    assert all(each["bucket"].endswith("T00:00:00+09:00") for each in tokyo["time_series"])
    assert tokyo["time_series"]


async def test_analytics_have_the_metrics_that_were_asked_for(
    client: httpx.AsyncClient, ended: dict[str, str]
) -> None:
    metrics = [*fal.METRICS, "time_series", "summary"]
    found = await got(
        client, "/v1/models/analytics", fal.ANALYTICS, endpoint_id=ENDPOINT, expand=metrics
    )
    (line,) = found["summary"]
    assert line["request_count"] >= 3
    assert (
        line["success_count"] + line["user_error_count"] + line["error_count"]
        == line["request_count"]
    )
    assert line["runtime_error_count"] >= 1
    assert line["p50_duration"] <= line["p99_duration"] <= line["total_billable_duration"]
    assert not any("cold_boot" in name for name in line), "nothing is loaded for a request"
    few = await got(
        client,
        "/v1/models/analytics",
        fal.ANALYTICS,
        endpoint_id=ENDPOINT,
        expand="summary,p50_prepare_duration",
    )
    assert few["summary"][0].keys() == {"endpoint_id", "p50_prepare_duration"}
    assert "time_series" not in few


async def test_payloads_are_deleted_and_nothing_else(client: httpx.AsyncClient) -> None:
    job = await submit(client, "a blue car", unknown_field=1)
    output = (await result_of(client, job)).json()
    upload = await client.post("/files/upload", content=b"an input")
    path = f"/v1/models/requests/{job}/payloads"
    once = await client.delete(path, headers={"idempotency-key": "one"})
    again = await client.delete(path, headers={"idempotency-key": "one"})

    assert differences(once.json(), fal.DELETED) == []
    assert once.json() == again.json()
    video, thumbnail = once.json()["cdn_delete_results"]
    assert video == {"link": output["video"]["url"], "exception": None}
    assert thumbnail["link"].endswith("/thumbnail.webp")
    assert (await client.get(thumbnail["link"])).status_code == 404
    assert (await client.get(output["video"]["url"])).status_code == 404
    assert (await client.get(upload.json()["access_url"])).content == b"an input"
    assert (await client.get(f"/queue/{APP}/requests/{job}")).status_code == 404
    status = (await status_of(client, job, logs="1")).json()
    assert status["status"] == "COMPLETED"
    assert not any("unknown_field" in line["message"] for line in status["logs"])
    wanted = {"endpoint_id": ENDPOINT, "request_id": job, "expand": "payloads"}
    (item,) = (await got(client, BY_ENDPOINT, fal.REQUESTS, **wanted))["items"]
    assert item["status_code"] == 200
    assert item.keys().isdisjoint({"json_input", "json_output"})
    row = app_of(client).state.services.store.job(job)
    assert row.input == {"sync_mode": False}
    assert row.result["stage_seconds"]


async def test_the_input_in_an_error_is_deleted_too(client: httpx.AsyncClient) -> None:
    job = await submit(client, num_frames=3)
    answer = await client.delete(f"/v1/models/requests/{job}/payloads")
    assert answer.json() == {"cdn_delete_results": []}
    (item,) = (await result_of(client, job)).json()["detail"]
    assert item.keys() == {"loc", "msg", "type", "url"}


async def test_payloads_stay_while_the_request_is_not_done(client: httpx.AsyncClient) -> None:
    job = await submit(client, "wait")
    await until(client, job, "IN_PROGRESS")
    answer = await client.delete(f"/v1/models/requests/{job}/payloads")
    await cancel(client, job)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "validation_error"
    await result_of(client, job)


async def test_a_queue_is_counted_and_flushed_once(client: httpx.AsyncClient) -> None:
    running = await submit(client, "wait")
    await until(client, running, "IN_PROGRESS")
    waiting = [await submit(client) for _ in range(2)]
    flush = {"idempotency-key": "flush"}
    assert await got(client, QUEUE, fal.QUEUE) == {"queue_size": 2}
    flushed = await client.delete(QUEUE, headers=flush)
    assert (flushed.status_code, flushed.content) == (204, b"")
    for job in waiting:
        assert (await result_of(client, job)).status_code == 499
    later = await submit(client)
    await client.delete(QUEUE, headers=flush)
    assert await got(client, QUEUE, fal.QUEUE) == {"queue_size": 1}
    await cancel(client, running)
    assert (await result_of(client, later)).status_code == 200
    assert (await result_of(client, running)).status_code == 499


async def test_the_networks_of_webhooks_are_not_known(client: httpx.AsyncClient) -> None:
    assert await got(client, "/v1/meta", fal.META) == {"webhook_ip_ranges": []}


OF_ENDPOINT = f"endpoint_id={ENDPOINT}"


@pytest.mark.parametrize(
    ("method", "path", "status", "kind", "message"),
    [
        ("GET", "/v1/models?limit=0", 400, "validation_error", "limit: "),
        ("GET", "/v1/models?cursor=nonsense", 400, "validation_error", "cursor: "),
        ("GET", "/v1/models?cursor=W05hTl0=", 400, "validation_error", "cursor: "),
        ("GET", "/v1/models?expand=enterprise_status", 400, "validation_error", "expand"),
        ("GET", "/v1/models?endpoint_id=fal-ai/flux/dev", 404, "not_found", "'fal-ai/flux/dev'"),
        ("GET", "/v1/models/pricing", 400, "validation_error", "endpoint_id: Field required"),
        ("GET", "/v1/models/pricing?endpoint_id=,", 400, "validation_error", "endpoint_id: "),
        ("GET", "/v1/models/pricing?endpoint_id=x/y", 404, "not_found", "'x/y'"),
        ("POST", "/v1/models/pricing/estimate", 400, "validation_error", "Field required"),
        ("GET", f"{BY_ENDPOINT}?{OF_ENDPOINT}&limit=101", 400, "validation_error", "limit: "),
        ("GET", f"{BY_ENDPOINT}?{OF_ENDPOINT}&start=soon", 400, "validation_error", "start: "),
        (
            *("GET", f"{BY_ENDPOINT}?{OF_ENDPOINT}&start=2020-01-01"),
            *(400, "validation_error", "longer than 90 days"),
        ),
        (
            *("GET", f"{BY_ENDPOINT}?{OF_ENDPOINT}&start=0001-01-01T00:00:00%2B14:00"),
            *(400, "validation_error", "start: "),
        ),
        (
            *("GET", f"{BY_ENDPOINT}?{OF_ENDPOINT}&end=2020-01-01&start=2020-01-02"),
            *(400, "validation_error", "ends before it begins"),
        ),
        ("GET", "/v1/models/usage?timezone=Mars/Base", 400, "validation_error", "timezone: "),
        ("GET", "/v1/models/usage?expand=auth_method", 400, "validation_error", "expand: "),
        ("GET", "/v1/models/usage?login_username=me", 400, "validation_error", "login_username"),
        (
            *("GET", f"/v1/models/analytics?{OF_ENDPOINT}&expand=summary,speed"),
            *(400, "validation_error", "'speed'"),
        ),
        (
            *("GET", f"/v1/models/analytics?{OF_ENDPOINT}&expand=summary"),
            *(400, "validation_error", "at least one metric"),
        ),
        ("DELETE", "/v1/models/requests/nobody/payloads", 404, "not_found", "Request not found"),
        ("GET", "/v1/serverless/apps/fal-ai/flux/queue", 404, "not_found", "'fal-ai/flux'"),
        ("GET", "/v1/keys", 403, "authorization_error", "asks for no key"),
        ("POST", "/v1/keys", 403, "authorization_error", "asks for no key"),
        ("DELETE", "/v1/keys/anything", 403, "authorization_error", "asks for no key"),
        ("GET", "/v1/nothing", 404, "not_found", "Path /v1/nothing not found"),
        ("GET", "/v1//models", 404, "not_found", "/v1//models"),
        ("PUT", "/v1/models", 405, "not_implemented", "Method Not Allowed"),
    ],
)
async def test_errors_are_in_fal_s_shape(
    client: httpx.AsyncClient, method: str, path: str, status: int, kind: str, message: str
) -> None:
    answer = await client.request(method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (status, kind)
    assert message in error["message"]
    assert error["request_id"] == answer.headers["x-fal-request-id"]
    assert differences(answer.json(), fal.ERROR) == []
    assert kind in fal.ERROR_TYPES


async def test_so_are_those_of_who_may_not_come_in(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/models", headers={"host": "evil.example"})
    assert answer.status_code == 421
    assert differences(answer.json(), fal.ERROR) == []


async def test_errors_elsewhere_are_as_before(client: httpx.AsyncClient) -> None:
    answer = await client.post(SUBMIT, content=b"{")
    assert "request_id" in answer.json()
    assert (await client.post(f"/run/{ENDPOINT}", json=request_of(num_frames=1))).status_code == 422
