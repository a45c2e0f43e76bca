"""The Vercel AI SDK with its fal provider, which asks for nothing but the result, again and again.

The lines that docs/clients.md has for it are run by test_clients_docs.py.
"""

from typing import Any

import pytest
from client_programs import run_node_file
from client_servers import ClientServer
from servers import request_of

pytestmark = pytest.mark.clients


def generate(server: ClientServer, prompt: str, **options: Any) -> list[Any]:
    return run_node_file(
        "ai_sdk.mjs", server.node, input=request_of(prompt, seed=7), options=options
    )


@pytest.mark.shows("@ai-sdk/fal 2.0.59", "submit", "result")
def test_a_video_comes_in_the_answer_after_some_polls(client_server: ClientServer) -> None:
    video, asked = generate(client_server, "sleep 0.3", num_inference_steps=2)

    assert video == ["video/mp4", 65536]
    assert asked[:2] == ["POST 200", "GET 400"]
    assert asked[-1] == "GET 200"


@pytest.mark.shows("@ai-sdk/fal 2.0.59", "validation error")
def test_invalid_input_is_an_error_with_the_servers_answer(client_server: ClientServer) -> None:
    (name, status, detail), _ = generate(client_server, "a red car", num_frames=8)

    assert (name, status) == ("AI_APICallError", 422)
    assert detail[0]["loc"] == ["body", "num_frames"]


def test_a_failure_of_the_server_is_an_error_with_its_answer(client_server: ClientServer) -> None:
    (name, status, detail), _ = generate(client_server, "raise")

    assert (name, status) == ("AI_APICallError", 500)
    assert isinstance(detail, str)
