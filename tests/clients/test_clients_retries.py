"""When an answer is bad or lost, clients send the request again or do not: both goes well."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from client_cuts import LONG_PROMPT, cutting
from client_programs import run_node_file, run_python
from client_servers import KEY, ClientServer, serving_clients
from servers import ENDPOINT, request_of

pytestmark = pytest.mark.clients

PYTHON = """
import json, fal_client

arguments = json.loads('''ARGUMENTS''')
try:
    if CALL == "run":
        result = fal_client.run(ENDPOINT, arguments=arguments)
    else:
        result = fal_client.submit(ENDPOINT, arguments=arguments).get()
    print(json.dumps([result["seed"]]))
except fal_client.FalClientHTTPError as error:
    print(json.dumps([error.status_code, error.error_type]))
"""

Client = Callable[[ClientServer, str, dict[str, Any]], list[Any]]


def by_python(server: ClientServer, call: str, wish: dict[str, Any]) -> list[Any]:
    code = PYTHON.replace("ARGUMENTS", json.dumps(wish)).replace("ENDPOINT", repr(ENDPOINT))
    (line,) = run_python(code.replace("CALL", repr(call)), server.python)
    return list(json.loads(line))


def by_javascript(server: ClientServer, call: str, wish: dict[str, Any]) -> list[Any]:
    (shown,) = run_node_file("retries.mjs", server.node, way="fetch", call=call, input=wish)
    return list(shown)


@pytest.fixture(params=[by_python, by_javascript], ids=["fal-client", "@fal-ai/client"])
def client(request: pytest.FixtureRequest) -> Client:
    chosen: Client = request.param
    return chosen


def seed_for(client: Client, number: int) -> int:
    """A seed that no other test uses, to count the jobs by."""
    return 10 * number + (client is by_javascript)


def test_a_queue_that_is_full_for_a_moment_is_waited_for(
    client: Client, certificates: Path, tmp_path: Path
) -> None:
    with serving_clients(tmp_path, certificates, COSMOS_QUEUE_LIMIT="1") as server:
        authorized = {"authorization": f"Key {KEY}"}
        with httpx.Client(base_url=f"{server.http}/queue", headers=authorized) as queue:
            busy = queue.post(f"/{ENDPOINT}", json=request_of("sleep 1.2")).json()
            while queue.get(busy["status_url"]).json()["status"] == "IN_QUEUE":
                pass
            queue.post(f"/{ENDPOINT}", json=request_of()).raise_for_status()
            assert queue.post(f"/{ENDPOINT}", json=request_of()).status_code == 429

        assert client(server, "run", request_of(seed=7)) == [7]


def test_a_run_that_fails_is_not_sent_again(client: Client, client_server: ClientServer) -> None:
    seed = seed_for(client, 2001)

    answer = client(client_server, "run", request_of("raise", seed=seed))

    assert answer == [500, "internal_error"]
    assert client_server.jobs_with_seed(seed) == 1


@pytest.mark.parametrize(("call", "jobs"), [("run", 1), ("submit", 2)])
def test_a_request_whose_answer_is_lost_is_sent_again(
    client: Client, client_server: ClientServer, call: str, jobs: int
) -> None:
    """A run finds the first one again; a second submit is one more job, since it may be meant."""
    seed = seed_for(client, 3000 + jobs)
    wish = request_of(f"sleep 1{LONG_PROMPT}", seed=seed)
    is_python = client is by_python
    port = int((client_server.https if is_python else client_server.http).rpartition(":")[2])

    with cutting(port) as cut:
        assert client(client_server.at(port, cut), call, wish) == [seed]

    assert client_server.jobs_with_seed(seed) == jobs
