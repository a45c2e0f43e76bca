"""The tools of `/mcp`, under fal's names, over the same jobs as fal's queue.

Importing this module imports the SDK of the Model Context Protocol: only `server.api.routes.mcp`
does, when it is first asked.
"""

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from functools import wraps
from importlib.metadata import version
from inspect import getdoc
from typing import Annotated, Any, Literal, NamedTuple, ParamSpec

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, ResourceLink, TextContent, ToolAnnotations
from pydantic import Field
from starlette.requests import Request

from server.api.dependencies import Services, has_room
from server.api.openapi.schemas import input_schema
from server.api.platform.catalogue import price_view
from server.api.routes.run import until_done
from server.auth.authenticator import Caller
from server.disk import shortage_of
from server.errors import (
    BadRequest,
    OutputExpired,
    RequestError,
    StillInProgress,
    Unauthorized,
    UnknownJob,
)
from server.fal.endpoints import ENDPOINTS
from server.fal.urls import Service, url_for
from server.fal.views import as_json, output_view
from server.files.content_types import content_type_of, file_name_of
from server.files.upload_store import NewUpload
from server.inputs.submit import Submission
from server.jobs import records
from server.keys import Scope
from server.models import Job, JobSnapshot, JobStatus, RequestOptions, StoredArtifact

WAIT_S = 50.0
"""How long `run_model` waits for a video: clients give a tool up after a minute."""

MAX_UPLOAD_BYTES = 2**20
"""Of a file that comes with the call; larger ones go to a URL of their own."""

INSTRUCTIONS = """\
Makes videos with NVIDIA Cosmos-Predict2.5-2B on this server. search_models lists the endpoints and
get_model_schema says what one takes. A video takes minutes: submit_job gives a request_id at once,
check_job says how far it is and, when it is COMPLETED, where the video is. Files that are not
public URLs go through upload_file first."""

Tool = Callable[..., Awaitable[CallToolResult]]
P = ParamSpec("P")

EndpointId = Annotated[str, Field(description="The endpoint's id, as search_models gives it.")]
Input = Annotated[
    dict[str, Any],
    Field(description="The fields of the endpoint's input, as get_model_schema gives them."),
]
RequestId = Annotated[str, Field(description="The request_id of submit_job or run_model.")]


class _Call(NamedTuple):
    """Who calls, and what answers."""

    services: Services
    caller: Caller
    base_url: str

    @classmethod
    def of(cls, ctx: Context) -> "_Call":
        request = _request_of(ctx)
        state = request.state
        return cls(request.app.state.services, state.caller, state.base_url)


async def search_models(
    ctx: Context,
    query: Annotated[str, Field(description="Words to look for; all endpoints without.")] = "",
) -> CallToolResult:
    """The endpoints of this server, those that fit the query best first."""
    words = query.lower().split()
    found = []
    for id_ in _Call.of(ctx).services.limits.endpoints:
        endpoint = ENDPOINTS[id_]
        text = f"{id_} {endpoint.title} {endpoint.summary}".lower()
        hits = sum(word in text for word in words)
        if hits or not words:
            model = {
                "endpoint_id": id_,
                "title": endpoint.title,
                "category": endpoint.category,
                "description": endpoint.summary,
            }
            found.append((hits, model))
    found.sort(key=lambda each: -each[0])
    return _answer({"models": [model for _, model in found]})


async def get_model_schema(ctx: Context, endpoint_id: EndpointId) -> CallToolResult:
    """The input and the output of an endpoint, as JSON Schema."""
    limits = _Call.of(ctx).services.limits
    endpoint = ENDPOINTS[_known(ctx, endpoint_id)]
    output = endpoint.response.model_json_schema(mode="serialization")
    return _answer(
        {"endpoint_id": endpoint_id, "input": input_schema(endpoint_id, limits), "output": output}
    )


async def get_pricing(ctx: Context, endpoint_id: EndpointId) -> CallToolResult:
    """What a video of an endpoint costs here, as the server's operator says."""
    prices = _Call.of(ctx).services.prices
    return _answer({"prices": [price_view(_known(ctx, endpoint_id), prices)]})


async def submit_job(ctx: Context, endpoint_id: EndpointId, input: Input) -> CallToolResult:
    """Ask for a video, and do not wait for it: the answer has the request_id for check_job."""
    job = await _submit(ctx, endpoint_id, input)
    return await _accepted(_Call.of(ctx).services, job)


