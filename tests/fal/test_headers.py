"""What the headers of a request ask for."""

import json

import pytest
from starlette.datastructures import Headers

from server.errors import BadRequest
from server.fal.headers import LOW, file_lifetime_s, read_options
from server.models import RequestOptions


def options_of(**headers: str) -> RequestOptions:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_options(Headers(named))


def test_a_request_without_headers_wants_nothing_special() -> None:
    assert options_of() == RequestOptions()


def test_every_header_is_read() -> None:
    options = options_of(
        X_Fal_Queue_Priority="low",
        X_Fal_Request_Timeout="30.0",
        X_Fal_Store_IO="0",
        X_Fal_No_Retry="yes",
        X_Fal_Object_Lifecycle_Preference='{"expiration_duration_seconds": 3600}',
        Idempotency_Key="a-b-c",
    )

    assert options == RequestOptions(
        priority=LOW,
        start_timeout_s=30.0,
        store_io=False,
        no_retry=True,
        file_lifetime_s=3600.0,
        idempotency_key="a-b-c",
    )


@pytest.mark.parametrize(("text", "seconds"), [("30", 30.0), ("1.", 1.0), ("0.11", 0.11)])
def test_a_time_to_start_is_a_number_of_seconds(text: str, seconds: float) -> None:
    assert options_of(x_fal_request_timeout=text).start_timeout_s == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "0", "0.1", "-3", "nan", "inf", "1e3", "1_0", "9" * 400, "\u0663"]
)
def test_any_other_time_to_start_is_a_bad_request(text: str) -> None:
    with pytest.raises(BadRequest, match=r"X-Fal-Request-Timeout .* above 0\.1"):
        read_options({"x-fal-request-timeout": text})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x-fal-queue-priority", "urgent"),
        ("x-fal-store-io", "never"),
        ("x-fal-no-retry", ""),
        ("idempotency-key", ""),
        ("idempotency-key", "x" * 256),
        ("x-app-fal-upload-policy", "{}"),
    ],
)
def test_what_cannot_be_done_is_refused_and_not_ignored(name: str, text: str) -> None:
    with pytest.raises(BadRequest, match=f"(?i){name}"):
        read_options({name: text})


@pytest.mark.parametrize("name", ["x-fal-runner-hint", "x-fal-disable-fallbacks"])
def test_what_means_nothing_on_one_server_is_accepted(name: str) -> None:
    assert read_options({name: "x"}) == RequestOptions()


@pytest.mark.parametrize(
    "lifecycle",
    [
        None,
        "",
        "{",
        "[]",
        "7",
        "[" * 50_000,
        "{}",
        '{"expiration_duration_seconds": null}',
        '{"expiration_duration_seconds": "soon"}',
        '{"expiration_duration_seconds": true}',
        '{"expiration_duration_seconds": -5}',
        '{"expiration_duration_seconds": 0}',
        '{"expiration_duration_seconds": Infinity}',
        '{"expiration_duration_seconds": NaN}',
        f'{{"expiration_duration_seconds": {10**400}}}',
        '{"initial_acl": {"default": "allow", "rules": []}}',
    ],
)
def test_a_lifecycle_that_says_nothing_readable_is_ignored(lifecycle: str | None) -> None:
    assert file_lifetime_s(lifecycle) is None


def test_a_lifecycle_gives_the_seconds_that_files_are_kept() -> None:
    assert file_lifetime_s('{"expiration_duration_seconds": 60, "initial_acl": null}') == 60.0


@pytest.mark.parametrize(
    "acl",
    [
        {"default": "forbid"},
        {"default": "hide", "rules": []},
        {"default": "allow", "rules": [{"user": "a", "decision": "forbid"}]},
    ],
)
def test_an_access_list_is_refused_because_files_have_none(acl: object) -> None:
    with pytest.raises(BadRequest, match="This server has no access lists"):
        file_lifetime_s(json.dumps({"initial_acl": acl}))
