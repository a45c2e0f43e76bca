"""Who is calling, by a key, a token or a session, and what they may do."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from server.auth.key_store import KeyCache
from server.auth.sessions import Session, SessionCache
from server.auth.tokens import InvalidToken, Tokens, TokenScope, key_id_of
from server.disk import shortage_of
from server.errors import Forbidden, Unauthorized
from server.keys import ApiKey, Credential, Scope, secret_matches
from server.tasks import to_writer_thread

_NOT_OURS = "The key is not one of this server's."


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. `key_id` is None where the server asks for no key.

    `token_scope` is what a token allows, if one was sent in place of the key.
    """

    key_id: str | None
    scopes: frozenset[Scope] = frozenset(Scope)
    token_scope: TokenScope | None = None

    @property
    def seen_keys(self) -> list[str | None] | None:
        """The keys whose requests the caller may see; None is all of them."""
        return None if Scope.ADMIN in self.scopes else [self.key_id]

    def check_scope(self, scope: Scope) -> None:
        """Refuse a caller who may do other things.

        Raises:
            Forbidden: the caller may do other things.
        """
        if scope not in self.scopes:
            raise Forbidden(f"This key does not have the scope {scope.value!r}.")

    def check_run(self, method: str, path: str) -> None:
        """Refuse a caller who may not ask for videos, or not so.

        `path` is the one within the service: it begins with an endpoint's id, or an app's.

        Raises:
            Forbidden: the key is for other things, or the token for other requests.
        """
        self.check_scope(Scope.RUN)
        if self.token_scope is None:
            return
        endpoints = self.token_scope.endpoints
        is_listed = any(f"{path}/".startswith(f"/{endpoint}/") for endpoint in endpoints)
        if method != "POST" or not is_listed:
            raise Forbidden(f"This token is good for POST to {' and '.join(endpoints)} only.")


ANYBODY = Caller(key_id=None)


class SignedIn(NamedTuple):
    """Somebody who showed a key, and the session that was given for it."""

    key: ApiKey
    session: Session


