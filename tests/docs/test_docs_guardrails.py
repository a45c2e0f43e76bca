"""The program of docs/guardrails.md is an endpoint that the server can ask."""

import json
from typing import IO, Any

import httpx
import pytest
from page_blocks import blocks_of
from paths import DOCS

from pipeline.errors import ContentPolicyViolation
from server.outbound.fetch import Fetcher
from server.outbound.moderation import GuardrailUnavailable, Moderation


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("\n\nsafe", None),
        ("\n\nunsafe\nS1", ContentPolicyViolation),
        ("I cannot tell.", ContentPolicyViolation),
        (None, GuardrailUnavailable),
    ],
)
async def test_a_guard_model_is_asked_by_the_program_of_the_page(
    monkeypatch: pytest.MonkeyPatch, said: str | None, expected: type[Exception] | None
) -> None:
    (block,) = (b for b in blocks_of(DOCS / "guardrails.md") if b.language == "python")
    program: dict[str, Any] = {}
    exec(block.code, program)
    asked: list[dict[str, Any]] = []

    def model(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        if said is None:
            return httpx.Response(500)
        return httpx.Response(200, json={"choices": [{"message": {"content": said}}]})

    program["client"] = httpx.AsyncClient(transport=httpx.MockTransport(model))
    endpoint = httpx.AsyncClient(
        transport=httpx.ASGITransport(program["app"], raise_app_exceptions=False)
    )
    asking = Moderation("http://guard/v1/moderations")

    async def post(
        _: Fetcher, url: str, body: bytes, headers: Any, *, answer: IO[bytes], **_limits: Any
    ) -> int:
        response = await endpoint.post(url, content=body, headers=headers)
        answer.write(response.content)
        return response.status_code

    monkeypatch.setattr(Fetcher, "post", post)
    if expected is None:
        await asking.check_prompt("a red car")
    else:
        with pytest.raises(expected):
            await asking.check_prompt("a red car")
    assert asked[0]["messages"][0]["content"] == [{"type": "text", "text": "a red car"}]
