"""create_app: the parts of the server, put together."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from server.artifact_store import ArtifactStore
from server.database import Database
from server.dispatcher import Dispatcher
from server.errors import MethodNotAllowed, RequestError, UnknownPath, answer
from server.fetch import Fetcher
from server.front import REQUEST_ID, Front
from server.intake import Intake
from server.job_store import JobStore
from server.local_pool import LocalPool
from server.pool import Pool, devices_from
from server.routes import files, health, queue, run
from server.schemas import ENDPOINTS, Limits
from server.services import Services
from server.settings import Settings
from server.submissions import Submissions
from server.wake import Wakes
from server.worker_loop import WorkerOptions
from weights.checkpoint_profile import PROFILE_FILE
from weights.store import WeightStore


class StartRefused(Exception):
    """The server must not start so; the message is a sentence that says why, and the way out."""


def create_app(settings: Settings, pool: Pool | None = None) -> FastAPI:
    """The server as an ASGI app; `pool` takes the place of this machine's.

    The database is opened and workers are started with the app's lifespan, not before.

    Raises:
        CheckpointError: the checkpoint is not whole.
        StartRefused: the checkpoint requires a guardrail, and none is installed.
        ValueError: the settings name a device that is not there.
    """
    limits = _limits(settings)
    pool = pool or _local_pool(settings)
    app = FastAPI(
        title="cosmos-serve",
        lifespan=lambda app: _lifespan(app, settings, limits, pool),
        openapi_url=None,
        redirect_slashes=False,
    )
    for module in (run, queue, files, health):
        app.include_router(module.router)
    app.add_exception_handler(RequestError, _answer)
    app.add_exception_handler(HTTPException, _answer_router)
    app.add_exception_handler(Exception, _answer)
    app.add_middleware(Front)
    return app


@asynccontextmanager
async def _lifespan(
    app: FastAPI, settings: Settings, limits: Limits, pool: Pool
) -> AsyncIterator[None]:
    settings.data.mkdir(parents=True, exist_ok=True)
    store = JobStore(Database(settings.data / "jobs.sqlite3"), owner=str(uuid.uuid4()))
    files = ArtifactStore(settings.data / "files")
    wakes = Wakes()
    app.state.services = Services(
        settings=settings,
        store=store,
        files=files,
        submissions=Submissions(store, files, limits, wakes, queue_limit=settings.queue_limit),
        pool=pool,
        wakes=wakes,
    )
    await asyncio.to_thread(files.clear_parts)
    await asyncio.to_thread(store.recover)
    intake = Intake(store, files, _fetcher(settings), limits, wakes)
    dispatcher = Dispatcher(pool=pool, store=store, files=files, limits=limits, wakes=wakes)
    loops = (intake.run(), dispatcher.run(), dispatcher.watch_pool())
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        await pool.start()
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await intake.close()
        await dispatcher.close()
        await pool.close()
        store.close()


def _limits(settings: Settings) -> Limits:
    profile = WeightStore(settings.weights).profile
    if profile.guardrail == "required" and settings.guardrail != "off":
        raise StartRefused(
            f"The checkpoint in {settings.weights} requires a guardrail "
            f"({PROFILE_FILE} does not say otherwise), and none is installed. Its licence asks "
            "you to keep one in place; to answer for that yourself, start with --guardrail off."
        )
    return Limits(profile.width, profile.height, profile.max_frames)


def _local_pool(settings: Settings) -> Pool:
    options = WorkerOptions(weights=str(settings.weights), guardrail=settings.guardrail)
    devices = devices_from(settings.devices, settings.cuda_visible_devices)
    return LocalPool(settings.worker, options, devices)


def _fetcher(settings: Settings) -> Fetcher:
    return Fetcher(allow_nets=settings.fetch_allow_nets, allow_hosts=settings.fetch_allow_hosts)


async def _answer(request: Request, error: Exception) -> Response:
    given = answer(error)
    # The answer to an unforeseen error does not pass through Front.
    headers = {REQUEST_ID: request.state.request_id, **given.headers}
    return JSONResponse(given.body, given.status, headers=headers)


async def _answer_router(request: Request, error: Exception) -> Response:
    """The router's own 404 and 405, in fal's words."""
    assert isinstance(error, HTTPException)
    path = "/" + request.scope["path"].lstrip("/").partition("/")[2]
    is_known = path[1:] in ENDPOINTS or "/requests/" in path
    if error.status_code == 405 and is_known:
        return await _answer(request, MethodNotAllowed((error.headers or {})["Allow"]))
    return await _answer(request, UnknownPath(path))
