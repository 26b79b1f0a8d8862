"""Composite operators: one launch in steps of one token, their bodies' kernels in others.

A step of one token is bound by the time that weights and launches take, so what stands around a
linear layer is computed beside it. A step of many is bound by the products: there the layers' own
kernels are the better ones, and intermediate values lie in scratch memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from perfxlm_core import ops
from perfxlm_core.plugin import FORMATS, Attributes, Dims, Launch, Operand, Site
from perfxlm_opencl.kernels import attention, elementwise, linear, normalization, rotary
from perfxlm_opencl.kernels.collection import ACTIVATIONS, CACHES, WEIGHTS, kernels
from perfxlm_opencl.kernels.weights import parts_of, row_bytes
from perfxlm_opencl.launch import (
    KINDS,
    Argument,
    Chain,
    ClLaunch,
    Length,
    Tiles,
    Units,
    by_size,
    chain,
    constant,
    count,
    device_of,
    dtype_of,
    kind_of,
    launch,
    shape_of,
)
from perfxlm_opencl.programs import work_group_limit

BATCH = 4
"""Pairs of rows of a work-item, where it shares none with others."""
FEW = 1
"""Tokens of a step up to which a composite is one launch."""
FACTORED = ("q4_0", "q4_1", "q4_k", "q8_0")
"""Formats that cl/products.cl multiplies without decoding them first."""
_ALIGNED = 256
Defines = dict[str, str | int | float]


# Steps of many tokens: the bodies, over scratch memory


def _tokens(dims: Dims) -> int:
    total = 1
    for length in getattr(dims, "batch", (getattr(dims, "tokens", 1),)):
        total *= length
    return total


def _between(widths: Callable[[Any], Sequence[int]]) -> Callable[[Dims, Attributes], int]:
    """Scratch memory for intermediate values of these widths, in float32 at most."""

    def nbytes(dims: Dims, attrs: Attributes) -> int:
        return _bytes(widths(dims), _tokens(dims))

    return nbytes


def _bytes(widths: Sequence[int], tokens: int) -> int:
    return 4 * sum(widths) * tokens + _ALIGNED * len(widths)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNED) * _ALIGNED


@dataclass
class _Body:
    """The operators of a composite's body, bound one after the other.

    `widths` are those of the intermediate values, all of which fit the scratch memory together.
    """

    site: Site
    widths: Sequence[int]
    used: int = 0

    def __post_init__(self) -> None:
        self.parts: list[ClLaunch | Chain] = []

    def value(self, *shape: Length) -> Operand:
        """Room for an intermediate value, of the dtype of `x`."""
        scratch = self.site.scratch
        assert scratch is not None
        width = 1
        for length in shape[1:]:
            width *= int(length)
        made = Operand(
            "between", shape, dtype_of(self.site, "x"), scratch.buffer, scratch.offset + self.used
        )
        self.used += _aligned(4 * width * self._most())
        return made

    def _most(self) -> int:
        """Tokens that there is room for."""
        scratch = self.site.scratch
        assert scratch is not None
        nbytes = int(scratch.shape[0])
        return (nbytes - _bytes(self.widths, 0)) // (4 * sum(self.widths))

    def add(
        self,
        bind: Callable[[Site], Any],
        op: Any,  # noqa: ANN401
        attrs: Mapping[str, Any],
        **operands: Any,  # noqa: ANN401
    ) -> None:
        """Bind one operator of the body."""
        site = self.site
        inner = Site(op, Attributes(**attrs), operands, None, site.device, site.pack)
        self.parts.append(bind(inner))

    def linear(self, out: Operand, x: Any, prefix: str = "") -> Operand:  # noqa: ANN401
        """A linear layer whose weight and bias begin with `prefix`."""
        given = {n: self.site.operands[f"{prefix}{n}"] for n in ("weight", "bias")}
        attrs = {"exact": self.site.attrs.exact}
        self.add(linear.linear_as_filed, ops.linear, attrs, out=out, x=x, **given)
        return out

    def norm(self, x: Any, weight: str, eps: float) -> Any:  # noqa: ANN401
        """The norm of `x`; `x` itself where there is no weight."""
        by = self.site.operands[weight]
        if by is None:
            return x
        out = self.value(*x.shape)
        attrs = {"eps": eps}
        self.add(normalization.rms_norm, ops.rms_norm, attrs, out=out, x=x, weight=by)
        return out


def _flat(value: Operand) -> Operand:
    """A value as [tokens, features]."""
    return replace(value, shape=(count(value.shape[:-1]), value.shape[-1]))


# Steps of few tokens: cl/fused.cl


def _formats(site: Site, *weights: str) -> tuple[Defines, list[int]]:
    """FORMATS of cl/fused.cl, and which of them each weight has."""
    names = [dtype_of(site, w) for w in weights]
    different = list(dict.fromkeys(names))
    made: Defines = {"FORMATS": len(different)}
    for n, name in enumerate(different):
        plain = name not in FORMATS
        made[f"FORMAT_{n}"] = KINDS[name] if plain else name
        made[f"PRODUCT_{n}"] = f"add_{name}" if name in FACTORED else f"decoded_{n}"
        made[f"PLAIN_{n}"] = KINDS[name] if plain else "float"
        made[f"IS_PLAIN_{n}"] = int(plain)
    made["FORMAT"] = made["FORMAT_0"]
    return made, [different.index(n) for n in names]


def _whole(site: Site, *weights: str) -> bool:
    """Whether each weight lies in one buffer."""
    return all(len(parts_of(site, w, packed=False)) == 1 for w in weights)


def _present(site: Site, **names: str) -> Defines:
    """HAS_... for inputs that may be left out."""
    return {f"HAS_{macro}": int(site.operands[name] is not None) for macro, name in names.items()}


def _fused(
    site: Site,
    kernel: str,
    arguments: Sequence[Argument],
    units: int,
    tokens: Length,
    defines: Defines,
    heads: int = 0,
) -> ClLaunch:
    """A launch of cl/fused.cl.

    Args:
        units: pairs of rows; for `heads` heads, those of one.
    """
    device = device_of(site)
    alone = device.profile.row_items == 1
    lanes, items = (1, 8) if alone else (16, 4)
    batch = 1
    if alone and not heads:
        batch, items = BATCH, 4 if units < 16 * BATCH * device.facts.compute_units else 8
    while True:
        parts = 1 if defines.get("HEAD_NORM") else -(-units // items)
        shape = {"LANES": lanes, "ITEMS": items, "PARTS": parts, "UNITS": batch}
        shape |= {"IS_CPU": int(device.facts.is_cpu), "APART": int("GATED_LINEAR" in defines)}
        program = device.programs.build("fused.cl", {**defines, **shape})
        if lanes * items <= min(work_group_limit(device.device, program, kernel), _most(device)):
            break
        lanes, items = (lanes // 2, items) if items == 1 else (lanes, items // 2)
    groups = Tiles(heads * parts) if heads else Tiles(units, items * batch)
    return launch(
        site, "fused.cl", kernel, arguments, [Tiles(1), groups, Tiles(tokens)], [lanes, items, 1],
        program=program,
    )  # fmt: skip


def _most(device: Any) -> int:  # noqa: ANN401
    return int(device.profile.max_items)


# The operators


@kernels.binds(
    ops.linear_add,
    dtypes=ACTIVATIONS,
    formats=WEIGHTS,
    scratch=_between(lambda d: [d.out_features]),
)
def linear_add(site: Site) -> Launch:
    """Added where the products end."""
    rows, columns = constant(site, "weight", 0), constant(site, "weight", 1)
    tokens = count(shape_of(site, "x")[:-1])
    body = _Body(site, [rows])
    y = body.linear(body.value(tokens, rows), site.operands["x"])
    given = {"a": y, "b": _flat(site.operand("residual")), "out": _flat(site.operand("out"))}
    body.add(elementwise.add, ops.add, {}, **given)
    if not _whole(site, "weight"):
        return chain(*body.parts)
    defines, _ = _formats(site, "weight")
    defines |= {"LINEAR_ADD": 1, "ACT": kind_of(site, "x"), "HAS_NORM": 0}
    few = _fused(
        site, "linear_add",
        ["out", "x", Units("weight"), "residual", "bias", rows, columns, row_bytes(site, "weight")],
        -(-rows // 2), tokens, {**defines, **_present(site, BIAS="bias")},
    )  # fmt: skip
    return by_size(tokens, FEW, few, chain(*body.parts))


_GATES = {"silu": "silu_of", "gelu": "gelu_of", "gelu_tanh": "gelu_tanh_of"}


@kernels.binds(
    ops.gated_linear,
    dtypes=ACTIVATIONS,
    formats=WEIGHTS,
    scratch=_between(lambda d: [d.in_features, d.out_features, d.out_features]),
)
def gated_linear(site: Site) -> Launch:
    """Norm, gate and up side by side; one after the other where their formats differ."""
    rows, columns = constant(site, "gate_weight", 0), constant(site, "gate_weight", 1)
    tokens = count(shape_of(site, "x")[:-1])
    body = _Body(site, [columns, rows, rows])
    y = body.norm(_flat(site.operand("x")), "norm_weight", site.attrs.eps)
    gate, up = (body.linear(body.value(tokens, rows), y, f"{n}_") for n in ("gate", "up"))
    given = {"gate": gate, "up": up, "out": _flat(site.operand("out"))}
    if site.attrs.activation == "silu":
        body.add(elementwise.silu_and_mul, ops.silu_and_mul, {}, **given)
    else:
        form = "tanh" if site.attrs.activation == "gelu_tanh" else "none"
        body.add(elementwise.gelu_and_mul, ops.gelu_and_mul, {"approximate": form}, **given)
    defines, which = _formats(site, "gate_weight", "up_weight")
    if which[1] or not _whole(site, "gate_weight", "up_weight"):
        return chain(*body.parts)
    defines |= {"GATED_LINEAR": _GATES[site.attrs.activation], "ACT": kind_of(site, "x")}
    defines |= _present(site, NORM="norm_weight", GATE_BIAS="gate_bias", UP_BIAS="up_bias")
    few = _fused(
        site, "gated_linear",
        [
            "out", "x", Units("gate_weight"), Units("up_weight"), "norm_weight", "gate_bias",
            "up_bias", rows, columns, row_bytes(site, "gate_weight"), float(site.attrs.eps),
        ],
        rows, tokens, defines,
    )  # fmt: skip
    return by_size(tokens, FEW, few, chain(*body.parts))


def _qkv_widths(d: Any) -> Sequence[int]:  # noqa: ANN401
    return [d.in_features, *2 * [d.q_features], *3 * [d.k_features], d.v_features]


@kernels.binds(
    ops.qkv_rotary_store,
    dtypes=ACTIVATIONS,
    formats=WEIGHTS,
    cache_dtypes=CACHES,
    scratch=_between(_qkv_widths),
)
def qkv_rotary_store(site: Site) -> Launch:
    """All before attention: pairs of rows are turned and stored where their products end."""
    tokens = shape_of(site, "x")[0]
    many = chain(*_many_qkv(site, tokens))
    if not _whole(site, "q_weight", "k_weight", "v_weight"):
        return many
    return by_size(tokens, FEW, _few_qkv(site, tokens), many)


def _few_qkv(site: Site, tokens: Length) -> ClLaunch:
    size, v_size = constant(site, "k_cache", 3), constant(site, "v_cache", 3)
    heads, kv_heads = constant(site, "q", 1), constant(site, "k_cache", 2)
    columns, angles = constant(site, "x", 1), constant(site, "cos", 1)
    defines, which = _formats(site, "q_weight", "k_weight", "v_weight")
    defines |= {
        "ACT": kind_of(site, "x"), "CACHE": kind_of(site, "k_cache"), "HEAD_DIM": size,
        "V_HEAD_DIM": v_size, "ANGLES": angles,
        **{f"{n}_PAIR": f"pair_{i}" for n, i in zip("QKV", which, strict=True)},
        **_present(
            site, NORM="norm_weight", Q_BIAS="q_bias", K_BIAS="k_bias", V_BIAS="v_bias",
            Q_NORM="q_norm_weight", K_NORM="k_norm_weight",
        ),
    }  # fmt: skip
    defines["HEAD_NORM"] = int(defines["HAS_Q_NORM"] or defines["HAS_K_NORM"])
    weights = ("q_weight", "k_weight", "v_weight")
    return _fused(
        site, "qkv_rotary_store",
        [
            "q", "x", *(Units(w) for w in weights), "cos", "sin", "k_cache", "v_cache",
            "slot_mapping", "norm_weight", "q_bias", "k_bias", "v_bias", "q_norm_weight",
            "k_norm_weight", heads, kv_heads, columns, *(row_bytes(site, w) for w in weights),
            int(site.attrs.interleaved), float(site.attrs.eps), float(site.attrs.head_eps),
        ],
        max(size - angles, -(-v_size // 2)), tokens, defines, heads + 2 * kv_heads,
    )  # fmt: skip


def _many_qkv(site: Site, tokens: Length) -> Sequence[ClLaunch | Chain]:
    size, v_size = constant(site, "k_cache", 3), constant(site, "v_cache", 3)
    heads, kv_heads = constant(site, "q", 1), constant(site, "k_cache", 2)
    columns = constant(site, "x", 1)
    q_width, k_width, v_width = heads * size, kv_heads * size, kv_heads * v_size
    body = _Body(site, [columns, *2 * [q_width], *3 * [k_width], v_width])
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
