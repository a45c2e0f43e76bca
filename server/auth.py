"""Who is calling, by the API key that came with the request."""

import hmac
from dataclasses import dataclass

from pydantic import SecretStr

from server.errors import Unauthorized

_SCHEMES = ("key", "bearer")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. `key_id` is None where the server asks for no key."""

    key_id: str | None


def authenticate(authorization: str | None, key: SecretStr | None) -> Caller:
    """The caller that an Authorization header names; anyone, if the server has no key.

    Raises:
        Unauthorized: the header is missing, or names no key of ours.
    """
    if key is None:
        return Caller(None)
    if authorization is None:
        raise Unauthorized(
            'This server needs a key: send the header "Authorization: Key <id>:<secret>".'
        )
    scheme, _, given = authorization.partition(" ")
    wanted = key.get_secret_value()
    matches = hmac.compare_digest(given.strip().encode(), wanted.encode())
    if scheme.lower() not in _SCHEMES or not matches:
        raise Unauthorized("The key is not one of this server's.")
    return Caller(wanted.partition(":")[0])
