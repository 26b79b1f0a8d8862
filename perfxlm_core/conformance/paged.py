"""Cases of the paged cache: what writes it, and attention over it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

from perfxlm_core.conformance.case import Case
from perfxlm_core.conformance.draws import HEAD_DIMS, LARGE_HEADS, Draws
from perfxlm_core.conformance.family import Arrays, Family
from perfxlm_core.conformance.rows import Batch, sequence_batches
from perfxlm_core.conformance.values import FINITE, generator
from perfxlm_core.ops.spec import Op

BLOCK_SIZES = (1, 2, 4, 7, 8, 16, 3, 5, 32, 33, 64, 128)
LONG_SIZES = (16, 32, 48, 128)
"""Block sizes of caches that hold long contexts."""
MOST_TABLE = 4096
"""Slots of a sequence's table where contexts are long; and of a real model's twice as many."""
MOST_ROWS = 150
"""Heads times new tokens of a sequence at most, or eight tokens."""
MOST_SCORES = 1 << 17
"""Scores of a sequence at most, or one token: heads times new tokens times context. A real model's
may be 32 times as many."""


class StoreKv(Family):
    """Slots in any order, some tokens not kept; the rest of the cache must survive."""

    exact = True
    kinds: tuple[str, ...] = (*FINITE, "denormal", "infinite")

    def sizes(self, at: Draws) -> dict[str, Any]:
        """A cache with room for every token of a step."""
        found = {w: at.length("head_dim", HEAD_DIMS) for w in ("head_dim", "v_head_dim")}
        if at.flag():
            found["v_head_dim"] = found["head_dim"]
        found["kv_heads"] = at.one_of(LARGE_HEADS)[1] if at.large else at.one_of([1, 2, 3, 5])
        found["block_size"] = at.one_of(LONG_SIZES if at.large else BLOCK_SIZES)
        needed = -(-(512 if at.large else 65) // found["block_size"])
        return {**found, "blocks": needed + at.one_of([0, 1, 3])}

    def indices(
        self,
        name: str,
        shape: tuple[int, ...],
        env: Mapping[str, Any],
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Different slots, and -1 for about one token in eight."""
        return slots_to_write(shape, env, rng)

    def reference(self, op: Op[..., Any], case: Case, arrays: Arrays) -> tuple[np.ndarray, ...]:
        """The caches after the writing."""
        copies = {**arrays, **{n: arrays[n].copy() for n in op.updates}}
        op.fn(**copies)
        return tuple(copies[n] for n in op.updates)


class StoreKvInt8(StoreKv):
    """The same with scales; keys and values are finite, some of them very small."""

    kinds = (*FINITE, "denormal")


