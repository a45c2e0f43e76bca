"""The moments at which a server that is killed could lose something, each with a name.

The server knows nothing of them. `arm` wraps, in this process, what every such moment passes:
a transaction of a store, the naming of a file or a request to the bucket, and the sending of a
webhook.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import obstore
from sqlalchemy import Connection

from server.db.database import Database
from server.files.upload_store import UploadStore
from server.jobs.store import JobStore
from server.outbound.fetch import Fetcher
from server.webhooks.store import WebhookStore

TRANSACTIONS: Mapping[str, tuple[Callable[..., object], ...]] = {
    "submit": (JobStore.submit,),
    "input": (JobStore.set_inputs, JobStore.refuse_inputs),
    "claim": (JobStore.claim,),
    "record": (JobStore.record,),
    "end": (JobStore.finish,),
    "cancel": (JobStore.request_cancel,),
    "give back": (JobStore.give_back,),
    "death": (JobStore.worker_died,),
    "recover": (JobStore.recover, JobStore.take_over),
    "upload": (UploadStore.add_file, UploadStore.finish, UploadStore.add_part),
    "webhook claim": (WebhookStore.claim,),
    "webhook end": (
        WebhookStore.delivered,
        WebhookStore.failed,
        WebhookStore.given_up,
        WebhookStore.give_back,
    ),
}
"""The transactions that others rely on, and the methods that make them."""

FILE_WRITTEN = "file written"
"""A file is whole and on the disk, and does not have its name yet."""
FILE_NAMED = "file named"
"""It has its name, and no row that is committed knows it yet."""
REQUESTS: Mapping[str, tuple[str, ...]] = {
    "put": ("put",),
    "get": ("get", "get_range"),
    "delete": ("delete",),
    "list": ("list",),
}
"""The requests to a bucket, and the functions of obstore that make them."""

PART_SENT = "object put in part"
"""A part of a large object is on its way, and the rest is not."""
WEBHOOK_SENT = "webhook sent"
"""The receiver has answered, and no row knows it yet."""

_NAMES = {method.__code__: name for name, methods in TRANSACTIONS.items() for method in methods}


def around(transaction: str) -> tuple[str, str]:
    """The moments at which all is written and nothing committed, and at which it is committed and
    nobody has been told."""
    assert transaction in TRANSACTIONS
    return f"{transaction}, uncommitted", f"{transaction}, committed"


def around_request(request: str) -> tuple[str, str]:
    """The moments before it is sent, and after its answer."""
    assert request in REQUESTS
    return f"object {request}, unsent", f"object {request}, answered"


_ANYWHERE = (
    *(point for transaction in TRANSACTIONS for point in around(transaction)),
    WEBHOOK_SENT,
)
POINTS = (*_ANYWHERE, FILE_WRITTEN, FILE_NAMED)
"""Those of a server whose files are in its folder."""
POINTS_WITH_BUCKET = (
    *_ANYWHERE,
    *(point for request in REQUESTS for point in around_request(request)),
    PART_SENT,
)
"""Those of a server whose files are in S3."""


def arm(point: str, action: Callable[[], object]) -> None:
    """Have `action` called, in whatever thread it is, whenever this process passes the point."""
    assert point in {*POINTS, *POINTS_WITH_BUCKET}, f"there is no failpoint {point!r}"
    write, replace, post = Database.write, os.replace, Fetcher.post

    def pass_point(passed: str) -> None:
        if passed == point:
            action()

    @contextmanager
    def write_and_pass(database: Database) -> Iterator[Connection]:
        transaction = _caller()
        with write(database) as connection:
            yield connection
            if transaction is not None:
                pass_point(around(transaction)[0])
        if transaction is not None:
            pass_point(around(transaction)[1])

    def replace_and_pass(source: Path, target: Path) -> None:
        is_kept = Path(target).parent.parent.name == "files"
        if is_kept:
            pass_point(FILE_WRITTEN)
        replace(source, target)
        if is_kept:
            pass_point(FILE_NAMED)

    async def post_and_pass(*arguments: Any, **named: Any) -> int:
        status = await post(*arguments, **named)
        pass_point(WEBHOOK_SENT)
        return status

    _wrap_requests(pass_point)
    patch.object(Database, "write", write_and_pass).start()
    patch.object(os, "replace", replace_and_pass).start()
    patch.object(Fetcher, "post", post_and_pass).start()


def _wrap_requests(pass_point: Callable[[str], None]) -> None:
    for request, names in REQUESTS.items():
        for name in names:
            asked = _wrapped(request, getattr(obstore, name), pass_point)
            patch.object(obstore, name, asked).start()


def _wrapped(
    request: str, ask: Callable[..., Any], pass_point: Callable[[str], None]
) -> Callable[..., Any]:
    unsent, answered = around_request(request)

    def parts_of(pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            yield piece
            pass_point(PART_SENT)

    def ask_and_pass(store: Any, what: Any = None, *data: Any, **named: Any) -> Any:
        if "check-" in str(what):  # whether the bucket can be used
            return ask(store, what, *data, **named)
        pass_point(unsent)
        pieces = [each if isinstance(each, bytes) else parts_of(each) for each in data]
        answer = ask(store, what, *pieces, **named)
        pass_point(answered)
        return answer

    return ask_and_pass


def _caller() -> str | None:
    """The transaction whose method called this; None if none did."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code in _NAMES:
            return _NAMES[frame.f_code]
        frame = frame.f_back
    return None
