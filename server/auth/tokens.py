"""Short-lived tokens: what a key lends to a browser, or to one upload.

A token is a JWT whose `kid` names the key that issued it. It is signed with a secret made of the
server's and of that key's hash, so it ends with the key, and a copy of the database forges none.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import jwt

from server.keys import ApiKey, Scope

MAX_TOKEN_SECONDS = 3600
SECRET_BYTES = 32
TOKEN_SECRET = "token.secret"  # noqa: S105 - the name of a file
_ALGORITHM = "HS256"


class InvalidToken(Exception):
    """It is no token of this key's, or it has expired; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class TokenScope:
    """What a token allows: one scope, and of `run` the POST of these endpoints only.

    Whatever it is for, it reads the files of its key, where a key is needed to read them.
    """

    scope: Scope
    endpoints: tuple[str, ...] = ()


class Tokens:
    """Writes and reads the tokens of one server."""

    def __init__(self, secret: bytes, *, now: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._now = now

    def issue(self, key: ApiKey, grant: TokenScope, seconds: int) -> str:
        """A token that the key lends for so long."""
        assert 0 < seconds <= MAX_TOKEN_SECONDS, "a token was to live for too long"
        issued_at = int(self._now())
        claims = {
            "iat": issued_at,
            "exp": issued_at + seconds,
            "scope": grant.scope.value,
            "endpoints": list(grant.endpoints),
        }
        return jwt.encode(claims, self._secret_of(key), _ALGORITHM, headers={"kid": key.id})

    def read(self, text: str, key: ApiKey) -> TokenScope:
        """What a token of this key allows.

        Raises:
            InvalidToken: it was not issued by the key, or has expired.
        """
        try:
            claims = jwt.decode(
                text,
                self._secret_of(key),
                algorithms=[_ALGORITHM],
                options={"require": ["exp"], "verify_iat": False},
            )
        except jwt.ExpiredSignatureError as error:
            raise InvalidToken("The token has expired.") from error
        except jwt.InvalidTokenError as error:
            raise InvalidToken("The token is not one of this server's.") from error
        return TokenScope(Scope(claims["scope"]), tuple(claims["endpoints"]))

    def _secret_of(self, key: ApiKey) -> bytes:
        return hmac.digest(self._secret, key.secret_sha256.encode(), hashlib.sha256)


def new_secret() -> bytes:
    """What nobody but a server knows; tokens and signed URLs end with it."""
    return secrets.token_bytes(SECRET_BYTES)


def key_id_of(text: str) -> str | None:
    """The id of the key that a token says it is of; None if the text is no token."""
    try:
        key_id = jwt.get_unverified_header(text).get("kid")
    except jwt.InvalidTokenError:
        return None
    return None if key_id is None else str(key_id)
