"""Composite operators: what a device may do in one pass over its weights.

Recipes do not call them. `perfxlm_core.graph.passes.fuse` puts them where a device has a kernel
for them; elsewhere a graph keeps the operators that their bodies are made of.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from perfxlm_core.ops.attention import store_kv
from perfxlm_core.ops.elementwise import add, gelu_and_mul, silu_and_mul
from perfxlm_core.ops.linear import linear
from perfxlm_core.ops.normalization import rms_norm
from perfxlm_core.ops.rotary import rotary_embedding
from perfxlm_core.ops.spec import TensorType, op
from perfxlm_core.ops.types import F32, I32, Array, C, T, W

TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}


@op(composite=True, tolerance=TOLERANCE)
def linear_add(
    x: Annotated[Array, "*batch in_features", T],
    weight: Annotated[Array, "out_features in_features", W],
    residual: Annotated[Array, "*batch out_features", T],
    bias: Annotated[Array, "out_features", T] | None = None,
    *,
    exact: bool = True,
) -> Annotated[Array, "*batch out_features", T]:
    """A linear layer added to the residual stream.

        out = linear(x, weight, bias) + residual

    Args:
        exact: see `linear`.

    Numerics:
        As `linear`; the sum may be rounded once or twice.

    Source:
        ONNX Gemm-13 with transB=1 and C.
    """
    return add(linear(x, weight, bias, exact=exact), residual)


def _known_activation(dims: Mapping[str, Any], *, activation: str, **_: Any) -> None:  # noqa: ANN401
    if activation not in ("silu", "gelu", "gelu_tanh"):
        raise ValueError(f"activation={activation!r}, want 'silu', 'gelu' or 'gelu_tanh'")


@op(composite=True, tolerance=TOLERANCE, requires=_known_activation)
def gated_linear(
    x: Annotated[Array, "*batch in_features", T],
    gate_weight: Annotated[Array, "out_features in_features", W],
    up_weight: Annotated[Array, "out_features in_features", W],
    norm_weight: Annotated[Array, "in_features", T] | None = None,
    gate_bias: Annotated[Array, "out_features", T] | None = None,
    up_bias: Annotated[Array, "out_features", T] | None = None,
    *,
    eps: float = 1e-6,
    activation: str = "silu",
    exact: bool = True,
) -> Annotated[Array, "*batch out_features", T]:
    """Norm, two linear layers and the gate of a feed-forward.

        y   = rms_norm(x, norm_weight)      or x where no norm_weight is given
        out = act(linear(y, gate_weight, gate_bias)) * linear(y, up_weight, up_bias)

    Args:
        eps: of the norm.
        activation: "silu", "gelu", or "gelu_tanh" for its tanh approximation.
        exact: see `linear`.

    Raises:
        OperatorError: another activation.

    Numerics:
        What lies between may be rounded to T, or not.

    Source:
        Shazeer 2020, arXiv:2002.05202.
    """
    y = x if norm_weight is None else rms_norm(x, norm_weight, eps=eps)
    gate = linear(y, gate_weight, gate_bias, exact=exact)
    up = linear(y, up_weight, up_bias, exact=exact)
    if activation == "silu":
        return silu_and_mul(gate, up)
    return gelu_and_mul(gate, up, approximate="tanh" if activation == "gelu_tanh" else "none")


def _heads_fit(dims: Mapping[str, Any], **_: Any) -> None:  # noqa: ANN401
    size, kv_heads = dims["head_dim"], dims["kv_heads"]
    if 2 * dims["half"] > size:
        raise ValueError(f"rotates {2 * dims['half']} elements of a head of {size}")
    if dims["q_features"] % size:
        raise ValueError(f"q_features={dims['q_features']} is not a multiple of head_dim={size}")
    for name, width in (("k_features", size), ("v_features", dims["v_head_dim"])):
        if dims[name] != kv_heads * width:
            raise ValueError(f"{name}={dims[name]}, but the cache has {kv_heads} heads of {width}")


@op(
    composite=True,
    updates=("k_cache", "v_cache"),
    outputs=("q",),
    tolerance=TOLERANCE,
    requires=_heads_fit,
)
def qkv_rotary_store(
    x: Annotated[Array, "tokens in_features", T],
    q_weight: Annotated[Array, "q_features in_features", W],
    k_weight: Annotated[Array, "k_features in_features", W],
    v_weight: Annotated[Array, "v_features in_features", W],
    cos: Annotated[Array, "tokens half", F32],
    sin: Annotated[Array, "tokens half", F32],
    k_cache: Annotated[Array, "blocks block_size kv_heads head_dim", C],
    v_cache: Annotated[Array, "blocks block_size kv_heads v_head_dim", C],
    slot_mapping: Annotated[Array, "tokens", I32],
    norm_weight: Annotated[Array, "in_features", T] | None = None,
    q_bias: Annotated[Array, "q_features", T] | None = None,
    k_bias: Annotated[Array, "k_features", T] | None = None,
    v_bias: Annotated[Array, "v_features", T] | None = None,
    q_norm_weight: Annotated[Array, "head_dim", T] | None = None,
    k_norm_weight: Annotated[Array, "head_dim", T] | None = None,
    *,
    eps: float = 1e-6,
    head_eps: float = 1e-6,
    interleaved: bool = False,
    exact: bool = True,
) -> Annotated[Array, "tokens heads head_dim", T]:
    """Everything before attention: norm, three linear layers, rotation, and the KV cache.

        y       = rms_norm(x, norm_weight)      or x where no norm_weight is given
        q, k, v = linear(y, ...) for each, split into heads
        q, k    = rotary_embedding(rms_norm(q, q_norm_weight), cos, sin), k alike
        store_kv(k, v, k_cache, v_cache, slot_mapping)

    The result is `q`; `k` and `v` are in the cache. Norms of heads are left out where they have no
    weight.

    Args:
        slot_mapping: see `store_kv`.
        eps: of the norm of `x`.
        head_eps: of the norms of heads.
        interleaved: see `rotary_embedding`.
        exact: see `linear`.

    Raises:
        OperatorError: features do not divide into the heads of the cache; `2 * half > head_dim`.

    Assumes:
        See `store_kv`.

    Numerics:
        What lies between may be rounded to T, or not.

    Source:
        Su et al. 2021, arXiv:2104.09864; Kwon et al. 2023, arXiv:2309.06180.
    """
    y = x if norm_weight is None else rms_norm(x, norm_weight, eps=eps)
    size, v_size = k_cache.shape[3], v_cache.shape[3]
    q = linear(y, q_weight, q_bias, exact=exact).reshape(-1, q_weight.shape[0] // size, size)
    k = linear(y, k_weight, k_bias, exact=exact).reshape(-1, k_cache.shape[2], size)
    v = linear(y, v_weight, v_bias, exact=exact).reshape(-1, v_cache.shape[2], v_size)
    if q_norm_weight is not None:
        q = rms_norm(q, q_norm_weight, eps=head_eps)
    if k_norm_weight is not None:
        k = rms_norm(k, k_norm_weight, eps=head_eps)
    k = rotary_embedding(k, cos, sin, interleaved=interleaved)
    store_kv(k, v, k_cache, v_cache, slot_mapping)
    return rotary_embedding(q, cos, sin, interleaved=interleaved)


@qkv_rotary_store.shapes
def _(
    x: TensorType,
    q_weight: TensorType,
    *others: TensorType | None,
    **_: Any,  # noqa: ANN401
) -> tuple[TensorType, ...]:
    size = _known(others[4])[3]
    heads = _known(q_weight)[0] // size
    return (TensorType((_known(x)[0], heads, size), x.dtype),)


def _known(given: TensorType | None) -> tuple[Any, ...]:
    assert given is not None
    return given.shape or ()
