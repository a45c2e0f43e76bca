"""Calls of the tools of `/mcp`, as one request each and without the SDK's client."""

import json
from typing import Any

import httpx

ACCEPT = {
    "accept": "application/json, text/event-stream",
    "content-type": "application/json",
}


def message(tool: str, **arguments: Any) -> dict[str, Any]:
    """The message that calls a tool."""
    params = {"name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


async def call(
    client: httpx.AsyncClient, headers: dict[str, str], tool: str, **arguments: Any
) -> Any:
    """What a tool answers, or the sentence with which it refuses."""
    # By the standard library, which writes NaN, too.
    body = json.dumps(message(tool, **arguments))
    answer = await client.post("/mcp", content=body, headers=ACCEPT | headers)
    assert answer.status_code == 200, answer.text
    data = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    result = json.loads(data[-1])["result"]
    return result["content"][0]["text"] if result.get("isError") else result["structuredContent"]
