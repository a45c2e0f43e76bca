"""All endpoints by the clients that most people use."""

import json

import pytest
from client_programs import run_node_file, run_python
from client_servers import ClientServer
from servers import request_for_each

pytestmark = pytest.mark.clients

REQUESTS = {endpoint: body | {"seed": 7} for endpoint, body in request_for_each().items()}
MADE = [[endpoint, 7, 65536] for endpoint in REQUESTS]

PROGRAM = """
import json
import fal_client

for endpoint, arguments in json.loads('''REQUESTS''').items():
    result = fal_client.subscribe(endpoint, arguments=arguments)
    print(json.dumps([endpoint, result["seed"], result["video"]["file_size"]]))
"""


@pytest.mark.shows("fal-client 1.0.3", "submit", "result")
def test_fal_client_gets_a_video_of_each(client_server: ClientServer) -> None:
    code = PROGRAM.replace("REQUESTS", json.dumps(REQUESTS))

    assert [json.loads(line) for line in run_python(code, client_server.python)] == MADE


@pytest.mark.shows("@fal-ai/client 1.10.1 in Node", "submit", "result", "upload")
def test_the_javascript_client_gets_a_video_of_each(client_server: ClientServer) -> None:
    shown = run_node_file("endpoints.mjs", client_server.node, way="proxy", requests=REQUESTS)

    assert shown == MADE


@pytest.mark.shows("@ai-sdk/fal 2.0.59", "submit", "result")
@pytest.mark.parametrize("endpoint", REQUESTS)
def test_the_ai_sdk_gets_a_video_of_each(client_server: ClientServer, endpoint: str) -> None:
    given = REQUESTS[endpoint]
    options = {name: given[name] for name in ("num_inference_steps", "video_url") if name in given}
    video, _ = run_node_file(
        "ai_sdk.mjs", client_server.node, endpoint=endpoint, input=given, options=options
    )

    assert video == ["video/mp4", 65536]
