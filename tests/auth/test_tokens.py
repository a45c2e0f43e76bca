"""Tokens by themselves: what is one, and what is none."""

import base64
import hmac
import json

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import ENDPOINT

from server.auth.tokens import InvalidToken, Tokens, TokenScope, key_id_of
from server.keys import ApiKey, Credential, Scope

GRANT = TokenScope(Scope.RUN, (ENDPOINT,))


def key_of(secret: str = "s3cret") -> ApiKey:
    return ApiKey.from_credential(Credential("me", secret), "test", created_at=0)


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
