"""How reference bodies compute: at least in float32, in float64 when they are given float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from perfxlm_core.ops.formats import Tensor


def compute(x: Any) -> np.ndarray[Any, Any]:  # noqa: ANN401 - array or constant of any format
    """`x` in the type that references compute in: float64 if it is that already, else float32."""
    if isinstance(x, Tensor):
        return x.float32()
    array = np.asarray(x)
    return array if array.dtype == np.float64 else array.astype(np.float32)


def as_type(y: np.ndarray[Any, Any], like: Any) -> np.ndarray[Any, Any]:  # noqa: ANN401
    """`y` rounded once to the dtype of `like`."""
    return y.astype(like.dtype, copy=False)
