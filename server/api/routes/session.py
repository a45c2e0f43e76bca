"""Signing in: the page shows a key once, and its browser has a session from then on."""

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict

from server.api.dependencies import ServicesDep
from server.api.session_cookie import check_own_page, set_cookie
from server.auth.authenticator import SignedIn
from server.fal.schemas import read_as
from server.fal.urls import Service

MAX_BYTES = 4096


async def _not_stored(response: Response) -> None:
    response.headers["cache-control"] = "no-store"


router = APIRouter(
    prefix=f"/{Service.DISCOVERY.value}/page/session",
    dependencies=[Depends(_not_stored)],
    include_in_schema=False,
)


class SignIn(BaseModel):
    """The key, `id:secret`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    key: str


class KeyView(TypedDict):
    """Whose session it is."""

    id: str
    label: str
    scopes: list[str]


class SessionView(TypedDict):
    """Who has signed in, and until when, in Unix seconds; None where nobody has, or need not."""

    needs_key: bool
    key: KeyView | None
    expires_at: float | None


@router.get("")
async def session(request: Request, services: ServicesDep) -> SessionView:
    """Who has signed in here."""
    found = await services.auth.signed_in(request.state.session)
    return _view(found, needs_key=services.settings.needs_key)


@router.post("", dependencies=[Depends(check_own_page)])
async def sign_in(request: Request, services: ServicesDep, response: Response) -> SessionView:
    """Exchange a key for a session, which takes the place of one that the browser has."""
    needs_key = services.settings.needs_key
    if not needs_key:
        return _view(None, needs_key=needs_key)
    value, begun = await services.auth.sign_in(await _given(request, services))
    if request.state.session is not None:
        await services.auth.sign_out(request.state.session)
    lasts_s = begun.session.expires_at - begun.session.created_at
    set_cookie(request, response, value, lasts_s)
    return _view(begun, needs_key=needs_key)


@router.delete("", status_code=204, dependencies=[Depends(check_own_page)])
async def sign_out(request: Request, services: ServicesDep, response: Response) -> None:
    """End the session, if there is one."""
    if request.state.session is not None:
        await services.auth.sign_out(request.state.session)
    set_cookie(request, response, "", 0)


async def _given(request: Request, services: ServicesDep) -> str:
    """The key of a sign-in: of its Authorization header, or else of its body."""
    authorization = request.headers.get("authorization")
    if authorization is not None:
        return authorization.partition(" ")[2].strip()
    async with services.bodies.read(request, key_id=None, max_bytes=MAX_BYTES) as body:
        return read_as(SignIn, body).key.strip()


def _view(found: SignedIn | None, *, needs_key: bool) -> SessionView:
    if found is None:
        return {"needs_key": needs_key, "key": None, "expires_at": None}
    key, session = found
    return {
        "needs_key": needs_key,
        "key": {"id": key.id, "label": key.name, "scopes": sorted(key.scopes)},
        "expires_at": session.expires_at,
    }
