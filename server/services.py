"""What the routes work with: the parts of one server, and what is known of each request."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.responses import JSONResponse

from server.artifact_store import ArtifactStore
from server.auth import Authenticator, Caller
from server.errors import BodyTooLarge, UnknownJob, UnknownPath, job_error_headers
from server.job_store import JobStore
from server.jobs import CancelAnswer, Job
from server.keys import Scope
from server.pool import Pool
from server.public_files import PublicFiles
from server.schemas import ENDPOINTS, Limits, app_of
from server.settings import Settings
from server.signing import SigningKey
from server.submissions import Submissions
from server.uploads import Uploads
from server.views import output_view
from server.wake import Wakes
from server.webhooks import Webhooks

MAX_BODY_BYTES = 32 * 1024 * 1024
"""Room for the largest picture as a data URI."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of one server."""

    settings: Settings
    limits: Limits
    auth: Authenticator
    store: JobStore
    files: ArtifactStore
    public_files: PublicFiles
    uploads: Uploads
    submissions: Submissions
    pool: Pool
    wakes: Wakes
    webhooks: Webhooks
    signing_key: SigningKey

    async def find_job(self, app: str, job_id: str, caller: Caller) -> Job:
        """The caller's job, under its endpoint's path or the first two segments of that.

        Raises:
            UnknownJob: there is none of that id there, or it is somebody else's.
        """
        job = await asyncio.to_thread(self.store.job, job_id)
        if job.key_id != caller.key_id or app not in (job.endpoint, app_of(job.endpoint)):
            raise UnknownJob
        return job

    async def finished(self, job_id: str) -> Job:
        """Wait until the job is done."""
        while True:
            ticket = self.wakes.finished.ticket()
            job = await asyncio.to_thread(self.store.job, job_id)
            if job.done:
                return job
            await ticket.wait()

    async def cancel(self, job_id: str) -> CancelAnswer:
        """Ask for the job to be stopped; the answer is committed before it is given."""
        answer = await asyncio.to_thread(self.store.request_cancel, job_id)
        self.wakes.cancelled.notify()
        self.wakes.finished.notify()
        return answer

    async def output(self, job: Job) -> Response:
        """What a job that is done gives its caller: the output, or its error's own answer."""
        if job.error is not None:
            headers = job_error_headers(job.error)
            return JSONResponse(job.error.body, job.error.http_status, headers=headers)
        return JSONResponse(
            await asyncio.to_thread(self._output, job), headers={"x-fal-billable-units": "1"}
        )

    def _output(self, job: Job) -> dict[str, Any]:
        assert job.result is not None, "a job ended with neither a result nor an error"
        video = self.store.artifact(job.result["video"]["artifact"])
        assert video is not None, "a result names an artefact that has no row"
        return output_view(job, video, self.files.read)


async def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(services_of)]


async def _caller_of(request: Request, services: ServicesDep) -> Caller:
    """The caller, by the request's key or token."""
    token = request.query_params.get("fal_jwt_token")
    return await services.auth.caller(request.headers.get("authorization"), token)


_AnyCallerDep = Annotated[Caller, Depends(_caller_of)]


async def _runner_of(request: Request, caller: _AnyCallerDep) -> Caller:
    """A caller who may ask for videos."""
    # The front put the service's name before the path within it.
    path = "/" + request.scope["path"].lstrip("/").partition("/")[2]
    caller.check_run(request.method, path)
    return caller


async def _uploader_of(caller: _AnyCallerDep) -> Caller:
    """A caller who may keep files here."""
    caller.check_scope(Scope.FILES)
    return caller


async def base_url_of(request: Request) -> str:
    """How this caller reaches us: what every URL that the caller is given begins with."""
    base_url: str = request.state.base_url
    return base_url


async def known_endpoint(endpoint: str) -> str:
    """The id of an endpoint, from a path.

    Raises:
        UnknownPath: there is none of that id.
    """
    if endpoint not in ENDPOINTS:
        raise UnknownPath(f"/{endpoint}")
    return endpoint


async def body_of(request: Request) -> bytes:
    """The whole body.

    Raises:
        BodyTooLarge: it is larger than `MAX_BODY_BYTES`.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge(MAX_BODY_BYTES)
    return bytes(body)


CallerDep = Annotated[Caller, Depends(_runner_of)]
UploaderDep = Annotated[Caller, Depends(_uploader_of)]
BaseUrlDep = Annotated[str, Depends(base_url_of)]
EndpointDep = Annotated[str, Depends(known_endpoint)]
BodyDep = Annotated[bytes, Depends(body_of)]
