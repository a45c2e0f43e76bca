"""What the routes work with: the parts of one server, and what is known of each request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Path, Request, Security
from fastapi.security import APIKeyHeader

from pipeline.guardrail import GuardrailKind
from server.api.bodies import BodyReader
from server.api.metrics import Metrics
from server.api.readiness import Readiness
from server.api.results import Results
from server.api.status_cache import StatusCache
from server.auth.authenticator import Authenticator, Caller
from server.config.settings import Settings
from server.db.database import Database
from server.db.peers import Alone, Peers
from server.disk import DiskSpace
from server.dispatch.drain import Drain
from server.dispatch.previews import Previews
from server.errors import UnknownPath
from server.fal.endpoints import Limits
from server.fal.headers import read_options
from server.fal.prices import Prices
from server.files.access import FileAccess
from server.files.links import FileLinks
from server.files.local import LocalFiles
from server.files.public import PublicFiles
from server.files.uploads import Uploads
from server.inputs.disconnects import DisconnectedRuns
from server.inputs.image_store import ImageStore
from server.inputs.submit import Submission, Submissions
from server.jobs.estimates import Estimates
from server.jobs.retention import Retention
from server.jobs.store import JobStore
from server.keys import Scope
from server.models import RequestOptions
from server.outbound.moderation import Moderation
from server.tasks import Loops, Signals
from server.tracing.traces import Traces
from server.webhooks.sender import Webhooks
from server.workers.pool import Pool

if TYPE_CHECKING:
    from server.files.s3 import S3Files

MAX_BODY_BYTES = 32 * 1024 * 1024
"""Room for the largest picture as a data URI."""

MAX_JSON_BYTES = 2 * 1024 * 1024
"""Room for the list of as many parts as an upload may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of one server."""

    settings: Settings
    limits: Limits
    guardrail: GuardrailKind
    prices: Prices
    moderation: Moderation | None
    auth: Authenticator
    store: JobStore
    files: "LocalFiles | S3Files"
    public_files: PublicFiles
    file_links: FileLinks
    file_access: FileAccess
    uploads: Uploads
    submissions: Submissions
    statuses: StatusCache
    estimates: Estimates
    results: Results
    images: ImageStore
    retention: Retention
    runs: DisconnectedRuns
    pool: Pool
    peers: Peers | Alone
    signals: Signals
    webhooks: Webhooks
    drain: Drain
    disk: DiskSpace
    metrics: Metrics
    loops: Loops
    readiness: Readiness
    database: Database
    bodies: BodyReader
    traces: Traces
    previews: Previews = field(default_factory=Previews)


async def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(services_of)]


_KEY = APIKeyHeader(
    name="Authorization",
    scheme_name="key",
    description="The word `Key`, a space, and a key of this server.",
    auto_error=False,
)


async def caller_of(
    request: Request, services: ServicesDep, _: Annotated[str | None, Security(_KEY)] = None
) -> Caller:
    """The caller, by the request's key, token or session."""
    authorization = request.headers.get("authorization")
    token = request.query_params.get("fal_jwt_token")
    # The browser adds its cookie by itself: what was named for this request goes before it.
    session = request.state.session if authorization is None and token is None else None
    caller = await services.auth.caller(authorization, token, session)
    begin_with_key(request, services, caller.key_id, session)
    return caller


def begin_with_key(
    request: Request, services: Services, key_id: str | None, session: str | None = None
) -> None:
    """Note whose request this is: it goes on as long as the key, and the session, is good."""
    request.state.key_id = key_id
    request.state.may_go_on = partial(services.auth.is_good, key_id, session)


AnyCallerDep = Annotated[Caller, Depends(caller_of)]


async def has_room(services: ServicesDep) -> None:
    """Let nothing in for which the disk has no room."""
    await asyncio.to_thread(services.disk.check)


async def _runner_of(request: Request, caller: AnyCallerDep) -> Caller:
    """A caller who may ask for videos."""
    # The front put the service's name before the path within it.
    path = "/" + request.scope["path"].lstrip("/").partition("/")[2]
    caller.check_run(request.method, path)
    return caller


async def _reader_of(request: Request, caller: AnyCallerDep) -> Caller:
    """A caller who may see requests: its own, or, as an operator, those of all keys."""
    return caller if Scope.ADMIN in caller.scopes else await _runner_of(request, caller)


async def _uploader_of(caller: AnyCallerDep) -> Caller:
    """A caller who may keep files here."""
    caller.check_scope(Scope.FILES)
    return caller


async def _admin_of(caller: AnyCallerDep) -> Caller:
    """Somebody who runs this server."""
    caller.check_scope(Scope.ADMIN)
    return caller


async def base_url_of(request: Request) -> str:
    """How this caller reaches us: what every URL that the caller is given begins with."""
    base_url: str = request.state.base_url
    return base_url


async def known_endpoint(
    endpoint: Annotated[str, Path(include_in_schema=False)], services: ServicesDep
) -> str:
    """The id of an endpoint, from a path.

    Raises:
        UnknownPath: there is none of that id, or its weights are not here.
    """
    if endpoint not in services.limits.endpoints:
        raise UnknownPath(f"/{endpoint}")
    return endpoint


async def _json_of(request: Request, services: ServicesDep) -> bytes:
    """The whole body of a request that sends no picture. Its key was noted by what came before."""
    key_id = request.state.key_id
    async with services.bodies.read(request, key_id=key_id, max_bytes=MAX_JSON_BYTES) as body:
        await services.auth.check_key(key_id)
        return body


CallerDep = Annotated[Caller, Depends(_runner_of)]
ReaderDep = Annotated[Caller, Depends(_reader_of)]
UploaderDep = Annotated[Caller, Depends(_uploader_of)]
AdminDep = Annotated[Caller, Depends(_admin_of)]
BaseUrlDep = Annotated[str, Depends(base_url_of)]
EndpointDep = Annotated[str, Depends(known_endpoint)]
JsonDep = Annotated[bytes, Depends(_json_of)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A request for a video whose body is not yet read."""

    request: Request
    bodies: BodyReader
    auth: Authenticator
    traces: Traces
    endpoint: str
    caller: Caller
    base_url: str
    options: RequestOptions

    @asynccontextmanager
    async def read(self, *, webhook_url: str | None = None) -> AsyncIterator[Submission]:
        """The whole request; its body is to be kept no longer than the block.

        The body may have taken its time: the key has to be good still.
        """
        key_id = self.caller.key_id
        reading = self.bodies.read(self.request, key_id=key_id, max_bytes=MAX_BODY_BYTES)
        tracing = self.traces.submit(self.endpoint, self.request.headers)
        with tracing as traceparent:
            async with reading as body:
                await self.auth.check_key(key_id)
                yield Submission(
                    endpoint=self.endpoint,
                    body=body,
                    base_url=self.base_url,
                    caller=self.caller,
                    options=self.options,
                    webhook_url=webhook_url,
                    traceparent=traceparent,
                )


async def _incoming(
    request: Request,
    services: ServicesDep,
    endpoint: EndpointDep,
    caller: CallerDep,
    base_url: BaseUrlDep,
) -> Incoming:
    """A request for a video."""
    await asyncio.to_thread(services.disk.check)
    return Incoming(
        request=request,
        bodies=services.bodies,
        auth=services.auth,
        traces=services.traces,
        endpoint=endpoint,
        caller=caller,
        base_url=base_url,
        options=read_options(request.headers),
    )


IncomingDep = Annotated[Incoming, Depends(_incoming)]
