"""The documents of the API as callers read them, for the checkpoint that is published."""

import json
from typing import Any

from servers import ENDPOINT

from server.api.openapi.document import openapi_document
from server.api.openapi.queue import queue_document
from server.fal.endpoints import Limits

BASE_URL = "https://videos.example/cosmos"
PUBLISHED = Limits(1280, 704)
LLMS = f"/models/{ENDPOINT}/llms.txt"


def published() -> dict[str, Any]:
    """The queue's document for the published checkpoint, as a caller reads it."""
    document = queue_document(ENDPOINT, BASE_URL, PUBLISHED)
    read: dict[str, Any] = json.loads(json.dumps(document))
    return read


def own(*, needs_key: bool = True) -> dict[str, Any]:
    """This server's own document, as a caller reads it."""
    document = openapi_document(BASE_URL, PUBLISHED, needs_key=needs_key)
    read: dict[str, Any] = json.loads(json.dumps(document))
    return read