async def run_model(ctx: Context, endpoint_id: EndpointId, input: Input) -> CallToolResult:
    """Ask for a video and wait for it, for 50 seconds at most.

    If it takes longer, the answer is that of submit_job and the job goes on: ask check_job.
    """
    services = _Call.of(ctx).services
    job = await _submit(ctx, endpoint_id, input)
    telling = asyncio.create_task(_tell(ctx, job))
    try:
        async with asyncio.timeout(WAIT_S):
            done = await until_done(services, job.id)
    except TimeoutError:
        return await _accepted(services, job)
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
    if done is None:
        raise Unauthorized("The key has ended.")
    return await _result(services, done)


async def check_job(
    ctx: Context,
    request_id: RequestId,
    action: Annotated[
        Literal["status", "result"],
        Field(description="status: where it stands, and its result if there is one. result: that."),
    ] = "status",
) -> CallToolResult:
    """Where a job stands, and what came of it. cancel_job stops one."""
    services = _Call.of(ctx).services
    standing = await _own(ctx, request_id)
    if action == "result":
        standing = (await services.statuses.get_latest(request_id)).standing
        if not standing.job.done:
            raise StillInProgress
    if action == "result" or (standing.job.done and standing.job.error is None):
        return await _result(services, standing.job)
    return _answer(_status(standing))


async def cancel_job(ctx: Context, request_id: RequestId) -> CallToolResult:
    """Stop a job that waits or runs; one that is completed stays as it is."""
    job = (await _own(ctx, request_id)).job
    outcome = await _Call.of(ctx).services.submissions.cancel(job.id)
    return _answer({"request_id": job.id, "status": outcome})


async def list_jobs(
    ctx: Context,
    limit: Annotated[int, Field(ge=1, le=100, description="How many at most.")] = 10,
) -> CallToolResult:
    """The latest jobs of this key, the last first."""
    services, caller, _ = _Call.of(ctx)
    caller.check_run("GET", "/")
    found, _ = await asyncio.to_thread(
        records.page,
        services.database,
        caller.key_id,
        after=None,
        limit=limit,
        newest_first=True,
        now=services.store.now(),
    )
    return _answer({"jobs": [_where(each.job) for each in found]})


async def upload_file(
    ctx: Context,
    file_name: Annotated[str, Field(description="The file's name, such as photo.jpg.")],
    content_type: Annotated[str, Field(description="Its type, such as image/jpeg.")],
    data: Annotated[
        str | None,
        Field(description="Its bytes in base64, 1 MiB of them at most. Leave it out for more."),
    ] = None,
) -> CallToolResult:
    """Bring a file here; the answer's url is what image_url or video_url takes.

    Without data the answer has an upload_url, too: PUT the file's bytes there within the hour, with
    its content type. The url is good once that is done. This server reads no path of a file.
    """
    services, caller, base_url = _Call.of(ctx)
    caller.check_scope(Scope.FILES)
    await has_room(services)
    kind = content_type_of(content_type)
    new = NewUpload(
        key_id=caller.key_id, file_name=file_name_of(file_name, kind), content_type=kind
    )
    if data is None:
        upload = await services.uploads.begin(new, in_parts=False)
        url = services.file_links.url(base_url, upload.file_id, upload.file_name)
        upload_url = url_for(base_url, Service.FILES, f"/upload/{upload.id}")
        return _answer({"url": url, "upload_url": upload_url, "method": "PUT"})
    file = await services.uploads.receive(new, _chunks(_decoded(data)))
    url = services.file_links.url(base_url, file.id, file.name)
    return _answer({"url": url}, _link(file, url))


_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
_ENDS = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)
TOOLS: Mapping[Tool, ToolAnnotations] = {
    search_models: _READS,
    get_model_schema: _READS,
    get_pricing: _READS,
    run_model: _ADDS,
    submit_job: _ADDS,
    check_job: _READS,
    cancel_job: _ENDS,
    list_jobs: _READS,
    upload_file: _ADDS,
}


def tools() -> MCPServer:
    """The tools as the SDK serves them."""
    server: MCPServer = MCPServer(
        "cosmos-serve",
        version=version("cosmos-serve"),
        instructions=INSTRUCTIONS,
        subscriptions=False,
    )
    for tool, annotations in TOOLS.items():
        server.add_tool(_refusing_in_words(tool), description=getdoc(tool), annotations=annotations)
    return server


def _refusing_in_words(tool: Callable[P, Awaitable[CallToolResult]]) -> Callable[P, Any]:
    """The tool, whose refusals are sentences for the caller and no failures of the server."""

    @wraps(tool)
    async def called(*args: P.args, **kwargs: P.kwargs) -> CallToolResult:
        try:
            return await tool(*args, **kwargs)
        except Exception as error:
            refusal = error if isinstance(error, RequestError) else shortage_of(error)
            if refusal is None:
                raise
            raise ToolError(_sentence(refusal.body)) from error

    return called