class PagedAttention(Family):
    """Ragged batches of prompts, chunks and single tokens over permuted blocks.

    One case in eight has contexts of up to a few thousand tokens, and few heads.
    """

    def sizes(self, at: Draws) -> dict[str, Any]:
        """Heads in groups, blocks of any size."""
        if at.large:
            heads, kv_heads = at.one_of(LARGE_HEADS)
            dim, limit = at.one_of([64, 128]), 2 * MOST_TABLE
            most = min(limit, 2**25 // (heads * dim))
            return self._sized(at, heads, kv_heads, dim, dim, LONG_SIZES, most)
        long = at.one_of([False] * 7 + [True])
        kv_heads = 1 if long else at.one_of([1, 2, 3])
        dim = at.one_of([8, 64] if long else HEAD_DIMS)
        v_dim = dim if long or at.flag() else at.one_of(HEAD_DIMS)
        groups = [1, 2] if long else [1, 2, 3, 4, 7, 9][: 9 - 2 * kv_heads]
        heads = kv_heads * at.one_of(groups)
        if long:
            return self._sized(at, heads, kv_heads, dim, v_dim, LONG_SIZES, MOST_TABLE)
        found = self._sized(at, heads, kv_heads, dim, v_dim, BLOCK_SIZES, 128)
        few = [n for n in (1, 2, 3, 5, 9) if n * found["block_size"] <= 144]
        return {**found, "max_blocks": at.one_of(few)}

    def _sized(
        self,
        at: Draws,
        heads: int,
        kv_heads: int,
        dim: int,
        v_dim: int,
        blocks: tuple[int, ...],
        most: int,
    ) -> dict[str, Any]:
        size = at.one_of(blocks)
        return {
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": dim,
            "v_head_dim": v_dim,
            "block_size": size,
            "max_blocks": max(1, most // size),
        }

    def step(self, at: Draws, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Context length and new tokens of each sequence; whether sequences share a prefix."""
        size, count = sizes["block_size"], sizes["max_blocks"]
        limit = size * count
        long = limit > 1000
        few = {1, 2, count // 2 + 1, count} if long else set(range(1, count + 1))
        near = sorted(k * size + d for k in few for d in (-1, 0, 1))
        edges = [n for n in near if 1 <= n <= limit]
        length = st.one_of(st.sampled_from(edges), st.integers(0, limit))
        pairs = length.flatmap(lambda n: st.tuples(st.just(n), _new(n, sizes["heads"], at.large)))
        batch = at.draw(st.lists(pairs, min_size=1, max_size=2 if long else 4))
        return {"sequences": tuple(batch), "share": at.flag()}

    def filled(self, step: Mapping[str, Any]) -> dict[str, Any]:
        """Every sequence has a token."""
        batch = tuple((max(1, n), max(1, m)) for n, m in step["sequences"])
        return {**step, "sequences": batch}

    def attribute(self, at: Draws, name: str) -> Any:  # noqa: ANN401
        """Half of the cases plain."""
        choices: Mapping[str, list[Any]] = {
            "scale": [None, None, 0.3, 0.0],
            "window": [None, None, None, 1, 2, 3, 8, 17, 64, 1 << 20],
            "soft_cap": [None, None, 2.0, 30.0],
        }
        return at.one_of(choices[name])

    def lengths(self, case: Case, index: int) -> dict[str, int]:
        """Tokens and sequences of a step."""
        batch = case.steps[index]["sequences"]
        return {"tokens": sum(m for _, m in batch), "seqs": len(batch)}

    def environment(self, op: Op[..., Any], case: Case, index: int | None) -> dict[str, Any]:
        """The cache has the same number of blocks in every step."""
        needed = [
            sum(-(-n // case.sizes["block_size"]) for n, _ in s["sequences"]) for s in case.steps
        ]
        return {**super().environment(op, case, index), "blocks": max(needed) + 2}

    unused: tuple[str, ...] = ("k_cache", "v_cache")
    """What holds NaN in slots that no sequence uses."""

    def arrays(self, op: Op[..., Any], case: Case, index: int) -> Arrays:
        """NaN in every slot that no sequence uses, and in the block that unused entries name."""
        env = self.environment(op, case, index)
        made = super().arrays(op, case, index)
        batch = case.steps[index]["sequences"]
        tables, used = self._blocks(case, index, env["blocks"])
        for name in self.unused:
            made[name][~used] = np.nan
        made["block_tables"] = tables
        made["seq_lens"] = np.array([n for n, _ in batch], np.int32)
        made["query_starts"] = np.cumsum([0, *(m for _, m in batch)]).astype(np.int32)
        return made

    def indices(
        self,
        name: str,
        shape: tuple[int, ...],
        env: Mapping[str, Any],
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Made together, see `arrays`."""
        return np.zeros(shape, np.int32)

    def _blocks(self, case: Case, index: int, blocks: int) -> tuple[np.ndarray, np.ndarray]:
        """Tables of the sequences, and a mask [blocks, block_size] of the slots in use."""
        step, size = case.steps[index], case.sizes["block_size"]
        order = generator(case.seed, "blocks", index).permutation(blocks).tolist()
        nowhere = order.pop()
        tables = np.full((len(step["sequences"]), case.sizes["max_blocks"]), nowhere, np.int32)
        used = np.zeros((blocks, size), bool)
        for s, (n, _) in enumerate(step["sequences"]):
            whole = -(-n // size)
            tables[s, :whole] = [order.pop() for _ in range(whole)]
            if step["share"]:  # leading blocks that both sequences fill
                both = min(n, step["sequences"][0][0]) // size
                tables[s, :both] = tables[0, :both]
            for j, block in enumerate(tables[s, :whole]):
                used[block, : min(size, n - j * size)] = True
        return tables, used

    def batches(
        self,
        op: Op[..., Any],
        case: Case,
        arrays: Arrays,
        largest: Mapping[str, int],
        rng: np.random.Generator,
    ) -> Iterable[Batch]:
        """Sequences, and parts of them."""
        return sequence_batches(arrays, largest, rng)

    def magnitude(
        self, op: Op[..., Any], case: Case, arrays: Arrays, want: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, ...]:
        """The same weights over absolute values: values that cancel are no kernel's fault."""
        return self.reference(op, case, {**arrays, "v_cache": np.abs(arrays["v_cache"])})

    def disturbed(self, case: Case, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """Queries four times as far off: scores are differences of larger sums, in float32."""
        made = super().disturbed(case, arrays, rng)
        return {**made, "q": made["q"] * (1 + 2.0**-21 * rng.uniform(-1, 1, made["q"].shape))}


class PagedAttentionInt8(PagedAttention):
    """Codes of any size; those of unused slots are anything, and their scales NaN."""

    unused = ("k_scales", "v_scales")

    def numbers(
        self, rng: np.random.Generator, shape: tuple[int, ...], dtype: str, kind: str
    ) -> np.ndarray:
        """Codes as `store_kv_int8` makes them; floats of a kind."""
        if dtype == "int8":
            return rng.integers(-127, 128, shape, np.int8)
        return super().numbers(rng, shape, dtype, kind)

    def arrays(self, op: Op[..., Any], case: Case, index: int) -> Arrays:
        """Scales are not negative, and make the largest values what the kind of numbers says."""
        made = super().arrays(op, case, index)
        return {**made, **{n: np.abs(made[n]) / np.float32(127) for n in self.unused}}


def slots_to_write(
    shape: tuple[int, ...], env: Mapping[str, Any], rng: np.random.Generator
) -> np.ndarray:
    """Different slots of a cache, and -1 for about one token in eight."""
    slots = rng.permutation(env["blocks"] * env["block_size"])[: shape[0]]
    return np.where(rng.random(shape) < 0.125, -1, slots).astype(np.int32)


def _new(context: int, heads: int, large: bool) -> st.SearchStrategy[int]:
    """New tokens of a sequence: one, the whole prompt or a chunk; fewer where contexts are long."""
    if not context:
        return st.just(0)
    rows, scores = (512, MOST_SCORES << 5) if large else (max(8, MOST_ROWS // heads), MOST_SCORES)
    most = min(context, rows, scores // (heads * context) + 1)
    return st.one_of(st.just(1), st.just(most), st.integers(0, most))