class Authenticator:
    """Knows the callers of one server. Where it does not need a key, everybody is the same."""

    def __init__(
        self,
        keys: KeyCache,
        tokens: Tokens,
        sessions: SessionCache,
        *,
        needs_key: bool,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._sessions = sessions
        self._needs_key = needs_key
        self._now = now

    async def caller(
        self, authorization: str | None, token: str | None, session: str | None = None
    ) -> Caller:
        """The caller, by the session, or else by the Authorization header or the query's token.

        Raises:
            Unauthorized: there is none of them, or what there is opens nothing here.
        """
        if not self._needs_key:
            return ANYBODY
        if session is not None:
            key, _ = await self._by_session(session)
            await self._keys.note_use(key)
            return Caller(key.id, key.scopes)
        if authorization is None:
            return await self._by_token(token)
        scheme, _, given = authorization.partition(" ")
        credential = Credential.parse(given.strip())
        match scheme.lower(), credential:
            case "key" | "bearer", Credential():
                key = await self._by_key(credential)
                return Caller(key.id, key.scopes)
            case "bearer", None:
                return await self._by_token(given.strip())
        raise Unauthorized(_NOT_OURS)

    async def sign_in(self, text: str) -> tuple[str, SignedIn]:
        """Exchange a key, `id:secret`, for a session; the value of it, and whose it is.

        Raises:
            Unauthorized: it is no key of this server, or one that is no longer good.
        """
        credential = Credential.parse(text)
        if credential is None:
            raise Unauthorized(_NOT_OURS)
        key = await self._by_key(credential)
        value, session = await to_writer_thread(self._sessions.store.begin, key)
        return value, SignedIn(key, session)

    async def signed_in(self, session: str | None) -> SignedIn | None:
        """Whose a session is; None if it is over, or there is none."""
        if session is None:
            return None
        try:
            return await self._by_session(session)
        except Unauthorized:
            return None

    async def sign_out(self, session: str) -> None:
        """End a session now."""
        await to_writer_thread(self._sessions.store.end, session)
        self._sessions.forget()

    async def is_good(self, key_id: str | None, session: str | None = None) -> bool:
        """Whether what was begun with a key, or with a session of it, may still go on."""
        try:
            await self.check_key(key_id)
            if session is not None and self._needs_key:
                await self._by_session(session)
        except Unauthorized:
            return False
        except Exception as error:
            if shortage_of(error) is None:
                raise
            # The table cannot be read now: who asks asks again soon.
        return True

    async def check_key(self, key_id: str | None) -> None:
        """Refuse what was begun with a key that is no longer good.

        Raises:
            Unauthorized: the key has been revoked, or has expired.
        """
        if not self._needs_key:
            return
        key = None if key_id is None else await self._keys.find(key_id)
        if key is None:
            raise Unauthorized(_NOT_OURS)
        self._check_valid(key)

    async def find(self, key_id: str) -> ApiKey | None:
        """The key of that id, whether it is good or not."""
        return await self._keys.find(key_id)

    def all_keys(self) -> list[ApiKey]:
        """Every key in the table that there ever was, oldest first; blocks."""
        return self._keys.store.all()

    def make_key(self, label: str) -> Credential:
        """Make a key for a caller, which is good at once; blocks.

        Raises:
            LabelInUse: a key that is not revoked has the label.
        """
        credential = Credential.new()
        self._keys.store.add(ApiKey.from_credential(credential, label, created_at=self._now()))
        self._keys.forget()
        return credential

    def revoke(self, key_id: str) -> None:
        """Make a key worthless from now on; blocks.

        Raises:
            UnknownKey: there is none of that id in the table.
        """
        self._keys.store.revoke(key_id)
        self._keys.forget()

    async def issue_token(self, caller: Caller, grant: TokenScope, seconds: int) -> str:
        """A token whose holder may do a part of what the caller may.

        Raises:
            Forbidden: the caller came with a token.
        """
        if caller.token_scope is not None:
            raise Forbidden("A token cannot be exchanged for another: send the key.")
        return self._tokens.issue(await self._lender(caller), grant, seconds)

    async def _lender(self, caller: Caller) -> ApiKey:
        if caller.key_id is None:
            # Clients ask for tokens even where everything is open. Nobody will read this one.
            return ApiKey.from_credential(Credential.new(), "nobody", created_at=self._now())
        key = await self._keys.find(caller.key_id)
        assert key is not None, "a key vanished after its owner was let in"
        return key

    async def _by_key(self, credential: Credential) -> ApiKey:
        key = await self._keys.find(credential.key_id)
        # The secret comes first, so that an unknown key takes the time of a known one.
        if not secret_matches(credential.secret, key) or key is None:
            raise Unauthorized(_NOT_OURS)
        self._check_valid(key)
        await self._keys.note_use(key)
        return key

    async def _by_session(self, value: str) -> SignedIn:
        session = await self._sessions.find(value)
        key = None if session is None else await self._keys.find(session.key_id)
        if session is None or key is None or key.secret_sha256 != session.key_sha256:
            raise Unauthorized("The session is over: sign in again.")
        self._check_valid(key)
        return SignedIn(key, session)

    async def _by_token(self, token: str | None) -> Caller:
        if token is None:
            raise Unauthorized(
                'This server needs a key: send the header "Authorization: Key <id>:<secret>".'
            )
        key_id = key_id_of(token)
        key = None if key_id is None else await self._keys.find(key_id)
        if key is None:
            raise Unauthorized("The token is not one of this server's.")
        try:
            grant = self._tokens.read(token, key)
        except InvalidToken as error:
            raise Unauthorized(str(error)) from error
        self._check_valid(key)
        await self._keys.note_use(key)
        return Caller(key.id, key.scopes & {grant.scope}, grant)

    def _check_valid(self, key: ApiKey) -> None:
        if key.revoked_at is not None:
            raise Unauthorized(f"The key {key.id!r} has been revoked.")
        if key.expires_at is not None and key.expires_at <= self._now():
            raise Unauthorized(f"The key {key.id!r} has expired.")
