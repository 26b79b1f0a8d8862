"""ONNX in and out. The `onnx` package is imported when one of these is called, not before."""

from __future__ import annotations

from typing import Any

__all__ = ["as_recipe", "load_onnx", "save_onnx"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name == "load_onnx":
        from perfxlm_core.graph.onnx.load import load_onnx

        return load_onnx
    if name == "save_onnx":
        from perfxlm_core.graph.onnx.save import save_onnx

        return save_onnx
    if name == "as_recipe":
        from perfxlm_core.graph.onnx.recognize import as_recipe

        return as_recipe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
