"""API keys: what one is, how it is made, and whether a secret opens it.

Only the SHA-256 of a secret is kept. The secrets that we make have 256 random bits, to which a slow
hash would add nothing but the cost of each poll.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum

_TEXT = re.compile(r"([!-9;-~]+):([!-~]+)")


class Scope(StrEnum):
    """What a key may be for."""

    RUN = "run"
    FILES = "files"
    ADMIN = "admin"


CALLER_SCOPES = frozenset({Scope.RUN, Scope.FILES})
"""What a client needs. `admin` is for operators, and is given by name only."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A key as its owner has it: the id, and the secret that nobody else knows."""

    key_id: str
    secret: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "Credential | None":
        """Read `id:secret`; None if the text is of another form."""
        match = _TEXT.fullmatch(text)
        return None if match is None else cls(match[1], match[2])

    @classmethod
    def new(cls) -> "Credential":
        return cls(secrets.token_hex(8), secrets.token_urlsafe(32))

    @property
    def text(self) -> str:
        """`id:secret`, as FAL_KEY and the Authorization header have it."""
        return f"{self.key_id}:{self.secret}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnLimits:
    """What one key may have, where that differs from what the settings give every key.

    None is what the settings say. The names are those of the settings, without `key_`.
    """

    queue_limit: int | None = None
    running_limit: int | None = None
    submits_per_minute: int | None = None
    storage_limit_mib: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey(OwnLimits):
    """A key as we keep it. Times are Unix seconds."""

    id: str
    secret_sha256: str
    name: str
    scopes: frozenset[Scope]
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None

    @classmethod
    def from_credential(
        cls,
        credential: Credential,
        name: str,
        *,
        created_at: float,
        scopes: Collection[Scope] = CALLER_SCOPES,
        expires_at: float | None = None,
        **own_limits: int | None,
    ) -> "ApiKey":
        """What is kept of a credential. `own_limits` are the fields of `OwnLimits`."""
        return cls(
            **own_limits,
            id=credential.key_id,
            secret_sha256=_sha256(credential.secret),
            name=name,
            scopes=frozenset(scopes),
            created_at=created_at,
            expires_at=expires_at,
        )


def secret_matches(secret: str, key: ApiKey | None) -> bool:
    """Whether the secret is the key's, in a time that does not tell, not even if there is a key."""
    wanted = _NO_SECRET if key is None else key.secret_sha256
    return hmac.compare_digest(_sha256(secret), wanted)


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


_NO_SECRET = "0" * 64
"""What the secret of an unknown key is compared with: no text is known to have this hash."""
