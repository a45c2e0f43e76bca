"""The house's shape: who may import whom, and how long a file may be.

The imports are read from the source, so a lazy import inside a function counts like any other.
"""

import ast
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from paths import ROOT

LAYERS = ["weights", "pipeline", "server"]
"""Each may import itself and those before it."""

VALUES = {
    *{"models", "keys", "hosts", "errors", "config"},
    *{"data_folder", "disk", "part_file", "tasks"},
}
"""What every package may import: the settings, and small modules at the root of `server/`."""

MAY_IMPORT: dict[str, set[str]] = {
    **{name: set() for name in ("models", "keys", "hosts", "part_file", "log")},
    **dict.fromkeys(("outbound", "fal", "db"), VALUES),
    "workers": {"log", *VALUES},
    "tracing": {"workers", *VALUES},
    "data_folder": {"part_file"},
    "errors": {"models"},
    "config": {"hosts", "keys"},
    "disk": {"errors"},
    "tasks": {"disk", "errors"},
    "connections": {"errors"},
    "auth": {"db", *VALUES},
    "files": {"auth", "db", "fal", *VALUES},
    "jobs": {"db", "files", *VALUES},
    "openai": {"fal", "jobs", *VALUES},
    "inputs": {"auth", "db", "fal", "files", "jobs", "outbound", *VALUES},
    "dispatch": {"fal", "files", "jobs", "outbound", "tracing", "workers", *VALUES},
    "webhooks": {"db", "fal", "files", "jobs", "outbound", *VALUES},
    "sweeper": {"jobs", *VALUES},
    "api": {
        *{"auth", "db", "dispatch", "doctor", "fal", "files", "inputs", "jobs", "outbound"},
        *{"openai", "tracing", "webhooks", "workers", *VALUES},
    },
    "services": {
        *{"api", "auth", "db", "dispatch", "fal", "files", "inputs", "jobs", "outbound"},
        *{"sweeper", "tracing", "webhooks", "workers", *VALUES},
    },
    "app": {
        *{"api", "auth", "db", "dispatch", "files", "inputs", "jobs", "outbound", "services"},
        "sweeper",
        *{"workers", *VALUES},
    },
    "serve": {"app", "connections", "dispatch", "log", "workers", *VALUES},
    "doctor": {"db", "fal", "files", "outbound", "workers", *VALUES},
    "cli": {
        *{"auth", "db", "doctor", "fal", "files", "jobs", "log", "outbound", "serve"},
        "workers",
        *VALUES,
    },
}
"""What each package of `server/`, and each module at its root, may import of the others. `inputs`,
`dispatch` and `webhooks` do not know each other: they meet in the rows of jobs."""

MAX_ROOT_MODULES = 13
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

TORCH_AND_ITS_KIN = {"torch", "diffusers", "transformers", "accelerate", "triton"}
TORCH_FREE = {
    "pipeline.spec",
    "pipeline.errors",
    "pipeline.progress",
    "pipeline.image",
    "pipeline.clip",
    "pipeline.image_kind",
    "pipeline.colour",
    "pipeline.jpeg",
    "pipeline.png",
    "pipeline.child_process",
    "pipeline.encode",
    "pipeline.ffmpeg",
    "pipeline.thumbnail",
    "pipeline.work",
}
"""The modules of the pipeline that the server imports where there is no torch."""

NETWORK_CLIENTS = {
    *{"httpx", "httpx2", "httpcore", "httpcore2", "requests", "aiohttp", "urllib3", "niquests"},
    *{"pycurl", "websockets", "ftplib", "smtplib", "imaplib", "poplib", "telnetlib", "paramiko"},
    *{"huggingface_hub", "obstore"},
}
CONNECTING = {
    *{"connect", "connect_ex", "create_connection", "open_connection", "sock_connect", "sendto"},
    *{"connect_tcp", "create_datagram_endpoint", "urlopen", "urlretrieve"},
}
"""Names of functions that open a connection, or send without one."""


@dataclass(frozen=True, slots=True)
class Module:
    """A file of one of the three packages."""

    name: str
    path: Path
    tree: ast.Module
    lines: int

    @property
    def layer(self) -> str:
        return self.name.partition(".")[0]


