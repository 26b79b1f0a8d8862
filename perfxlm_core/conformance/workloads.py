"""What kernels are timed with: shapes of two usual model sizes, and what a launch must move.

A workload is one node with weights of its own, launched with several batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from perfxlm_core.conformance.case import Variant
from perfxlm_core.conformance.dimensions import dtype_of, shape_of, words_of
from perfxlm_core.ops.formats import FORMATS, format_nbytes
from perfxlm_core.ops.spec import Op, Param
from perfxlm_core.ops.types import itemsize

BLOCK = 16
"""Tokens of a cache block."""
CONTEXT = 4096
SEQUENCES = 8
LARGEST = 320 * 2**20
"""Weights of more bytes are not timed."""

SMALL = {"hidden": 576, "intermediate": 1536, "heads": 9, "kv_heads": 3, "vocab": 49152}
LARGE = {"hidden": 2048, "intermediate": 8192, "heads": 32, "kv_heads": 8, "vocab": 128256}
HEAD_DIM = 64
_ATTENTIONS = ("paged_attention", "paged_attention_int8")


@dataclass(frozen=True)
class Batch:
    """What one launch computes.

    Attributes:
        label: for tables.
        sequences: `(context, new tokens)` of each.
    """

    label: str
    sequences: tuple[tuple[int, int], ...]

    @property
    def tokens(self) -> int:
        """New tokens of all sequences."""
        return sum(new for _, new in self.sequences)

    @property
    def sizes(self) -> dict[str, int]:
        """Lengths of the symbolic dimensions."""
        return {
            "tokens": self.tokens,
            "rows": self.tokens,
            "rows_in": self.tokens,
            "seqs": len(self.sequences),
        }


@dataclass(frozen=True)
class Workload:
    """One node to time.

    Attributes:
        label: its shape, for tables.
        sizes: lengths of the words that are known when it is bound.
        batches: what it is launched with.
        attrs: attributes that are not left at their defaults.
    """

    label: str
    sizes: Mapping[str, Any]
    batches: tuple[Batch, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def concrete(self, batch: Batch) -> dict[str, Any]:
        """Word -> length in one launch; leading dimensions are a tuple."""
        lead = (batch.tokens, *self.sizes.get("tail", ()))
        return {**self.sizes, **batch.sizes, "batch": lead}


def rows(count: int) -> Batch:
    """So many sequences that each bring one token."""
    return Batch(f"{count} row" + "s" * (count > 1), ((1, 1),) * count)


DECODE = (rows(1), rows(8))
EVERY = (*DECODE, rows(512))
ATTENTION = (
    Batch("1 x 128", ((128, 1),)),
    Batch("8 x 128", ((128, 1),) * SEQUENCES),
    Batch("1 x 4096", ((CONTEXT, 1),)),
    Batch("8 x 4096", ((CONTEXT, 1),) * SEQUENCES),
    Batch("prompt of 512", ((512, 512),)),
)


def workloads(op: Op[..., Any], variant: Variant) -> list[Workload]:
    """What an operator is timed with; empty if nothing usual is known for it."""
    made = [w for model in (SMALL, LARGE) for w in _of(op, model, variant)]
    return [w for w in made if _sensible(op, w, variant)]


def _of(op: Op[..., Any], model: Mapping[str, int], variant: Variant) -> list[Workload]:
    """The workloads of one size of model."""
    hidden, wide, vocab = model["hidden"], model["intermediate"], model["vocab"]
    if op.name == "linear":
        inner, outer = (wide, hidden) if model is SMALL else (hidden, wide)
        attrs: dict[str, Any] = {"exact": variant.format not in FORMATS}
        return [
            Workload(f"{o}x{i}", {"in_features": i, "out_features": o}, batches, attrs)
            for o, i, batches in ((outer, inner, EVERY), (vocab, hidden, DECODE))
        ]
    if op.name in (*_ATTENTIONS, "store_kv", "store_kv_int8", "rotary_embedding", "rotary_table"):
        heads = {"heads": model["heads"], "kv_heads": model["kv_heads"]}
        blocks = {"blocks": SEQUENCES * CONTEXT // BLOCK, "max_blocks": CONTEXT // BLOCK}
        dims = {"head_dim": HEAD_DIM, "v_head_dim": HEAD_DIM, "half": HEAD_DIM // 2}
        label = f"{heads['heads']}/{heads['kv_heads']} heads of {HEAD_DIM}"
        batches: tuple[Batch, ...] = ATTENTION if op.name in _ATTENTIONS else EVERY
        return [Workload(label, {**heads, **blocks, **dims, "block_size": BLOCK}, batches)]
    known = {"hidden": hidden, "vocab": vocab}
    words = words_of(op)
    attrs = {"factor": 0.5} if op.name == "scale" else {"cap": 30.0}
    attrs = {n: v for n, v in attrs.items() if n in op.attributes}
    if words == ["*batch"]:
        return [Workload(str(wide), {"tail": (wide,)}, EVERY, attrs)]
    if any(w not in (*known, "*batch", "tokens", "rows", "rows_in") for w in words) or not words:
        return []
    used = {w: n for w, n in known.items() if w in words}
    if "dtype" in op.attributes:
        attrs = {"dtype": variant.dtype}
    batches = DECODE if words == ["rows", "vocab"] else EVERY
    return [Workload("x".join(map(str, reversed(used.values()))), used, batches, attrs)]


def _sensible(op: Op[..., Any], work: Workload, variant: Variant) -> bool:
    """Whether rows of weights are whole blocks and no operand is too large."""
    for param in op.params:
        if param.dtype.any_format:
            shape = shape_of(param, work.concrete(work.batches[0]))
            known = FORMATS.get(variant.format or "")
            if known is not None and shape[-1] % known.block_size:
                return False
            if format_nbytes(variant.format or variant.dtype, shape) > LARGEST:
                return False
    return True


def operand_dtype(param: Param, variant: Variant) -> str:
    """The dtype of an operand that is not a weight."""
    from perfxlm_core.conformance.case import Case

    if param.dtype.name == "I32":
        return "int32"
    return dtype_of(param, Case("", variant.dtype, variant.format, variant.cache_dtype))


def traffic(op: Op[..., Any], work: Workload, variant: Variant, batch: Batch) -> int:
    """Bytes that a launch must read and write: each operand once, weights as they are stored.

    Of tables only the rows that are looked up count, of caches the slots that are visible.
    """
    env = work.concrete(batch)
    total = 0
    for param in (*op.params, *op.outputs):
        if param.optional:
            continue
        shape = shape_of(param, env)
        if param.dtype.any_format:
            looked_up = (batch.tokens, *shape[1:]) if op.name == "embedding" else shape
            total += format_nbytes(variant.format or variant.dtype, looked_up)
        elif param.is_cache:
            slots = batch.tokens if param.name in op.updates else sum(n for n, _ in batch.sequences)
            total += slots * prod(shape[2:]) * itemsize(operand_dtype(param, variant))
        elif param.name == "block_tables":
            total += 4 * sum(-(-n // BLOCK) for n, _ in batch.sequences)
        else:
            total += prod(shape) * itemsize(operand_dtype(param, variant))
    return total


def operations(op: Op[..., Any], work: Workload, batch: Batch) -> int | None:
    """Floating-point operations of a launch, a multiplication with an addition being two.

    None for operators whose time is never that of their arithmetic.
    """
    env = work.concrete(batch)
    if op.name == "linear":
        return 2 * batch.tokens * int(env["in_features"]) * int(env["out_features"])
    if op.name in _ATTENTIONS:
        pairs = sum(m * n - m * (m - 1) // 2 for n, m in batch.sequences)
        return 2 * pairs * int(env["heads"]) * int(env["head_dim"] + env["v_head_dim"])
    return None


def indices(
    param: Param, work: Workload, batch: Batch, copy: int, rng: np.random.Generator
) -> np.ndarray:
    """int32 operand of a launch; `copy` moves block tables to other blocks of the cache."""
    shape = shape_of(param, work.concrete(batch))
    contexts = np.array([n for n, _ in batch.sequences], np.int32)
    if param.name == "block_tables":
        order = np.random.default_rng(0).permutation(work.sizes["blocks"])
        moved = np.roll(order, -copy * shape[1])
        return moved[: prod(shape)].reshape(shape).astype(np.int32)
    if param.name == "seq_lens":
        return contexts
    if param.name == "query_starts":
        return np.cumsum([0, *(m for _, m in batch.sequences)]).astype(np.int32)
    if param.name == "slot_mapping":
        slots = work.sizes["blocks"] * work.sizes["block_size"]
        return rng.permutation(slots)[: shape[0]].astype(np.int32)
    limit = batch.tokens if param.name == "rows" else work.sizes.get("vocab", CONTEXT)
    return rng.integers(0, limit, shape).astype(np.int32)
