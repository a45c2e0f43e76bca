"""The code of docs/webhooks.md is run on what this server sends."""

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from client_programs import run_node
from paths import DOCS

from server.webhooks.body import MAX_INLINE_BYTES
from server.webhooks.sender import AT_ONCE, AT_ONCE_FOR_A_RECEIVER, FIRST_WAIT_S, MAX_TRIES, TRY_S
from server.webhooks.signing import SigningKey

PAGE = (DOCS / "webhooks.md").read_text()
BODY = '{"request_id":"r-1","status":"OK","payload":{"prompt":"Übergrößen"}}'.encode()


def code_of(language: str) -> str:
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(code)


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.in_folder(tmp_path)


def headers_of(key: SigningKey, now: float) -> Mapping[str, str]:
    signed = key.headers(BODY, request_id="r-1", user_id="alice", now=now)
    return {name.lower(): value for name, value in signed.items()}


@pytest.mark.parametrize("padded", [False, True])
def test_the_python_code_tells_genuine_webhooks(key: SigningKey, padded: bool) -> None:
    module: dict[str, Any] = {}
    exec(code_of("python"), module)
    is_genuine, jwks = module["is_genuine"], key.key_set(padded=padded)
    headers = headers_of(key, time.time())

    assert is_genuine(headers, BODY, jwks)
    assert not is_genuine(headers, BODY + b" ", jwks)
    assert not is_genuine({**headers, "x-fal-webhook-user-id": "bob"}, BODY, jwks)
    assert not is_genuine(headers_of(key, time.time() - 301), BODY, jwks)


@pytest.mark.clients
@pytest.mark.parametrize("padded", [False, True])
def test_the_javascript_code_tells_genuine_webhooks(key: SigningKey, padded: bool) -> None:
    given = {
        "now": headers_of(key, time.time()),
        "old": headers_of(key, time.time() - 301),
        "jwks": key.key_set(padded=padded),
        "body": BODY.decode(),
    }
    program = f"""{code_of("javascript")}
const {{ now, old, jwks, body }} = {json.dumps(given)};
const asked = [[now, body], [now, body + " "], [old, body]];
const said = asked.map(([headers, text]) => isGenuine(headers, Buffer.from(text), jwks));
console.log(JSON.stringify(said));
"""
    assert run_node(program, {}) == ["[true,false,false]"]


def test_the_page_says_how_webhooks_are_sent(key: SigningKey) -> None:
    text = " ".join(PAGE.split())

    assert all(f"`{name}`" in text for name in key.headers(b"", request_id="", user_id="", now=0))
    assert f"within {TRY_S:g} seconds takes the webhook" in text
    assert f"repeated after {FIRST_WAIT_S:g} seconds" in text
    assert MAX_TRIES == 10 and "ten tries within two hours" in text
    assert f"Up to {AT_ONCE} are sent at once, of them {AT_ONCE_FOR_A_RECEIVER} to one host" in text
    assert f"up to {MAX_INLINE_BYTES // 2**20} MiB" in text
