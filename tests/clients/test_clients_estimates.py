"""A queued status has an estimate, which fal's clients do not know: they go on as without it."""

import json
from typing import Any

import pytest
from client_programs import run_node_file, run_python
from client_servers import ClientServer
from servers import ENDPOINT, request_of

pytestmark = pytest.mark.clients

PYTHON = f"""
import json
import fal_client

endpoint, arguments = "{ENDPOINT}", json.loads('''ARGUMENTS''')
first = fal_client.submit(endpoint, arguments=arguments | {{"prompt": "sleep 1"}})
second = fal_client.submit(endpoint, arguments=arguments)
raw = second.client.get(second.status_url).json()
print(json.dumps([raw["status"], *sorted(raw.get("estimate", {{}}))]))
events = list(second.iter_events(interval=0.05))
print(json.dumps([type(event).__name__ for event in (events[0], events[-1])]))
print(json.dumps(events[0].position))
print(json.dumps(second.get()["seed"]))
"""
FIELDS = ["seconds", "stage_seconds", "starts_at", "wait_seconds"]


def test_the_python_client_reads_the_position_and_goes_on(client_server: ClientServer) -> None:
    code = PYTHON.replace("ARGUMENTS", json.dumps(request_of(seed=7)))
    told, kinds, position, seed = map(json.loads, run_python(code, client_server.python))
    assert told == ["IN_QUEUE", *FIELDS]
    assert (kinds, seed) == (["Queued", "Completed"], 7)
    assert position in (0, 1)


@pytest.mark.parametrize("mode", ["polling", "streaming"])
def test_the_javascript_client_subscribes_as_before(client_server: ClientServer, mode: str) -> None:
    given: dict[str, Any] = {"way": "proxy", "mode": mode}
    first, second = request_of("sleep 1"), request_of(seed=7)
    told, statuses, output = run_node_file(
        "estimates.mjs", client_server.node, first=first, second=second, **given
    )
    assert told == FIELDS
    assert (statuses[0], statuses[-1], output) == ("IN_QUEUE", "COMPLETED", [7])
