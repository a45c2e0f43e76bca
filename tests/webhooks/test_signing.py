"""The key that webhooks are signed with: made once, kept to oneself, and published."""

import base64
import hashlib
import json
from pathlib import Path

import pytest
from nacl.signing import VerifyKey

from server.config.errors import SettingsError
from server.webhooks.signing import KEY_FILE, SigningKey


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.in_folder(tmp_path)


def test_the_key_is_made_once_for_a_folder(key: SigningKey, tmp_path: Path) -> None:
    elsewhere = tmp_path / "another"
    elsewhere.mkdir()

    assert SigningKey.in_folder(tmp_path).key_set() == key.key_set()
    assert SigningKey.in_folder(elsewhere).key_set() != key.key_set()


def test_nobody_else_may_read_the_key(key: SigningKey, tmp_path: Path) -> None:
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_file_that_is_no_key_is_an_error_that_says_what_to_do(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / KEY_FILE).write_bytes(content)

    with pytest.raises(SettingsError, match=r"is not an Ed25519 key in PEM form\. Restore it"):
        SigningKey.in_folder(tmp_path)


def test_the_signature_is_of_the_four_parts_in_lines(key: SigningKey) -> None:
    headers = key.headers(b"body", request_id="r-1", user_id="u-1", now=1_700_000_000.9)

    assert headers["X-Fal-Webhook-Request-Id"] == "r-1"
    assert headers["X-Fal-Webhook-User-Id"] == "u-1"
    assert headers["X-Fal-Webhook-Timestamp"] == "1700000000"
    signature = headers["X-Fal-Webhook-Signature"]
    assert len(signature) == 128
    assert signature == signature.lower()
    digest = "230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5"
    message = f"r-1\nu-1\n1700000000\n{digest}".encode()
    VerifyKey(public_bytes(key)).verify(message, bytes.fromhex(signature))


@pytest.mark.parametrize("user_id", ["ключ", "a\r\nX-Injected: 1", "a b"])
def test_a_user_of_any_name_fits_into_a_header(key: SigningKey, user_id: str) -> None:
    named = key.headers(b"", request_id="r", user_id=user_id, now=0)["X-Fal-Webhook-User-Id"]

    assert named.isascii()
    assert named.isprintable()
    assert " " not in named


def test_padding_changes_nothing_but_the_end_of_x(key: SigningKey) -> None:
    (plain,), (padded,) = key.key_set()["keys"], key.key_set(padded=True)["keys"]

    assert padded == plain | {"x": plain["x"] + "="}
    assert len(base64.urlsafe_b64decode(padded["x"])) == 32
    with pytest.raises(ValueError, match="padding"):
        base64.urlsafe_b64decode(plain["x"])


def test_the_key_is_named_by_its_thumbprint(key: SigningKey) -> None:
    (jwk,) = key.key_set()["keys"]
    text = json.dumps({name: jwk[name] for name in ("crv", "kty", "x")}, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()

    assert base64.urlsafe_b64decode(jwk["kid"] + "=") == digest


def public_bytes(key: SigningKey) -> bytes:
    return base64.urlsafe_b64decode(key.key_set()["keys"][0]["x"] + "=")
