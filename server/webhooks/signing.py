"""The key that webhooks are signed with, and fal's recipe for a signature.

The key is an Ed25519 key of this server's own. The holder of a data folder has the key; a new data
folder has a new one, which receivers find in the key set.
"""

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typing_extensions import TypedDict

from server.config.errors import SettingsError
from server.data_folder import read_or_make

KEY_FILE = "webhook-signing-key.pem"


class KeySet(TypedDict):
    """A JSON Web Key Set."""

    keys: list[dict[str, Any]]


class SigningKey:
    """Signs webhooks."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def in_folder(
        cls, folder: Path, read: Callable[[Path, Callable[[], bytes]], bytes] = read_or_make
    ) -> "SigningKey":
        """The key of a data folder, made if there is none; `read` may have it elsewhere.

        Raises:
            SettingsError: the file is there, and is not an Ed25519 key.
        """
        path = folder / KEY_FILE
        pem = read(path, _new_pem)
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise _unusable(path) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise _unusable(path)
        return cls(key)

    def headers(
        self, body: bytes, *, request_id: str, user_id: str | None, now: float
    ) -> dict[str, str]:
        """What fal's receivers verify `body` by: `now` is in Unix seconds."""
        # Headers are ASCII; ordinary ids stay as they are.
        user = "anonymous" if user_id is None else quote(user_id, safe="")
        timestamp = str(int(now))
        digest = hashlib.sha256(body).hexdigest()
        message = "\n".join((request_id, user, timestamp, digest))
        return {
            "X-Fal-Webhook-Request-Id": request_id,
            "X-Fal-Webhook-User-Id": user,
            "X-Fal-Webhook-Timestamp": timestamp,
            "X-Fal-Webhook-Signature": self._key.sign(message.encode()).hex(),
        }

    def key_set(self, *, padded: bool = False) -> KeySet:
        """The public key as a JSON Web Key Set; `padded` ends its `x` with a `=`."""
        x = _base64url(self._key.public_key().public_bytes_raw())
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": x}
        # RFC 7638: the thumbprint is the hash of just this text.
        text = json.dumps(jwk, sort_keys=True, separators=(",", ":"))
        kid = _base64url(hashlib.sha256(text.encode()).digest())
        return {"keys": [jwk | {"x": x + ("=" if padded else ""), "kid": kid}]}


def _new_pem() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unusable(path: Path) -> SettingsError:
    return SettingsError(
        f"{path} is not an Ed25519 key in PEM form. Restore it, or remove it: a new one is made, "
        "and receivers of webhooks must fetch the key set again."
    )
