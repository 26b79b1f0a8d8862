"""Matrix products with weights, and the rows of tables."""

from typing import Annotated

import numpy as np

from perfxlm_core.ops.formats import Tensor
from perfxlm_core.ops.numerics import as_type, compute
from perfxlm_core.ops.spec import TensorType, op
from perfxlm_core.ops.types import ANY, I32, Array, T, W, numpy_dtype


@op(tolerance={"float64": 1e-12, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2})
def linear(
    x: Annotated[Array, "*batch in_features", T],
    weight: Annotated[Array, "out_features in_features", W],
    bias: Annotated[Array, "out_features", T] | None = None,
    *,
    exact: bool = True,
) -> Annotated[Array, "*batch out_features", T]:
    """Multiply by the transpose of `weight`, and add `bias`.

        out[..., o] = sum_i x[..., i] * weight[o, i] + bias[o]

    Args:
        weight: of any format; a quantized one counts as its decoded values.
        exact: False lets a device round the activations of a quantized weight to 8 bits, a scale
            for each run of at most 32 of them, and take a looser tolerance: 2 percent of the
            largest magnitude of the row.

    Numerics:
        Sums in float32 (never less); integer products of quantized blocks are exact.

    Source:
        ONNX Gemm-13 with transB=1.
    """
    y = compute(x) @ compute(weight).T
    return as_type(y if bias is None else y + compute(bias), x)


@op(batch_invariant=True)
def embedding(
    token_ids: Annotated[Array, "tokens", I32],
    table: Annotated[Array, "vocab hidden", W],
    *,
    dtype: str = "float32",
) -> Annotated[Array, "tokens hidden", T]:
    """Look up one row of `table` for each token.

        out[t] = table[token_ids[t]]

    Args:
        table: of any format; only the rows asked for are decoded.
        dtype: of the output.

    Assumes:
        Ids are in `[0, vocab)`.

    Source:
        ONNX Gather-13 with axis=0.
    """
    ids = np.asarray(token_ids)
    rows = table.rows(ids) if isinstance(table, Tensor) else np.asarray(table)[ids]
    return rows.astype(numpy_dtype(dtype))


@embedding.shapes
def _(ids: TensorType, table: TensorType, *, dtype: str) -> tuple[TensorType, ...]:
    return (TensorType((*(ids.shape or ()), (table.shape or ())[1]), dtype),)


@op(batch_invariant=True)
def take_rows(
    x: Annotated[Array, "rows_in hidden", ANY],
    rows: Annotated[Array, "rows", I32],
) -> Annotated[Array, "rows hidden", ANY]:
    """Pick rows by index: `out[i] = x[rows[i]]`.

    Assumes:
        Indices are in `[0, rows_in)`.

    Source:
        ONNX Gather-13 with axis=0.
    """
    values: np.ndarray = np.asarray(x)
    return values[np.asarray(rows)]


@take_rows.shapes
def _(x: TensorType, rows: TensorType) -> tuple[TensorType, ...]:
    return (TensorType((*(rows.shape or ()), *(x.shape or ())[1:]), x.dtype),)
