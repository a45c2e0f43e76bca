"""Nodes for ComfyUI that have a cosmos-serve server make videos."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
