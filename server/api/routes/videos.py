"""OpenAI's videos API, over the jobs of the queue: what a job is called here is a video.

Keys, limits, headers and files are as those of fal's routes, and so is what a request may ask for.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from server.api.dependencies import (
    MAX_BODY_BYTES,
    BaseUrlDep,
    CallerDep,
    Services,
    ServicesDep,
    has_room,
)
from server.api.forms import MAX_FORM_BYTES, is_form, read_form
from server.api.openapi.parts import BYTES, answer, content, header, query
from server.api.openapi.videos import CREATE_BODY
from server.api.routes.files import file_answer
from server.api.routes.run import CLIENT_CLOSED_REQUEST, ended
from server.auth.authenticator import Caller
from server.errors import NoContent, UnknownFile, UnknownJob, UnknownVideo
from server.fal.headers import read_options
from server.fal.invalid_input import InvalidInput, error_item
from server.fal.schemas import check_as, parse_json
from server.fal.urls import Service
from server.files.access import ReadPermission
from server.inputs.submit import Submission, check_text
from server.jobs import records
from server.jobs.records import JobRecord
from server.models import Job
from server.openai.create import CreateVideo, Given, Order, given_by, medium_of_type, order_of
from server.openai.errors import OpenAIError, openai_error
from server.openai.views import (
    DeletedVideo,
    VideoPage,
    VideoView,
    page_view,
    status_of,
    video_view,
)
from server.tasks import to_writer_thread

router = APIRouter(
    prefix=f"/{Service.VIDEOS.value}",
    tags=[Service.VIDEOS],
    responses={"default": answer("Why it was refused.", OpenAIError)},
)


class PageQuery(BaseModel):
    """Which videos are listed."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"


class ContentQuery(BaseModel):
    """Which file of a video is wanted."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    variant: Literal["video", "thumbnail"] = "video"


async def _found(
    request: Request, video_id: str, services: ServicesDep, caller: CallerDep
) -> JobRecord:
    """The caller's video that the path names; the answer is numbered as the request is."""
    try:
        record = await _record(services, video_id)
    except UnknownJob as error:
        raise UnknownVideo from error
    if record.job.key_id != caller.key_id:
        raise UnknownVideo
    request.state.request_id = record.job.id
    return record


FoundDep = Annotated[JobRecord, Depends(_found)]


@router.post(
    "",
    name="create_video",
    dependencies=[Depends(has_room)],
    response_description="It is in the queue.",
    openapi_extra={"requestBody": CREATE_BODY},
)
async def create(
    request: Request, services: ServicesDep, caller: CallerDep, base_url: BaseUrlDep
) -> VideoView:
    """Ask for a video."""
    async with _order(request, services, caller, base_url) as (order, submission):
        try:
            job = await services.submissions.accept(submission)
        except InvalidInput as error:
            raise order.in_its_words(error) from error
    request.state.request_id = job.id
    return _view(services, await _record(services, job.id))


@router.post(
    "/sync",
    name="make_video",
    dependencies=[Depends(has_room)],
    response_class=FileResponse,
    responses={200: content("The video.", BYTES, "*/*")},
    openapi_extra={"requestBody": CREATE_BODY},
)
async def create_and_wait(
    request: Request, services: ServicesDep, caller: CallerDep, base_url: BaseUrlDep
) -> Response:
    """Make a video and wait for it.

    A caller who goes away and does not return cancels it.
    """
    job = await _begin(request, services, caller, base_url)
    done = await ended(request, services, job)
    if done is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    if done.error is not None:
        status, body = openai_error(done.error.http_status, done.error.body)
        return JSONResponse(body, status)
    file = await _file(request, services, caller, done, "video")
    file.headers.update(
        {
            "x-request-id": done.id,
            "x-model": done.endpoint,
            "x-inference-time-s": f"{done.inference_seconds or 0.0:.3f}",
        }
    )
    return file


@router.get(
    "",
    name="list_videos",
    response_description="A page of them.",
    openapi_extra={
        "parameters": [
            query("after", "The last video of the page before."),
            query(
                "limit", "How many; 20 if it is not said.", type="integer", minimum=1, maximum=100
            ),
            query("order", "By when they were asked for.", enum=["asc", "desc"]),
        ]
    },
)
async def list_videos(request: Request, services: ServicesDep, caller: CallerDep) -> VideoPage:
    """The videos of the key, also those that were asked for by fal's routes."""
    wanted = check_as(PageQuery, dict(request.query_params))
    try:
        found, has_more = await asyncio.to_thread(
            records.page,
            services.database,
            caller.key_id,
            after=wanted.after,
            limit=wanted.limit,
            newest_first=wanted.order == "desc",
            now=services.store.now(),
        )
    except UnknownJob as error:
        item = error_item(("query", "after"), "No video has this id.", "value_error", wanted.after)
        raise InvalidInput([item]) from error
    return page_view([_view(services, each) for each in found], has_more=has_more)


