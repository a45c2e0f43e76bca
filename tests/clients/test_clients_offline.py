"""The other client tests prove nothing if a client could reach the real fal: it cannot."""

import re

import pytest
from client_programs import run_node, run_python

pytestmark = pytest.mark.clients

ENDED = "exit code 86"


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.getaddrinfo('fal.run', 443)",
        "import socket; socket.create_connection(('192.0.2.1', 443))",
        "import httpx\ntry:\n    httpx.get('https://fal.run')\nexcept Exception:\n    pass",
        "import asyncio; asyncio.run(asyncio.open_connection('fal.run', 443))",
    ],
)
def test_python_ends_when_it_looks_for_another_host(code: str) -> None:
    with pytest.raises(AssertionError, match=ENDED):
        run_python(code, {})


@pytest.mark.parametrize(
    "code",
    [
        "await fetch('https://fal.run').catch(() => {});",
        "await fetch('http://192.0.2.1').catch(() => {});",
        "import net from 'node:net'; net.connect(443, 'fal.run').on('error', () => {});",
        "import dns from 'node:dns/promises'; await dns.lookup('fal.run').catch(() => {});",
    ],
)
def test_node_ends_when_it_looks_for_another_host(code: str) -> None:
    with pytest.raises(AssertionError, match=ENDED) as ended:
        run_node(code, {})
    assert re.search(r"looked for (fal\.run|192\.0\.2\.1)", str(ended.value))
