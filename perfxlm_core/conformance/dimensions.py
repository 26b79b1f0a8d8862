"""Dimensions of inputs: the words of their annotations, and the lengths that these stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perfxlm_core.conformance.case import Case
from perfxlm_core.ops.spec import Op, Param

DYNAMIC = ("tokens", "seqs", "rows", "rows_in")
"""Words that a running engine changes with every step; the first leading dimension is another."""


def words(params: tuple[Param, ...]) -> list[str]:
    """Dimension words of inputs, each once, without `+1`."""
    found = [w.removesuffix("+1") for p in params for w in p.dims if w not in ("...", "_")]
    return list(dict.fromkeys(found))


def words_of(op: Op[..., Any]) -> list[str]:
    """Dimension words of an operator's inputs."""
    return words(op.params)


def dynamic(params: tuple[Param, ...]) -> list[str]:
    """Symbols of the dimensions of inputs."""
    found = ["tokens" if w.startswith("*") else w for w in words(params)]
    return list(dict.fromkeys(w for w in found if w in DYNAMIC))


def dynamic_words(op: Op[..., Any]) -> list[str]:
    """Symbols of an operator's dimensions."""
    return dynamic(op.params)


def is_activation(param: Param) -> bool:
    """Whether an input changes from step to step."""
    return any(w.startswith("*") or w.removesuffix("+1") in DYNAMIC for w in param.dims)


def shape_of(param: Param, env: Mapping[str, Any]) -> tuple[Any, ...]:
    """The shape that a parameter's words stand for."""
    shape: list[Any] = []
    for word in param.dims:
        if word.startswith("*"):
            shape.extend(env[word[1:]])
        elif word.isdigit():
            shape.append(int(word))
        else:
            base = env[word.removesuffix("+1")]
            shape.append(base + 1 if word.endswith("+1") else base)
    return tuple(shape)


def dtype_of(param: Param, case: Case) -> str:
    """The dtype of an input that is not a weight."""
    if param.dtype.name == "C":
        return case.cache_dtype or case.dtype
    allowed = param.dtype.allowed
    if case.dtype in allowed or not allowed:
        return case.dtype
    return "float32" if "float32" in allowed else allowed[0]
