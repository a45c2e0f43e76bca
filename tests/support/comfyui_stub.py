"""A stand-in for the modules of ComfyUI that the nodes import, and the way in which it loads them.

It has what the nodes use, under ComfyUI's names, and keeps what they ask of it.
"""

import importlib.util
import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, BinaryIO

import pytest
from paths import ROOT

PACK = ROOT / "clients" / "comfyui"


class InterruptProcessingException(Exception):
    """What ComfyUI ends a node by, where its user cancels."""


@dataclass
class ComfyUI:
    """What the nodes asked of it. `interrupt_after` so many of their checks its user cancels."""

    interrupt_after: int | None = None
    checks: int = 0
    bars: list[tuple[int, list[int]]] = field(default_factory=list)

    def check(self) -> None:
        """As `throw_exception_if_processing_interrupted`."""
        self.checks += 1
        if self.interrupt_after is not None and self.checks > self.interrupt_after:
            raise InterruptProcessingException

    def progress_bar(self, total: int) -> Any:
        """As `ProgressBar`: what it was told is the second of its entry in `bars`."""
        told: list[int] = []
        self.bars.append((total, told))
        return SimpleNamespace(update_absolute=lambda value, total=None: told.append(value))


class _Input:
    def __init__(self, id: str, **options: Any) -> None:
        self.id, self.options = id, options


class _Type:
    Input, Output = _Input, SimpleNamespace


class _Schema(SimpleNamespace):
    """The fields that it is given."""


class _NodeOutput:
    def __init__(self, *result: Any) -> None:
        self.result = result


class VideoFromFile:
    """A video, by the file that it was made from."""

    def __init__(self, file: BinaryIO) -> None:
        self.data = file.read()

    def save_to(self, file: BinaryIO, *, format: Any, codec: Any) -> None:
        """As ComfyUI does, where the file is of that format already."""
        assert (format.value, codec.value) == ("mp4", "h264")
        file.write(self.data)


class _Container(Enum):
    MP4 = "mp4"


class _Codec(Enum):
    H264 = "h264"


def _modules(comfyui: ComfyUI) -> dict[str, ModuleType]:
    management, utils = ModuleType("comfy.model_management"), ModuleType("comfy.utils")
    latest = ModuleType("comfy_api.latest")
    vars(management)["throw_exception_if_processing_interrupted"] = comfyui.check
    vars(utils)["ProgressBar"] = comfyui.progress_bar
    vars(latest).update(
        ComfyExtension=object,
        InputImpl=SimpleNamespace(VideoFromFile=VideoFromFile),
        Types=SimpleNamespace(VideoContainer=_Container, VideoCodec=_Codec),
        io=SimpleNamespace(
            **dict.fromkeys(("String", "Int", "Float", "Image", "Video"), _Type),
            ComfyNode=object,
            Schema=_Schema,
            NodeOutput=_NodeOutput,
        ),
    )
    packages = [ModuleType(name) for name in ("comfy", "comfy_api")]
    return {module.__name__: module for module in (*packages, management, utils, latest)}


def install(monkeypatch: pytest.MonkeyPatch) -> ComfyUI:
    """Let the modules of a ComfyUI be imported, one that has loaded no nodes yet."""
    comfyui = ComfyUI()
    for name in [name for name in sys.modules if name.startswith("custom_nodes.")]:
        monkeypatch.delitem(sys.modules, name)
    for name, module in _modules(comfyui).items():
        monkeypatch.setitem(sys.modules, name, module)
    return comfyui


async def loaded_nodes() -> dict[str, Any]:
    """The nodes of the pack by their ids, loaded from its folder as ComfyUI loads it."""
    name = "custom_nodes.cosmos"
    spec = importlib.util.spec_from_file_location(
        name, PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    assert spec is not None and spec.loader is not None
    pack = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    nodes = await (await pack.comfy_entrypoint()).get_node_list()
    return {node.define_schema().node_id: node for node in nodes}


def defaults(node: Any) -> dict[str, Any]:
    """The values of a node's widgets before its user changes any."""
    inputs = node.define_schema().inputs
    return {each.id: each.options["default"] for each in inputs if "default" in each.options}


def pack_file(name: str) -> Path:
    """A file of the pack."""
    return PACK / name
