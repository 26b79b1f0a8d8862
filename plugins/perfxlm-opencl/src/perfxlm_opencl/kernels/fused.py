"""Composite operators: one launch in steps of one token, their bodies' kernels in others.

A step of one token is bound by the time that weights and launches take, so what stands around a
linear layer is computed beside it. A step of many is bound by the products: there the layers' own
kernels are the better ones, and intermediate values lie in scratch memory.

Weights are packed where a profile packs them; one whose format is not is read as it lies in its
file. Either way all of a node's kernels read the same copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from perfxlm_core import ops
from perfxlm_core.plugin import Launch, Operand, Site
from perfxlm_opencl.kernels import attention, elementwise, rotary
from perfxlm_opencl.kernels.bodies import Body, between, flat
from perfxlm_opencl.kernels.collection import ACTIVATIONS, CACHES, WEIGHTS, kernels
from perfxlm_opencl.kernels.linear import has, linear_on_tiles
from perfxlm_opencl.kernels.single import bucket, on_rows, on_tiles, row_formats, whole
from perfxlm_opencl.kernels.tiles import Reads, formats, packed_parts
from perfxlm_opencl.kernels.weights import layout_of, row_bytes
from perfxlm_opencl.launch import (
    Argument,
    Chain,
    ClLaunch,
    Length,
    Units,
    by_size,
    chain,
    constant,
    count,
    kind_of,
    shape_of,
)

FEW = 1
"""Tokens of a step up to which a composite is one launch."""


@kernels.binds(
    ops.linear_add,
    dtypes=ACTIVATIONS,
    formats=WEIGHTS,
    scratch=between(lambda d: [d.out_features]),
)
def linear_add(site: Site) -> Launch:
    """Added where the products end."""
    if layout_of(site, "weight") is not None:
        return linear_on_tiles(site)
    rows, columns = constant(site, "weight", 0), constant(site, "weight", 1)
    tokens = count(shape_of(site, "x")[:-1])
    body = Body(site, [rows])
    y = body.linear(body.value(tokens, rows), site.operands["x"])
    given = {"a": y, "b": flat(site.operand("residual")), "out": flat(site.operand("out"))}
    body.add(elementwise.add, ops.add, {}, **given)
    if not whole(site, "weight"):
        return chain(*body.parts)
    defines, _ = row_formats(site, "weight")
    defines |= {"LINEAR_ADD": 1, "ACT": kind_of(site, "x"), "HAS_NORM": 0}
    few = on_rows(
        site, "linear_add",
        ["out", "x", Units("weight"), "residual", "bias", rows, columns,
         row_bytes(site, "weight"), has(site, "bias")],
        -(-rows // 2), tokens, defines,
    )  # fmt: skip
    return by_size(tokens, FEW, few, chain(*body.parts))


_GATES = ("silu", "gelu", "gelu_tanh")
_CACHES = ("float", "half", "bfloat")


@kernels.binds(
    ops.gated_linear,
    dtypes=ACTIVATIONS,
    formats=WEIGHTS,
    scratch=between(lambda d: [d.in_features, d.out_features, d.out_features]),
)
def gated_linear(site: Site) -> Launch:
    """Norm, gate and up side by side; one after the other where their formats differ."""
    tokens = count(shape_of(site, "x")[:-1])
    many, few = _many_gated(site, tokens), _few_gated(site, tokens)
    return many if few is None else by_size(tokens, FEW, few, many)


def _many_gated(site: Site, tokens: Length) -> Chain:
    rows, columns = constant(site, "gate_weight", 0), constant(site, "gate_weight", 1)
    body = Body(site, [columns, rows, rows])
    y = body.norm(flat(site.operand("x")), "norm_weight", site.attrs.eps)
    gate, up = (body.linear(body.value(tokens, rows), y, f"{n}_") for n in ("gate", "up"))
    given = {"gate": gate, "up": up, "out": flat(site.operand("out"))}
    if site.attrs.activation == "silu":
        body.add(elementwise.silu_and_mul, ops.silu_and_mul, {}, **given)
    else:
        form = "tanh" if site.attrs.activation == "gelu_tanh" else "none"
        body.add(elementwise.gelu_and_mul, ops.gelu_and_mul, {"approximate": form}, **given)
    return chain(*body.parts)


def _few_gated(site: Site, tokens: Length) -> ClLaunch | None:
    """One launch, if both weights have one format and lie in one buffer each."""
    names = ("gate_weight", "up_weight")
    rows, columns = constant(site, "gate_weight", 0), constant(site, "gate_weight", 1)
    defines, which = formats(site, *names)
    packed = packed_parts(site, *names)
    if which[1] or (not packed and (_any_packed(site, *names) or not whole(site, *names))):
        return None
    defines |= {"GATED_LINEAR": 1, "ACT": kind_of(site, "x")}
    biases: list[Argument] = ["norm_weight", "gate_bias", "up_bias"]
    flags = [has(site, "gate_bias"), has(site, "up_bias"), _GATES.index(site.attrs.activation)]
    eps = float(site.attrs.eps)
    if packed:
        arguments = ["out", "x", "weight 0", "weight 1", *biases, rows, columns,
                     has(site, "norm_weight"), *flags, eps]  # fmt: skip
        reads = Reads.of(site, names, packed)
        return on_tiles(site, "gated_lanes", names, reads, arguments, rows, tokens, defines)
    defines |= {**row_formats(site, *names)[0], "HAS_NORM": has(site, "norm_weight")}
    arguments = ["out", "x", *map(Units, names), *biases, rows, columns,
                 row_bytes(site, "gate_weight"), *flags, eps]  # fmt: skip
    return on_rows(site, "gated_linear", arguments, rows, tokens, defines)


def _any_packed(site: Site, *weights: str) -> bool:
    return any(layout_of(site, w) is not None for w in weights)


def _qkv_widths(d: Any) -> Sequence[int]:  # noqa: ANN401
    return [d.in_features, *2 * [d.q_features], *3 * [d.k_features], d.v_features]


_QKV = ("q_weight", "k_weight", "v_weight")


@kernels.binds(
    ops.qkv_rotary_store,
    dtypes=ACTIVATIONS,
    formats=WEIGHTS,
    cache_dtypes=CACHES,
    scratch=between(_qkv_widths),
)
def qkv_rotary_store(site: Site) -> Launch:
    """All before attention: pairs of rows are turned and stored where their products end.

    Weights are packed if all of them can be.
    """
    tokens = shape_of(site, "x")[0]
    packed = all(layout_of(site, w) is not None for w in _QKV)
    many, few = chain(*_many_qkv(site, tokens, packed)), _few_qkv(site, tokens, packed)
    return many if few is None else by_size(tokens, FEW, few, many)


def _few_qkv(site: Site, tokens: Length, packed: bool) -> ClLaunch | None:
    """One launch, if each weight lies in one buffer."""
    parts = packed_parts(site, *_QKV) if packed else None
    if parts is None and (packed or not whole(site, *_QKV)):
        return None
    size, v_size = constant(site, "k_cache", 3), constant(site, "v_cache", 3)
    heads, kv_heads = constant(site, "q", 1), constant(site, "k_cache", 2)
    columns, angles = constant(site, "x", 1), constant(site, "cos", 1)
    units = max(size - angles, -(-v_size // 2))
    defines, which = formats(site, *_QKV) if parts else row_formats(site, *_QKV)
    normed = bool(has(site, "q_norm_weight") or has(site, "k_norm_weight"))
    defines |= {
        "QKV": 1, "ACT": kind_of(site, "x"), "HEAD_NORM": int(normed),
        "WIDTH": bucket(size - angles) if normed else 1,
        **{f"{n}_FORMAT": i for n, i in zip("QKV", which, strict=True)},
    }  # fmt: skip
    present = ("q_bias", "k_bias", "v_bias", "q_norm_weight", "k_norm_weight")
    rest: list[Argument] = [
        "cos", "sin", Units("k_cache"), Units("v_cache"), "slot_mapping", "norm_weight", *present,
        heads, kv_heads, size, v_size, angles, columns, "parts",
        sum(has(site, n) << bit for bit, n in enumerate(present)), has(site, "norm_weight"),
        _CACHES.index(kind_of(site, "k_cache")), int(site.attrs.interleaved),
        float(site.attrs.eps), float(site.attrs.head_eps),
    ]  # fmt: skip
    every = heads + 2 * kv_heads
    if parts:
        lanes = parts[0].packed.layout.lanes  # type: ignore[union-attr]  # all are
        beside = not site.attrs.interleaved and not any(
            n % lanes for n in (size, angles, v_size // 2, v_size)
        )
        reads = Reads.of(site, _QKV, parts, beside)
        defines |= {"HEAD_NORM": 1, "WIDTH": bucket(size - angles)}
        arguments = ["q", "x", "weight 0", "weight 1", "weight 2", *rest]
        return on_tiles(
            site, "qkv_rotary_store", _QKV, reads, arguments, units, tokens, defines, every, normed
        )
    weights = [one for w in _QKV for one in (Units(w), row_bytes(site, w))]
    defines["HAS_NORM"] = has(site, "norm_weight")
    arguments = ["q", "x", *weights, *rest]
    return on_rows(site, "qkv_rotary_store", arguments, units, tokens, defines, every, normed)


def _many_qkv(site: Site, tokens: Length, packed: bool) -> Sequence[ClLaunch | Chain]:
    size, v_size = constant(site, "k_cache", 3), constant(site, "v_cache", 3)
    heads, kv_heads = constant(site, "q", 1), constant(site, "k_cache", 2)
    columns = constant(site, "x", 1)
    q_width, k_width, v_width = heads * size, kv_heads * size, kv_heads * v_size
    body = Body(site, [columns, *2 * [q_width], *3 * [k_width], v_width], packed)
    given = site.operands
    y = body.norm(given["x"], "norm_weight", site.attrs.eps)

    def split(name: str, count: int, width: int) -> Operand:
        made = body.linear(body.value(tokens, count * width), y, f"{name}_")
        return replace(made, shape=(tokens, count, width))

    def turn(value: Operand, name: str, out: Operand) -> Operand:
        normed = body.norm(value, f"{name}_norm_weight", site.attrs.head_eps)
        attrs = {"interleaved": site.attrs.interleaved}
        angles = {n: given[n] for n in ("cos", "sin")}
        body.add(rotary.rotary_embedding, ops.rotary_embedding, attrs, out=out, x=normed, **angles)
        return out

    turn(split("q", heads, size), "q", site.operand("q"))
    k = turn(split("k", kv_heads, size), "k", body.value(tokens, kv_heads, size))
    v = split("v", kv_heads, v_size)
    rest = {n: given[n] for n in ("k_cache", "v_cache", "slot_mapping")}
    body.add(attention.store_kv, ops.store_kv, {}, k=k, v=v, **rest)
    return body.parts
