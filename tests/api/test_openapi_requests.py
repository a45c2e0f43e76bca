"""Requests made up from /openapi.json break nothing, and each is answered as described."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation, BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from servers import ENDPOINT, HEIGHT, MAX_FRAMES, WIDTH, RunningServer, request_of, start_server

from server.api.openapi.document import openapi_document
from server.api.router import api_routes
from server.fal.endpoints import EXTEND, Limits

KEY = "me:s3cret"
AUTHORIZED = {"authorization": f"Key {KEY}"}
LONGEST_S = 20.0

Operation = APIOperation[Any, Any, Any, Any]
Made = Case[Operation]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
MANY = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))


@cache
def operations_at(base_url: str) -> dict[str, Operation]:
    """Everything that a server says it can do, by method and path."""
    routes = api_routes("public", "all")
    document = openapi_document(routes, Limits(WIDTH, HEIGHT, MAX_FRAMES), needs_key=True)
    document["servers"] = [{"url": base_url}]
    schema: BaseSchema = schemathesis.openapi.from_dict(document)
    found = (each for each in schema.get_all_operations() if isinstance(each, Ok))
    return {operation.label: operation for operation in (each.ok() for each in found)}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    server = start_server(tmp_path_factory.mktemp("described"), COSMOS_KEY=KEY)
    yield server
    assert server.end() == 0


def send_to(server: RunningServer, case: Made) -> int:
    """Send a request and check the answer; its status."""
    return case.call_and_validate(
        base_url=server.http, headers=AUTHORIZED, checks=CHECKS, timeout=LONGEST_S
    ).status_code


LABELS = list(operations_at("http://localhost"))


@pytest.mark.parametrize("label", LABELS)
def test_every_request_is_answered_as_described(described: RunningServer, label: str) -> None:
    operation = operations_at(described.http)[label]

    @MANY
    @given(case=operation.as_strategy())
    def send(case: Made) -> None:
        send_to(described, case)

    send()


@pytest.mark.parametrize("label", [each for each in LABELS if "{request_id}" in each])
def test_so_is_every_request_about_a_job_that_is_there(
    described: RunningServer, label: str
) -> None:
    operation = operations_at(described.http)[label]
    with httpx.Client(base_url=described.http, headers=AUTHORIZED) as client:
        endpoint = EXTEND if EXTEND in label else ENDPOINT
        job = client.post(f"/queue/{endpoint}", json=request_of("sleep 0.2")).json()

    @MANY
    @given(case=operation.as_strategy())
    def send(case: Made) -> None:
        case.path_parameters["request_id"] = job["request_id"]
        # Of a job that is done there is no preview.
        assert send_to(described, case) != 404 or label.endswith("/preview")

    send()
