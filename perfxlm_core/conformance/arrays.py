"""What is done with the arrays of a case: taken to float64, disturbed, laid out in a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from perfxlm_core.ops.formats import Tensor

FLUSHED = 2.0**-126
"""The smallest normal float32: a device may take smaller numbers of that range for 0."""


def is_float(value: Any) -> bool:  # noqa: ANN401
    """Whether an array holds floats, bfloat16 among them."""
    return bool(value.dtype.kind == "f" or value.dtype.name == "bfloat16")


def flat(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs by name, those of a variadic parameter as `name[0]`, `name[1]` and so on."""
    found: dict[str, Any] = {}
    for name, value in arrays.items():
        if isinstance(value, list | tuple):
            found.update({f"{name}[{i}]": v for i, v in enumerate(value)})
        else:
            found[name] = value
    return found


def plain(value: Any) -> Any:  # noqa: ANN401
    """Constants of a plain dtype as arrays; anything else as it is."""
    return value.array() if isinstance(value, Tensor) and not value.is_quantized else value


def precise(value: Any) -> Any:  # noqa: ANN401
    """Floats in float64, weights decoded; anything else as it is."""
    if isinstance(value, list):
        return [precise(v) for v in value]
    value = value.float32() if isinstance(value, Tensor) and value.is_quantized else plain(value)
    if isinstance(value, np.ndarray) and is_float(value):
        return value.astype(np.float64)
    return value


def wobble(value: Any, rng: np.random.Generator) -> Any:  # noqa: ANN401
    """Floats in float64, each up to an ulp of float32 away, the smallest of them 0."""
    if isinstance(value, list):
        return [wobble(v, rng) for v in value]
    exact = precise(value)
    if not isinstance(exact, np.ndarray) or exact.dtype != np.float64:
        return exact
    moved = exact * (1 + 2.0**-23 * rng.uniform(-1, 1, exact.shape))
    if isinstance(value, np.ndarray) and value.dtype.itemsize == 8:
        return moved
    return np.where(np.abs(exact) < FLUSHED, 0.0, moved)
