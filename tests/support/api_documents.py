"""The documents of the API as callers read them, for the checkpoints that are published."""

import json
from functools import cache
from typing import Any

from servers import ENDPOINT

from pipeline.spec import Sampler
from server.api.openapi.document import openapi_document
from server.api.openapi.queue import queue_document
from server.api.router import api_routes
from server.config.setting_types import FilesAuth
from server.fal.endpoints import Limits

BASE_URL = "https://videos.example/cosmos"
PUBLISHED = Limits(1280, 704, samplers=frozenset(Sampler))
LLMS = f"/models/{ENDPOINT}/llms.txt"


def published(endpoint: str = ENDPOINT) -> dict[str, Any]:
    """The queue's document for the published checkpoints, as a caller reads it."""
    document = queue_document(endpoint, BASE_URL, PUBLISHED)
    read: dict[str, Any] = json.loads(json.dumps(document))
    return read


def own(*, needs_key: bool = True, files_auth: FilesAuth = "public") -> dict[str, Any]:
    """This server's own document, as a caller reads it."""
    read: dict[str, Any] = json.loads(_own_text(needs_key, files_auth))
    return read


@cache
def _own_text(needs_key: bool, files_auth: FilesAuth) -> str:
    routes = api_routes(files_auth, "all")
    document = openapi_document(routes, PUBLISHED, needs_key=needs_key)
    return json.dumps(document | {"servers": [{"url": BASE_URL}]})
