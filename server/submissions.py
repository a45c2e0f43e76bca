"""A request's body becomes a row: accepted means committed, and the seed is fixed from then on."""

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any

from server.artifact_store import ArtifactStore
from server.auth import Caller
from server.errors import InvalidInput, QueueFull, job_error
from server.intake import decode_data_uri, is_data_uri
from server.job_store import JobStore
from server.jobs import Job, NewJob, StoredArtifact
from server.schemas import ENDPOINTS, Limits, Order, read_order
from server.wake import Wakes


class Submissions:
    """Takes requests in. Both methods return the job as it was committed."""

    def __init__(
        self,
        store: JobStore,
        files: ArtifactStore,
        limits: Limits,
        wakes: Wakes,
        *,
        queue_limit: int,
    ) -> None:
        self._store = store
        self._files = files
        self._limits = limits
        self._wakes = wakes
        self._queue_limit = queue_limit

    async def accept(
        self,
        endpoint: str,
        body: bytes,
        base_url: str,
        caller: Caller,
        *,
        webhook_url: str | None = None,
    ) -> Job:
        """Take a request in.

        Raises:
            InvalidInput: the input cannot be used; nothing is committed.
            QueueFull: as many jobs wait as may wait.
        """
        job = await asyncio.to_thread(self._accept, endpoint, body, base_url, caller, webhook_url)
        self._wakes.submitted.notify()
        return job

    async def accept_even_if_invalid(
        self,
        endpoint: str,
        body: bytes,
        base_url: str,
        caller: Caller,
        *,
        webhook_url: str | None = None,
    ) -> Job:
        """Take a request in; invalid input makes a job that has already failed with its 422.

        Raises:
            QueueFull: as many jobs wait as may wait.
        """
        try:
            return await self.accept(endpoint, body, base_url, caller, webhook_url=webhook_url)
        except InvalidInput as error:
            new = NewJob(
                id=str(uuid.uuid4()),
                endpoint=endpoint,
                base_url=base_url,
                key_id=caller.key_id,
                input={},
                tier=None,
                webhook_url=webhook_url,
                error=job_error(error),
            )
            return await asyncio.to_thread(self._store.submit, new, queue_limit=self._queue_limit)

    def _accept(
        self, endpoint: str, body: bytes, base_url: str, caller: Caller, webhook_url: str | None
    ) -> Job:
        order = read_order(endpoint, body, self._limits)
        # Asked again when the row is written; this spares the disk a picture that has no job.
        if self._store.queued() >= self._queue_limit:
            raise QueueFull(self._queue_limit)
        fields = ENDPOINTS[endpoint].media_fields
        kept = {
            name: self._keep(url, fields[name])
            for name, url in order.media.items()
            if is_data_uri(url)
        }
        new = NewJob(
            id=str(uuid.uuid4()),
            endpoint=endpoint,
            base_url=base_url,
            key_id=caller.key_id,
            input=_input_of(order, kept),
            tier=order.spec.tier.value,
            webhook_url=webhook_url,
        )
        return self._store.submit(new, queue_limit=self._queue_limit, artifacts=kept.values())

    def _keep(self, data_uri: str, field: str) -> StoredArtifact:
        data = decode_data_uri(data_uri, field)
        return self._files.keep_bytes("image", data, content_type="application/octet-stream")


def _input_of(order: Order, kept: Mapping[str, StoredArtifact]) -> dict[str, Any]:
    """What the row says of the input: media are URLs, or artefacts where the bytes were sent."""
    media = {
        name: {"artifact": kept[name].id} if name in kept else {"url": url}
        for name, url in order.media.items()
    }
    return {"spec": order.spec.to_json(), "media": media, "sync_mode": order.sync_mode}