@router.get("/{video_id}", name="video", response_description="Its state.")
async def retrieve(found: FoundDep, services: ServicesDep) -> VideoView:
    """Where a video stands."""
    return _view(services, found)


@router.delete("/{video_id}", name="delete_video", response_description="It is gone.")
async def delete(found: FoundDep, services: ServicesDep) -> DeletedVideo:
    """Remove a video with its files.

    One that waits or runs is stopped.
    """
    await services.submissions.cancel(found.job.id)
    await to_writer_thread(services.retention.delete, found.job.id)
    return {"id": found.job.id, "object": "video.deleted", "deleted": True}


@router.get(
    "/{video_id}/content",
    name="video_content",
    response_class=FileResponse,
    responses={
        200: content("The file.", BYTES, "*/*"),
        206: content("The parts that a Range header names.", BYTES, "*/*"),
        416: {"description": "The file has no such part."},
    },
    openapi_extra={
        "parameters": [
            query("variant", "The video, or a small WebP of it.", enum=["video", "thumbnail"]),
            header("Range", "The parts that are wanted."),
        ]
    },
)
async def video_content(
    request: Request, found: FoundDep, services: ServicesDep, caller: CallerDep
) -> Response:
    """The file of a video that is completed."""
    wanted = check_as(ContentQuery, dict(request.query_params))
    return await _file(request, services, caller, found.job, wanted.variant)


async def _begin(request: Request, services: Services, caller: Caller, base_url: str) -> Job:
    """Accept a run. A function of its own, so that nothing holds the body while the run waits."""
    async with _order(request, services, caller, base_url) as (order, submission):
        try:
            return await services.runs.begin(submission)
        except InvalidInput as error:
            raise order.in_its_words(error) from error


@asynccontextmanager
async def _order(
    request: Request, services: Services, caller: Caller, base_url: str
) -> AsyncIterator[tuple[Order, Submission]]:
    """The whole request, in fal's words; to be kept no longer than the block."""
    options = read_options(request.headers)
    max_bytes = MAX_FORM_BYTES if is_form(request.headers) else MAX_BODY_BYTES
    async with services.bodies.read(request, key_id=caller.key_id, max_bytes=max_bytes) as body:
        # The body may have taken its time: the key has to be good still.
        await services.auth.check_key(caller.key_id)
        order = await _read(request, services, caller, base_url, body)
        # Its body names the endpoint: a request that has none is not traced.
        with services.traces.submit(order.endpoint, request.headers) as traceparent:
            yield (
                order,
                Submission(
                    endpoint=order.endpoint,
                    body=order.body,
                    base_url=base_url,
                    caller=caller,
                    options=options,
                    traceparent=traceparent,
                ),
            )


async def _read(
    request: Request, services: Services, caller: Caller, base_url: str, body: bytes
) -> Order:
    if is_form(request.headers):
        fields: Any = await read_form(request.headers, body)
    else:
        fields = await asyncio.to_thread(_parse, body)
    asked = check_as(CreateVideo, fields)
    given = given_by(asked)
    if given is not None and given.file_id is not None:
        given = await asyncio.to_thread(_of_file, given, given.file_id, services, caller, base_url)
    return await asyncio.to_thread(order_of, asked, given, services.limits)


def _parse(body: bytes) -> Any:
    check_text(body)
    return parse_json(body)


def _of_file(
    given: Given, file_id: str, services: Services, caller: Caller, base_url: str
) -> Given:
    """What the video begins with, where it is a file of this server."""
    permit = services.file_access.by_id(caller)
    try:
        file = services.public_files.find(file_id, None, permit)
    except UnknownFile as error:
        item = error_item(
            ("body", given.field), "This server has no such file.", "value_error", file_id
        )
        raise InvalidInput([item]) from error
    url = services.file_links.url(base_url, file.id, file.name)
    return replace(given, url=url, medium=given.medium or medium_of_type(file.content_type))


async def _record(services: Services, job_id: str) -> JobRecord:
    return await asyncio.to_thread(records.record, services.database, job_id, services.store.now())


def _view(services: Services, record: JobRecord) -> VideoView:
    return video_view(record, services.limits, services.settings.keep_s)


async def _file(
    request: Request, services: Services, caller: Caller, job: Job, variant: str
) -> Response:
    """A file of a job, for its own caller."""
    if job.result is None:
        raise NoContent(f"This video is {status_of(job)}, so it has no content.")
    if variant not in job.result:
        raise NoContent(f"This video has no {variant}.")
    permit = ReadPermission(owners=frozenset({caller.key_id}))
    return await file_answer(services, request, job.result[variant]["artifact"], None, permit)
