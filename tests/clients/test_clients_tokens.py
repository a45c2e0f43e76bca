"""The JavaScript client's own way to stream without sending its key: by a token of `/tokens/`."""

import pytest
from client_programs import run_node_file
from client_servers import ClientServer
from servers import request_of

pytestmark = pytest.mark.clients


@pytest.mark.shows("@fal-ai/client 1.10.1 in Node", "streaming")
def test_a_client_that_streams_by_token_gets_the_output(client_server: ClientServer) -> None:
    # Of the ways to point the client here, only `fetch` moves the stream itself.
    given = {"connectionMode": "client", "input": request_of(seed=7)}
    ((count, last),) = run_node_file("stream.mjs", client_server.node, way="fetch", **given)

    assert count >= 1
    assert last["seed"] == 7
