"""The keys of callers, by `api.fal.ai`. Operators' own keys are made on the command line."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response

from server.api.dependencies import AdminDep, JsonDep, ServicesDep
from server.api.openapi.parts import json_body
from server.api.platform.catalogue import KeysView, NewKeyView, is_callers, key_view
from server.api.platform.errors import REFUSED
from server.api.platform.paging import slice_of
from server.api.platform.parameters import NewKey, PageQuery
from server.auth.key_store import LabelInUse, UnknownKey
from server.errors import BadRequest, Forbidden
from server.fal.schemas import read_as
from server.fal.urls import Service
from server.keys import Scope
from server.tasks import to_writer_thread


async def _asks_for_keys(services: ServicesDep, _: AdminDep) -> None:
    """Refuse every call where no key is asked for.

    Raises:
        Forbidden: it is not.
    """
    if not services.settings.needs_key:
        raise Forbidden("This server asks for no key, so it has none to show, make or delete.")


router = APIRouter(
    prefix=f"/{Service.V1.value}/keys",
    tags=[Service.V1],
    responses=REFUSED,
    dependencies=[Depends(_asks_for_keys)],
)


@router.get("", response_description="A page of them.")
async def keys(services: ServicesDep, asked: Annotated[PageQuery, Query()]) -> KeysView:
    """The keys of callers that are good, oldest first; the key needs the scope admin.

    Those of operators are not among them, nor is one that the settings name.
    """
    known, now = await asyncio.to_thread(services.auth.all_keys), services.store.now()
    page, more = slice_of(
        [key_view(key) for key in known if is_callers(key, now)], asked.limit, asked.cursor
    )
    return {"keys": page, **more}


@router.post(
    "",
    status_code=201,
    response_description="The key, which is told this once.",
    openapi_extra={"requestBody": json_body(NewKey)},
)
async def create_key(services: ServicesDep, body: JsonDep, response: Response) -> NewKeyView:
    """Make a key that may ask for videos and upload files; the key needs the scope admin.

    No two keys that are good have the same alias.
    """
    alias = read_as(NewKey, body).alias
    try:
        credential = await to_writer_thread(services.auth.make_key, alias)
    except LabelInUse as error:
        raise BadRequest(f"alias: {error}") from error
    response.headers["cache-control"] = "no-store"
    return {
        "key_id": credential.key_id,
        "key_secret": credential.secret,
        "key": credential.text,
    }


@router.delete("/{key_id}", status_code=204, response_description="It opens nothing any more.")
async def delete_key(services: ServicesDep, key_id: Annotated[str, Path(min_length=1)]) -> Response:
    """Revoke a key of a caller, for ever; the key needs the scope admin.

    A key that is not there is no error, as at fal.
    """
    key = await services.auth.find(key_id)
    if key is not None and Scope.ADMIN in key.scopes:
        raise Forbidden("This is an operator's key: `cosmos-serve keys revoke` revokes it.")
    if key is not None:
        try:
            await to_writer_thread(services.auth.revoke, key_id)
        except UnknownKey as error:
            raise Forbidden(
                "This key is named by the server's settings: unset it there."
            ) from error
    return Response(status_code=204)
