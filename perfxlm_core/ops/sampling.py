"""From logits to tokens: softmax, the best k, and draws from a batch of distributions.

A draw takes its uniform random numbers as an input, so that every device picks the same token from
the same numbers.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from perfxlm_core.ops.numerics import as_type, compute
from perfxlm_core.ops.spec import Standard, TensorType, op
from perfxlm_core.ops.tensor_types import I64, F, N, axis_of, rounded, same_type
from perfxlm_core.ops.types import F32, I32, Array, T


def _softmax(v: np.ndarray, axis: int) -> np.ndarray:
    if v.size == 0:
        return v
    e = np.exp(v - v.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


@op(onnx=Standard("Softmax", 13), batch_invariant=True)
def softmax(x: Annotated[Array, "...", F], *, axis: int = -1) -> Annotated[Array, "...", F]:
    """`out = exp(x) / sum(exp(x))` along `axis`.

    Numerics:
        The largest element is subtracted first; sums in float32.

    Source:
        ONNX Softmax-13.
    """
    return rounded(lambda v: _softmax(v, axis_of(axis, v.ndim)), x)


@op(onnx=Standard("LogSoftmax", 13), batch_invariant=True)
def log_softmax(x: Annotated[Array, "...", F], *, axis: int = -1) -> Annotated[Array, "...", F]:
    """`out = x - log(sum(exp(x)))` along `axis`.

    Numerics:
        The largest element is subtracted first; sums in float32.

    Source:
        ONNX LogSoftmax-13.
    """

    def body(v: np.ndarray) -> np.ndarray:
        at = axis_of(axis, v.ndim)
        v = v - v.max(axis=at, keepdims=True)
        return np.asarray(v - np.log(np.exp(v).sum(axis=at, keepdims=True)))

    return rounded(body, x)


softmax.shapes(same_type)
log_softmax.shapes(same_type)


@op(onnx=Standard("TopK", 24), outputs=("values", "indices"))
def top_k(
    x: Annotated[Array, "...", N],
    k: Annotated[Array, "...", I64],
    *,
    axis: int = -1,
    largest: int = 1,
    sorted: int = 1,
) -> tuple[Annotated[Array, "...", N], Annotated[Array, "...", I64]]:
    """The `k` largest (or smallest) elements along `axis`, and where they stand.

    Of equal elements the one with the lower index comes first.

    Args:
        k: one number, at most the length of the axis.
        largest: 0 for the smallest elements.
        sorted: 1 for best first; the order is otherwise open, and the same here.

    Raises:
        ValueError: `k` is negative or more than the length of the axis.

    Source:
        ONNX TopK-24.
    """
    v = np.asarray(x)
    at, count = axis_of(axis, v.ndim), int(np.asarray(k).reshape(()))
    if not 0 <= count <= v.shape[at]:
        raise ValueError(f"k={count} of an axis of {v.shape[at]} elements")
    if largest:  # a stable sort from the end, so that ties keep the lower index in front
        order = v.shape[at] - 1 - np.argsort(np.flip(v, at), axis=at, kind="stable")
        order = np.flip(order, at)
    else:
        order = np.argsort(v, axis=at, kind="stable")
    indices = np.take(order, range(count), axis=at).astype(np.int64)
    return np.take_along_axis(v, indices, axis=at), indices


@top_k.shapes
def _(x: TensorType, k: TensorType, **_: Any) -> tuple[TensorType, ...]:  # noqa: ANN401
    return TensorType(None, x.dtype), TensorType(None, "int64")


@op(optional=True, batch_invariant=True)
def greedy(logits: Annotated[Array, "rows vocab", T]) -> Annotated[Array, "rows", I32]:
    """The token of the largest logit of each row; the lower id of equal ones.

    Source:
        ONNX ArgMax-13 with axis=1.
    """
    return np.argmax(np.asarray(logits), axis=1).astype(np.int32)


def _legal(dims: Mapping[str, Any]) -> None:
    if dims["vocab"] == 0:
        raise ValueError("there is no token to draw from: vocab is 0")


@op(optional=True, requires=_legal, batch_invariant=True)
def sample_top_k_top_p(
    logits: Annotated[Array, "rows vocab", T],
    temperatures: Annotated[Array, "rows", F32],
    top_ks: Annotated[Array, "rows", I32],
    top_ps: Annotated[Array, "rows", F32],
    uniforms: Annotated[Array, "rows", F32],
) -> Annotated[Array, "rows", I32]:
    r"""Draw a token for each row from what its top-k and top-p limits leave.

    With the tokens of a row in order of falling logit (lower ids first among equals) and
    `p = softmax(logits / temperature)` over the first `k`, the candidates are the shortest prefix
    whose probability reaches `top_p`; the token drawn is the first whose running sum over the
    candidates exceeds `uniform` times their total.

    Args:
        temperatures: 0 takes the largest logit.
        top_ks: candidates at most; 0 or less means all.
        top_ps: probability that the candidates must reach, in (0, 1].
        uniforms: random numbers in [0, 1).

    Numerics:
        Probabilities and running sums in float32 at least.

    Source:
        Fan et al. 2018, arXiv:1805.04833 (top-k); Holtzman et al. 2019, arXiv:1904.09751 (top-p).
    """
    scores = compute(logits)
    out = np.empty(len(scores), np.int32)
    for row, (v, heat, k, p, u) in enumerate(
        zip(scores, compute(temperatures), np.asarray(top_ks), compute(top_ps), compute(uniforms),
            strict=True)
    ):  # fmt: skip
        order = np.argsort(-v, kind="stable")[: k if k > 0 else None]
        if heat == 0:
            out[row] = order[0]
            continue
        running = np.cumsum(_softmax(v[order] / heat, 0))
        kept = int(np.searchsorted(running, min(p, running[-1]))) + 1
        running = running[:kept]
        drawn = int(np.searchsorted(running, u * running[-1], side="right"))
        out[row] = order[min(drawn, kept - 1)]
    return out


@op(optional=True, batch_invariant=True)
def log_probabilities(
    logits: Annotated[Array, "rows vocab", T],
    token_ids: Annotated[Array, "rows", I32],
) -> Annotated[Array, "rows", T]:
    """Log of the softmax probability of one token in each row.

        out[r] = logits[r, token_ids[r]] - log(sum(exp(logits[r])))

    Assumes:
        Ids are in `[0, vocab)`.

    Numerics:
        The sum in float32 at least.

    Source:
        ONNX LogSoftmax-13 with axis=1, and Gather.
    """
    v = compute(logits)
    top = v.max(axis=1)
    total = np.log(np.exp(v - top[:, None]).sum(axis=1)) + top
    return as_type(v[np.arange(len(v)), np.asarray(token_ids)] - total, logits)
