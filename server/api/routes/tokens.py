"""Tokens of `rest.fal.ai`: a page in a browser gets one in place of the key."""

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from server.api.dependencies import CallerDep, JsonDep, ServicesDep
from server.api.openapi.parts import json_body
from server.auth.tokens import MAX_TOKEN_SECONDS, TokenScope
from server.fal.endpoints import ENDPOINTS, app_of
from server.fal.invalid_input import InvalidInput, error_item
from server.fal.schemas import read_as
from server.fal.urls import Service
from server.keys import Scope

router = APIRouter(prefix="/rest", tags=[Service.REST])


class TokenRequest(BaseModel):
    """What the token is for. Clients name an app by the second segment of its id."""

    model_config = ConfigDict(frozen=True)

    allowed_apps: Annotated[list[str], Field(min_length=1, max_length=20)]
    token_expiration: Annotated[int, Field(gt=0, le=MAX_TOKEN_SECONDS)] = 120


@router.post(
    "/tokens",
    response_description="The token.",
    openapi_extra={"requestBody": json_body(TokenRequest)},
)
async def token(services: ServicesDep, caller: CallerDep, body: JsonDep, response: Response) -> str:
    """A token that stands for the key in a browser, for some apps and a while."""
    wanted = read_as(TokenRequest, body)
    endpoints = {
        endpoint
        for index, name in enumerate(wanted.allowed_apps)
        for endpoint in _endpoints_of(index, name)
    }
    grant = TokenScope(Scope.RUN, tuple(sorted(endpoints)))
    response.headers["cache-control"] = "no-store"
    return await services.auth.issue_token(caller, grant, wanted.token_expiration)


def _endpoints_of(index: int, name: str) -> list[str]:
    found = [id_ for id_ in ENDPOINTS if name in (id_, app_of(id_), app_of(id_).split("/")[1])]
    if not found:
        loc = ("body", "allowed_apps", index)
        raise InvalidInput([error_item(loc, "This server has no such app.", "value_error", name)])
    return found
