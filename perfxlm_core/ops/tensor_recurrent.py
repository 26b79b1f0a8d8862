"""Operators of models that carry a state instead of a cache of keys and values."""

from typing import Annotated, Any

import numpy as np

from perfxlm_core.ops.elementwise import sigmoid
from perfxlm_core.ops.numerics import compute
from perfxlm_core.ops.spec import Standard, TensorType, op
from perfxlm_core.ops.tensor_types import F2, F
from perfxlm_core.ops.types import Array

RULES = ("linear", "gated", "delta", "gated_delta")


def _known_rule(dims: object, *, update_rule: str = "gated_delta", **_: Any) -> None:  # noqa: ANN401
    if update_rule not in RULES:
        raise ValueError(f"update_rule={update_rule!r}, want one of {', '.join(RULES)}")


@op(onnx=Standard("LinearAttention", 27), outputs=("out", "present"), requires=_known_rule)
def linear_attention(
    q: Annotated[Array, "batch length query_width", F],
    k: Annotated[Array, "batch length key_width", F],
    v: Annotated[Array, "batch length value_width", F],
    past: Annotated[Array, "batch kv_heads key_dim value_dim", F2] | None = None,
    decay: Annotated[Array, "batch length decay_width", F] | None = None,
    beta: Annotated[Array, "batch length beta_width", F] | None = None,
    *,
    q_num_heads: int,
    kv_num_heads: int,
    update_rule: str = "gated_delta",
    scale: float = 0.0,
    chunk_size: int = 64,
) -> tuple[
    Annotated[Array, "batch length out_width", F],
    Annotated[Array, "batch kv_heads key_dim value_dim", F2],
]:
    """Attention through a state matrix for each head, updated token by token.

        linear:       S = S + k v^T
        gated:        S = exp(g) S + k v^T
        delta:        S = S + beta k (v - S^T k)^T
        gated_delta:  S = exp(g) S, then as delta
        out = scale * q^T S

    Args:
        decay: logarithm of the gate, for each head or for each row of its state.
        beta: rate of the update, for each head or for all.
        scale: `key_dim ** -0.5` when 0.
        chunk_size: accepted; a hint about speed only.

    Raises:
        ValueError: heads do not divide the widths, or a rule lacks its gate or rate.

    Source:
        Yang et al. 2024, arXiv:2412.06464; ONNX LinearAttention-27.
    """
    batch, length, _ = np.asarray(q).shape
    if kv_num_heads < 1 or q_num_heads % kv_num_heads:
        raise ValueError(f"{q_num_heads} query heads for {kv_num_heads} key heads")
    queries = compute(q).reshape(batch, length, q_num_heads, -1)
    keys, values = (compute(x).reshape(batch, length, kv_num_heads, -1) for x in (k, v))
    gate = _per_head(decay, batch, length, kv_num_heads, "gated" in update_rule, "decay")
    rate = _per_head(beta, batch, length, kv_num_heads, "delta" in update_rule, "beta")
    state = (
        np.zeros((batch, kv_num_heads, keys.shape[3], values.shape[3]), keys.dtype)
        if past is None
        else compute(past)
    )
    factor = keys.dtype.type(scale or keys.shape[3] ** -0.5)
    out = np.empty((batch, length, q_num_heads, values.shape[3]), keys.dtype)
    for t in range(length):
        key, value = keys[:, t, :, :, None], values[:, t, :, None, :]
        if gate is not None:
            state = np.exp(gate[:, t])[..., None] * state
        if rate is not None:
            value = rate[:, t][..., None] * (value - (state * key).sum(axis=2, keepdims=True))
        state = state + key * value
        seen = np.repeat(state, q_num_heads // kv_num_heads, axis=1)
        out[:, t] = factor * (queries[:, t, :, :, None] * seen).sum(axis=2)
    kind = np.asarray(q).dtype if past is None else np.asarray(past).dtype
    return out.reshape(batch, length, -1).astype(np.asarray(q).dtype), state.astype(kind)


def _per_head(
    x: Any,  # noqa: ANN401
    batch: int,
    length: int,
    heads: int,
    needed: bool,
    name: str,
) -> np.ndarray | None:
    """A gate or rate as [batch, length, heads or 1, rows or 1]; None if the rule has none."""
    if not needed:
        return None
    if x is None:
        raise ValueError(f"this update rule needs {name}")
    v = compute(x)
    return v.reshape(batch, length, heads if v.shape[2] % heads == 0 else 1, -1)


linear_attention.shapes(
    lambda q, k, v, past=None, *_, **__: (
        TensorType(None, q.dtype),
        TensorType(None, q.dtype if past is None else past.dtype),
    )
)


def _known_activation(dims: object, *, activation: str = "none") -> None:
    if activation not in ("none", "silu", "swish"):
        raise ValueError(f"activation={activation!r}, want none, silu or swish")


@op(
    onnx=Standard("CausalConvWithState", 27),
    outputs=("out", "present"),
    requires=_known_activation,
)
def causal_conv_with_state(
    x: Annotated[Array, "batch channels length", F],
    weight: Annotated[Array, "channels 1 taps", F],
    bias: Annotated[Array, "channels", F] | None = None,
    past: Annotated[Array, "batch channels carried", F] | None = None,
    *,
    activation: str = "none",
) -> tuple[
    Annotated[Array, "batch channels length", F], Annotated[Array, "batch channels carried", F]
]:
    """Convolve each channel with its own taps over the past; carry the last inputs along.

        out[c, t] = activation(sum_i weight[c, i] * x[c, t - taps + 1 + i] + bias[c])

    Args:
        past: the `taps - 1` inputs before `x`; 0 when left out.
        activation: "silu" (or "swish"), or "none".

    Source:
        ONNX CausalConvWithState-27; Gu and Dao 2023, arXiv:2312.00752.
    """
    v, taps = compute(x), compute(weight)[:, 0]
    carried = taps.shape[1] - 1
    before = np.zeros((*v.shape[:2], carried), v.dtype) if past is None else compute(past)
    line = np.concatenate([before, v], axis=2)
    windows = np.lib.stride_tricks.sliding_window_view(line, carried + 1, axis=2)
    y = np.einsum("bclk,ck->bcl", windows, taps)
    y = y if bias is None else y + compute(bias)[:, None]
    y = y if activation == "none" else y * sigmoid(y)
    kind = np.asarray(x).dtype
    return y.astype(kind), line[:, :, line.shape[2] - carried :].astype(kind)


causal_conv_with_state.shapes(lambda x, weight, *_, **__: (x, TensorType(None, x.dtype)))
