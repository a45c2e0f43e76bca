"""The Model Context Protocol: one path, to which the clients of language models post.

Who may come in is decided here as for every other path, before the SDK sees a byte. Requests do not
know each other: there are no sessions, so any process can answer any of them.
"""

import asyncio
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from server.api.dependencies import AnyCallerDep, JsonDep
from server.errors import McpMissing
from server.fal.urls import Service

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

PLAIN_TEXT = "text/plain; charset=utf-8"

router = APIRouter(prefix=f"/{Service.MCP.value}", include_in_schema=False)


@router.post("")
async def call(request: Request, caller: AnyCallerDep, body: JsonDep) -> Response:
    """Answer one message of the protocol."""
    if find_spec("mcp") is None:
        raise McpMissing
    request.state.caller = caller
    # In a thread: the first call imports the SDK, which takes a second or two.
    return _AnswerOfSdk(await asyncio.to_thread(_tools), body)


@cache
def _tools() -> "MCPServer":
    from server.api.mcp_tools import tools

    return tools()


class _AnswerOfSdk(Response):
    """What the SDK answers to a body that has been read."""

    def __init__(self, server: "MCPServer", body: bytes) -> None:
        super().__init__()
        self._server = server
        self._given = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from mcp.server.transport_security import TransportSecuritySettings

        unread = [self._given]

        async def receive_again() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await receive()

        async def send_typed(message: Message) -> None:
            # The SDK's refusals do not say what they are, and a browser would guess.
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault("content-type", PLAIN_TEXT)
            await send(message)

        # A manager of sessions runs once. This one does for one request, and nothing outlives it.
        self._server.streamable_http_app(
            stateless_http=True,
            # Host and Origin were checked by `server.api.middleware`.
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        manager = self._server.session_manager
        async with manager.run():
            await manager.handle_request(scope, receive_again, send_typed)