@cache
def modules() -> dict[str, Module]:
    found = {}
    for layer in LAYERS:
        for path in sorted((ROOT / layer).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            source = path.read_text()
            found[name] = Module(name, path, ast.parse(source), len(source.splitlines()))
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """Every name that is imported anywhere in the tree: `a.b` and, of `from a.b import c`,
    `a.b` and `a.b.c`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(names: Iterator[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def imported_when_loaded(tree: ast.Module) -> Iterator[str]:
    """The imports that run when the module is imported: not those in functions, nor those that
    only a type checker follows."""

    def outside_of_functions(nodes: list[ast.stmt]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from imported(node)
            elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                yield from outside_of_functions(node.orelse)
            elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for field in ("body", "orelse", "finalbody"):
                    yield from outside_of_functions(getattr(node, field, []))

    return outside_of_functions(tree.body)


def loaded_with(name: str) -> dict[str, str]:
    """Our modules that importing `name` imports too, each with the one that asks for it."""
    reached = {name: name}
    waiting = [name]
    while waiting:
        asking = waiting.pop()
        for wanted in imported_when_loaded(modules()[asking].tree):
            if wanted in modules() and wanted not in reached:
                reached[wanted] = asking
                waiting.append(wanted)
    return reached


def test_the_packages_are_found() -> None:
    assert {
        "server.workers.messages",
        "pipeline.spec",
        "weights.stand_in.checkpoint",
    } <= modules().keys()


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_one_way(layer: str) -> None:
    above = set(LAYERS[LAYERS.index(layer) + 1 :]) | {"tests", "benchmarks"}
    wrong = {
        module.name: sorted(packages(imported(module.tree)) & above)
        for module in modules().values()
        if module.layer == layer and packages(imported(module.tree)) & above
    }
    assert wrong == {}


def parts_of_the_server() -> set[str]:
    """The packages of `server/`, and the modules at its root."""
    return {name.split(".")[1] for name in modules() if name.startswith("server.")} - {"__init__"}


def test_every_part_of_the_server_says_what_it_may_import() -> None:
    assert MAY_IMPORT.keys() == parts_of_the_server()


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_the_server_s_parts_import_only_what_they_may(part: str) -> None:
    wrong = {
        module.name: sorted(others)
        for module in modules().values()
        if module.name.split(".")[:2] == ["server", part]
        if (others := _parts_imported(module.tree) - MAY_IMPORT[part] - {part})
    }
    assert wrong == {}


def test_no_part_of_the_server_is_above_itself() -> None:
    """Sorting fails with the circle, if there is one."""
    order = list(TopologicalSorter(MAY_IMPORT).static_order())
    assert order.index("jobs") < order.index("inputs") < order.index("api") < order.index("cli")


def test_the_root_of_the_server_stays_small() -> None:
    at_root = [name for name, module in modules().items() if module.path.parent == ROOT / "server"]
    assert len(at_root) <= MAX_ROOT_MODULES, at_root


def test_imports_are_absolute() -> None:
    relative = [
        f"{module.name}:{node.lineno}"
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]
    assert relative == []


def test_only_the_worker_reaches_the_model_from_the_server() -> None:
    """Neither torch nor a module of this project that imports it, not even inside a function."""
    needing_torch = {
        name
        for name in modules()
        if any(
            packages(imported_when_loaded(modules()[reached].tree)) & TORCH_AND_ITS_KIN
            for reached in loaded_with(name)
        )
    }
    assert {"pipeline.generate", "pipeline.load", "pipeline.network.transformer"} <= needing_torch
    wrong = {
        module.name: sorted(names)
        for module in modules().values()
        if module.layer == "server"
        if (
            names := (set(imported(module.tree)) & needing_torch)
            | (packages(imported(module.tree)) & TORCH_AND_ITS_KIN)
        )
    }
    assert wrong.keys() <= {"server.workers.gpu"}, wrong


def test_what_several_devices_need_is_not_loaded_for_one() -> None:
    loaded = loaded_with("pipeline.load").keys() | loaded_with("server.workers.gpu").keys()
    assert "pipeline.network.transformer" in loaded
    assert "pipeline.network.parallel" not in loaded


def test_only_the_stand_in_and_the_conversion_use_torch_in_weights() -> None:
    users = {
        module.name
        for module in modules().values()
        if module.layer == "weights" and packages(imported(module.tree)) & TORCH_AND_ITS_KIN
    }
    others = {name for name in users if not name.startswith("weights.stand_in.")}
    assert (len(users) > 1, others) == (True, {"weights.convert"})


@pytest.mark.parametrize(
    "name", sorted(TORCH_FREE | {"server.app", "server.cli.main", "server.workers.gpu"})
)
def test_torch_is_not_loaded_with_this_module(name: str) -> None:
    loaded = loaded_with(name)
    wrong = {
        reached: packages(imported_when_loaded(modules()[reached].tree)) & TORCH_AND_ITS_KIN
        for reached in loaded
    }
    assert {reached for reached, kin in wrong.items() if kin} == set(), loaded


@pytest.mark.parametrize("name", sorted(TORCH_FREE))
def test_these_modules_of_the_pipeline_never_use_torch(name: str) -> None:
    assert packages(imported(modules()[name].tree)).isdisjoint(TORCH_AND_ITS_KIN)


def test_importing_the_app_does_not_import_torch() -> None:
    """What the source says, tried: third parties could import torch for us."""
    program = f"import sys, server.app; print(sorted({TORCH_AND_ITS_KIN!r} & sys.modules.keys()))"
    finished = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (finished.returncode, finished.stdout.strip()) == (0, "[]"), finished.stderr


def test_the_sdk_of_mcp_is_not_loaded_with_the_server() -> None:
    """It takes longer than all the rest of a start: the first call of /mcp imports it."""
    loaded = loaded_with("server.app")
    assert "server.api.routes.mcp" in loaded
    wrong = {
        name
        for name in loaded
        if packages(imported_when_loaded(modules()[name].tree)) & {"mcp", "mcp_types"}
    }
    assert wrong == set()


def test_only_settings_read_the_environment() -> None:
    """Handing the whole environment on to a child, `{**os.environ}`, reads nothing of it."""
    readers = {
        module.name
        for module in modules().values()
        if any(_reads_environment(node) for node in _walk_without_handing_on(module.tree))
    }
    # The last two take the hub's token out of it, and put in what Ray is told.
    names = ("settings", "settings_file", "hub", "node")
    assert readers == {f"server.config.{name}" for name in names}


def test_only_fetch_and_download_make_outbound_requests() -> None:
    users = {
        module.name
        for module in modules().values()
        if packages(imported(module.tree)) & NETWORK_CLIENTS
        or set(imported(module.tree)) & {"urllib.request", "http.client", "xmlrpc.client"}
    }
    # The bucket of `s3` is the operator's own.
    # `responses` reads the answers that `fetch` gets, and `urls` only parses. `download` is of
    # `weights pull` alone, and of `weights convert`, which copies as that does.
    outbound = {f"server.outbound.{name}" for name in ("fetch", "responses", "urls")}
    assert users == {*outbound, "server.files.s3", "weights.download"}
    assert {name for name in modules() if "weights.download" in loaded_with(name)} == {
        "weights.download",
        "weights.pull",
        "weights.assemble",
    }


def test_only_fetch_opens_connections() -> None:
    """Not by a socket or a stream either. Asking whose an address is sends nothing, SQLite's
    database is a file, and PostgreSQL's is where the operator says."""
    users = {
        module.name
        for module in modules().values()
        for node in ast.walk(module.tree)
        if _called(node) & CONNECTING
        if isinstance(node, ast.Call) and ast.unparse(node.func) != "sqlite3.connect"
    }
    assert users == {"server.outbound.fetch", "server.outbound.addresses", "server.db.peers"}


def test_the_pipeline_knows_neither_http_nor_a_database() -> None:
    web = {"fastapi", "starlette", "uvicorn", "pydantic", "sqlalchemy", "alembic", "sqlite3"}
    users = {name for name, module in modules().items() if packages(imported(module.tree)) & web}
    assert {name for name in users if not name.startswith("server.")} == set()


def test_only_the_api_uses_fastapi() -> None:
    users = {
        ".".join(name.split(".")[:2])
        for name, module in modules().items()
        if "fastapi" in packages(imported(module.tree))
    }
    assert users == {"server.api", "server.app", "server.serve"}


def test_no_module_is_named_after_one_of_the_standard_library() -> None:
    """Python puts a script's own folder first on its path, where it would win over the library."""
    in_the_folders = {name.split(".")[1] for name in modules() if name.count(".") == 1}
    assert in_the_folders & sys.stdlib_module_names == set()


def test_no_module_is_an_attic() -> None:
    attics = {"utils", "util", "helpers", "common", "base", "misc"}
    assert [name for name in modules() if name.rpartition(".")[2] in attics] == []


def test_packages_hold_a_docstring_only() -> None:
    for module in modules().values():
        if module.path.name == "__init__.py":
            assert len(module.tree.body) == 1, module.path
            assert ast.get_docstring(module.tree), module.path


def test_every_module_says_what_it_is_for() -> None:
    assert [name for name, module in modules().items() if not ast.get_docstring(module.tree)] == []


def test_files_and_functions_can_be_read_in_one_sitting() -> None:
    long_files = {m.name: m.lines for m in modules().values() if m.lines > MAX_FILE_LINES}
    long_functions = {
        f"{module.name}.{node.name}": length
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := _lines_of(node)) > MAX_FUNCTION_LINES
    }
    assert (long_files, long_functions) == ({}, {})


def test_torchvision_is_not_installed() -> None:
    """Beside a CPU build of torch its import fails, and takes transformers' along."""
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("torchvision")


def _parts_imported(tree: ast.AST) -> set[str]:
    names = (name.split(".") for name in imported(tree))
    return {name[1] for name in names if name[0] == "server" and len(name) > 1}


def _called(node: ast.AST) -> set[str]:
    """The function that a call names, without what it belongs to."""
    if not isinstance(node, ast.Call):
        return set()
    return {getattr(node.func, "attr", getattr(node.func, "id", ""))}


def _lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def _walk_without_handing_on(tree: ast.AST) -> Iterator[ast.AST]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        unpacked = (
            [value for key, value in zip(node.keys, node.values, strict=True) if key is None]
            if isinstance(node, ast.Dict)
            else []
        )
        waiting.extend(child for child in ast.iter_child_nodes(node) if child not in unpacked)


def _reads_environment(node: ast.AST) -> bool:
    names = {"environ", "environb", "getenv", "getenvb"}
    if isinstance(node, ast.ImportFrom):
        return node.module == "os" and bool(names & {alias.name for alias in node.names})
    return (
        isinstance(node, ast.Attribute)
        and node.attr in names
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    )