def _request_of(ctx: Context) -> Request:
    """The request that calls a tool."""
    request: Request | None = ctx.request_context.request
    assert request is not None, "a tool was called by no request"
    return request


def _known(ctx: Context, endpoint_id: str) -> str:
    """The id of an endpoint whose weights are here."""
    known = _Call.of(ctx).services.limits.endpoints
    if endpoint_id not in known:
        raise BadRequest(f"There is no endpoint {endpoint_id!r} here, but {', '.join(known)}.")
    return endpoint_id


async def _submit(ctx: Context, endpoint_id: str, input: dict[str, Any]) -> Job:
    services, caller, base_url = _Call.of(ctx)
    caller.check_run("POST", f"/{_known(ctx, endpoint_id)}")
    if input.get("sync_mode"):
        raise BadRequest("Leave sync_mode out: the answer has the URL of the video, and not it.")
    await has_room(services)
    with services.traces.submit(endpoint_id, _request_of(ctx).headers) as traceparent:
        return await services.submissions.accept(
            Submission(
                endpoint=endpoint_id,
                # What JSON does not have, such as NaN, is refused where bodies are read.
                body=json.dumps(input).encode(),
                base_url=base_url,
                caller=caller,
                options=RequestOptions(),
                traceparent=traceparent,
            )
        )


async def _own(ctx: Context, request_id: str) -> JobSnapshot:
    """Where a job of the caller's stands."""
    services, caller, _ = _Call.of(ctx)
    caller.check_run("GET", "/")
    standing = (await services.statuses.get(request_id)).standing
    if standing.job.key_id != caller.key_id:
        raise UnknownJob
    return standing


async def _tell(ctx: Context, job: Job) -> None:
    """Tell the client each line of the job's log, if it asked to be told of progress."""
    told = 0
    async for news in _Call.of(ctx).services.statuses.news(job.id, with_logs=True):
        for line in news.lines:
            told += 1
            await ctx.report_progress(told, message=line.message)


def _where(job: Job) -> dict[str, Any]:
    view = {"request_id": job.id, "endpoint_id": job.endpoint, "status": job.status}
    return view if job.error is None else view | {"error": _sentence(job.error.body)}


def _status(standing: JobSnapshot) -> dict[str, Any]:
    view = _where(standing.job)
    if standing.job.status is JobStatus.IN_QUEUE:
        view["queue_position"] = standing.position
    if standing.lines:
        view["log"] = standing.lines[-1].message
    return view


async def _accepted(services: Services, job: Job) -> CallToolResult:
    """Where a job that was just submitted stands."""
    return _answer(_status((await services.statuses.get_patiently(job.id)).standing))


async def _result(services: Services, job: Job) -> CallToolResult:
    """The output of a job that is done, with the URL of its video."""
    if job.error is not None:
        raise ToolError(_sentence(job.error.body))
    assert job.result is not None, "a job ended with neither a result nor an error"
    video = await asyncio.to_thread(services.store.artifact, job.result["video"]["artifact"])
    if video is None:
        raise OutputExpired
    url = services.file_links.of_video(job, video)
    return _answer(_where(job) | output_view(job, video, url), _link(video, url))


def _link(file: StoredArtifact, url: str) -> ResourceLink:
    return ResourceLink(name=file.name, uri=url, mime_type=file.content_type, size=file.size)


def _answer(view: Mapping[str, Any], *links: ResourceLink) -> CallToolResult:
    """The view, as a text for models and as JSON for programs."""
    text = TextContent(text=as_json(view).decode())
    return CallToolResult(content=[text, *links], structured_content=dict(view))


def _sentence(body: Mapping[str, Any]) -> str:
    """What one of fal's errors says, in one line; where the input is at fault, with the fields."""
    detail = body["detail"]
    if isinstance(detail, str):
        return detail
    return "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in detail)


def _decoded(data: str) -> bytes:
    with suppress(binascii.Error, ValueError):
        decoded = base64.b64decode(data, validate=True)
        if len(decoded) <= MAX_UPLOAD_BYTES:
            return decoded
        raise BadRequest(
            f"The file is larger than {MAX_UPLOAD_BYTES:,} bytes, which is the limit for data. "
            "Leave data out, and put the file to the upload_url that the answer has."
        )
    raise BadRequest("data is not base64.")


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data
