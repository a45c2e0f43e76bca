"""uvicorn has what `server.connections.protocol` overrides and uses, some of which is private."""

import ast
import asyncio
import tomllib
from importlib.metadata import version

import pytest
import uvicorn
from packaging.requirements import Requirement
from paths import ROOT
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

OVERRIDDEN = {
    *{"connection_made", "connection_lost", "data_received"},
    *{"on_header", "on_headers_complete", "on_body", "on_message_complete"},
    *{"on_response_complete", "pause_writing", "resume_writing"},
    *{"send_400_response", "_unsupported_upgrade_warning"},
}
USED = {"_unset_keepalive_if_required", "cycle", "flow", "headers", "loop", "transport", "url"}
OF_THE_CYCLE = {
    *{"disconnected", "keep_alive", "message_event", "response_complete", "response_started"},
}
OF_THE_FLOW = {"resume_reading"}

ADVICE = "server/connections/protocol.py needs it: do not allow this uvicorn before that is mended"


async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
    pass


@pytest.fixture
async def protocol() -> HttpToolsProtocol:
    """uvicorn's own, after the head of a request."""
    config = uvicorn.Config(app, log_config=None)
    protocol = HttpToolsProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    protocol.connection_made(asyncio.Transport())
    protocol.data_received(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
    return protocol


def test_uvicorn_is_within_the_bounds_that_the_suite_passed_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (bounds,) = (r for r in map(Requirement, project["dependencies"]) if r.name == "uvicorn")
    assert {bound.operator for bound in bounds.specifier} == {">=", "<"}
    assert version("uvicorn") in bounds.specifier, (
        f"uvicorn {version('uvicorn')} is installed; {bounds} is what the suite passed on"
    )


@pytest.mark.parametrize("name", sorted(OVERRIDDEN | USED))
async def test_the_protocol_has_this_member(protocol: HttpToolsProtocol, name: str) -> None:
    assert hasattr(protocol, name), f"HttpToolsProtocol has no {name}. {ADVICE}"


@pytest.mark.parametrize("name", sorted(OF_THE_CYCLE))
async def test_the_cycle_has_this_member(protocol: HttpToolsProtocol, name: str) -> None:
    assert hasattr(protocol.cycle, name), f"a request's cycle has no {name}. {ADVICE}"


@pytest.mark.parametrize("name", sorted(OF_THE_FLOW))
async def test_the_flow_has_this_member(protocol: HttpToolsProtocol, name: str) -> None:
    assert hasattr(protocol.flow, name), f"the flow of a connection has no {name}. {ADVICE}"


def test_there_is_a_status_line_for_every_refusal() -> None:
    assert {400, 408, 431, 503} <= STATUS_LINE.keys(), ADVICE


def test_the_members_named_here_are_those_in_use() -> None:
    tree = ast.parse((ROOT / "server" / "connections" / "protocol.py").read_text())
    (ours,) = (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == "BoundedHttp")
    defined = {node.name for node in ours.body if isinstance(node, ast.FunctionDef)}
    attributes = [node for node in ast.walk(ours) if isinstance(node, ast.Attribute)]
    set_by_us = {a.attr for a in attributes if isinstance(a.ctx, ast.Store)}
    of = {ast.unparse(a.value): set[str]() for a in attributes}
    for attribute in attributes:
        of[ast.unparse(attribute.value)].add(attribute.attr)

    assert of["self"] - defined - set_by_us == USED
    assert defined & vars(HttpToolsProtocol).keys() - {"__init__"} == OVERRIDDEN
    assert of["self.cycle"] == OF_THE_CYCLE
    assert of["self.flow"] == OF_THE_FLOW
