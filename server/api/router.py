"""All routes of the server, service by service."""

from functools import cache

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from server.api.openapi.parts import problem
from server.api.routes import (
    admin,
    documents,
    estimate,
    files,
    health,
    jwks,
    keys,
    mcp,
    metrics,
    models,
    page,
    queue,
    requests,
    run,
    session,
    storage,
    stream,
    tokens,
    uploads,
    usage,
    videos,
)
from server.config.setting_types import FilesAuth, Role


@cache
def api_routes(files_auth: FilesAuth, role: Role) -> list[BaseRoute]:
    """The routes of a server whose files are read so; one that only runs jobs has few.

    They are made once for all apps of a process: their models take most of an app's start.
    """
    router = APIRouter(
        generate_unique_id_function=_operation_id,
        responses={"default": problem("Why it was refused.")},
    )
    if role == "dispatch":
        for module in (health, metrics, admin):
            router.include_router(module.router)
        return router.routes
    # The path of a run would match that of a stream, too.
    for module in (stream, run, queue, uploads, storage, health, tokens, jwks, metrics, admin):
        router.include_router(module.router)
    for module in (models, requests, usage, keys, videos, mcp):
        router.include_router(module.router)
    router.include_router(estimate.router)
    router.include_router(session.router)
    router.include_router(files.file_router(files_auth))
    router.include_router(documents.router)
    router.include_router(page.router)
    return router.routes


def _operation_id(route: APIRoute) -> str:
    """The route's name as `name` or `longName`, and a place for the endpoint or app it serves."""
    first, *words = route.name.split("_")
    places = {"{endpoint": "{Endpoint}", "{app": "{App}"}
    served = [place for start, place in places.items() if start in route.path_format]
    return "".join([first, *(word.capitalize() for word in words), *served])
