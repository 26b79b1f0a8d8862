"""Operators whose inputs depend on each other: indices, caches, ragged batches, logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from hypothesis import strategies as st

from perfxlm_core.conformance.case import Case, Variant
from perfxlm_core.conformance.family import LENGTHS, Arrays, Family, dtype_of, precise, words_of
from perfxlm_core.conformance.values import constant, floats, generator
from perfxlm_core.ops.formats import FORMATS
from perfxlm_core.ops.spec import Op, Param

HEAD_DIMS = (1, 2, 3, 7, 8, 16, 17, 31, 32, 64, 65, 128)
BLOCKS_OF_FORMAT = (1, 2, 3, 5)


class Linear(Family):
    """Weights in whole blocks; 8-bit activations where `exact=False` allows them."""

    def length(self, word: str, variant: Variant) -> st.SearchStrategy[int]:
        """Rows of quantized weights are whole blocks."""
        known = FORMATS.get(variant.format or "")
        if word in ("in_features", "hidden") and known is not None:
            block = known.block_size
            return st.sampled_from(BLOCKS_OF_FORMAT).map(lambda n: n * block)
        return st.sampled_from(LENGTHS) if word == "out_features" else super().length(word, variant)

    def _rounds(self, case: Case) -> bool:
        return case.format in FORMATS and not case.attrs.get("exact", True)

    def tolerance(self, op: Op[..., Any], case: Case) -> float:
        """Two percent where activations may be rounded to 8 bits."""
        return 0.02 if self._rounds(case) else super().tolerance(op, case)

    def disturbed(self, case: Case, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """Activations half a step of 8 bits away, where they may be rounded so."""
        made = super().disturbed(case, arrays, rng)
        if self._rounds(case):
            x = precise(arrays["x"])
            runs = np.abs(x.reshape(*x.shape[:-1], x.shape[-1] // 32, 32)).max(
                axis=-1, keepdims=True
            )
            half = np.broadcast_to(runs / 254, (*runs.shape[:-1], 32)).reshape(x.shape)
            made["x"] = x + half * rng.uniform(-1, 1, x.shape)
        return made


class Embedding(Linear):
    """Ids anywhere in the table, its first and last row among them."""

    def length(self, word: str, variant: Variant) -> st.SearchStrategy[int]:
        """The vocabulary as any other length."""
        return st.sampled_from(LENGTHS) if word == "vocab" else super().length(word, variant)

    def attribute(self, draw: st.DrawFn, op: Op[..., Any], name: str, variant: Variant) -> Any:  # noqa: ANN401
        """The dtype is that of the activations."""
        return variant.dtype if name == "dtype" else super().attribute(draw, op, name, variant)

    def indices(
        self,
        name: str,
        shape: tuple[int, ...],
        case: Case,
        env: Mapping[str, Any],
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Random ids."""
        return _below(rng, shape, env["vocab"])


class TakeRows(Family):
    """Any dtype, bit for bit."""

    exact = True

    def step(self, draw: st.DrawFn, op: Op[..., Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
        """At least one row to take from."""
        made = super().step(draw, op, sizes)
        return {**made, "rows_in": max(1, made["rows_in"])}

    def indices(
        self,
        name: str,
        shape: tuple[int, ...],
        case: Case,
        env: Mapping[str, Any],
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Random rows."""
        return _below(rng, shape, env["rows_in"])


class RotaryTable(Family):
    """Positions from 0 to far beyond any context."""

    def array(
        self,
        param: Param,
        case: Case,
        env: Mapping[str, Any],
        rng: np.random.Generator,
        fixed: bool,
    ) -> Any:  # noqa: ANN401
        """Frequencies fall from 1, so that angles stay below 1e6."""
        if param.name != "inverse_frequencies":
            return super().array(param, case, env, rng, fixed)
        made = np.power(1e4, -rng.random(env["half"])).astype(np.float32)
        made[0] = 1
        return constant(param.name, made) if fixed else made

    def indices(
        self,
        name: str,
        shape: tuple[int, ...],
        case: Case,
        env: Mapping[str, Any],
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Small, large, and in between."""
        return rng.integers(0, 10 ** rng.integers(1, 7, shape)).astype(np.int32)

    def reference(self, op: Op[..., Any], case: Case, arrays: Arrays) -> tuple[np.ndarray, ...]:
        """Sines and cosines in float64 of the float32 angle, which the definition asks for."""
        inverse = arrays["inverse_frequencies"]
        inverse = inverse if isinstance(inverse, np.ndarray) else inverse.array()
        angles = (arrays["positions"][:, None].astype(np.float32) * inverse).astype(np.float64)
        factor = self.full_attributes(op, case)["attention_factor"]
        return factor * np.cos(angles), factor * np.sin(angles)

    def tolerance(self, op: Op[..., Any], case: Case) -> float:
        """Rounding of the product with the factor."""
        return 2.0**-23

    def floor(self, op: Op[..., Any], case: Case, arrays: Arrays) -> float:
        """2e-7, times the factor."""
        return 2e-7 * float(case.attrs.get("attention_factor", 1.0))

    def disturbed(self, case: Case, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """Nothing: the angle is defined to the last bit."""
        return arrays


class Rotary(Family):
    """Whole and partial rotations by angles of the unit circle."""

    def sizes(self, draw: st.DrawFn, op: Op[..., Any], variant: Variant) -> dict[str, Any]:
        """Half of the rotated elements is at most half a head."""
        dim = draw(st.sampled_from([d for d in HEAD_DIMS if d > 1]))
        some = st.sampled_from([h for h in (1, 2, 3, 4, 8, 16, 24) if h <= dim // 2])
        half = draw(st.one_of(st.just(dim // 2), some))
        return {"heads": draw(st.sampled_from([1, 2, 3, 9])), "head_dim": dim, "half": half}

    def arrays(self, op: Op[..., Any], case: Case, index: int) -> Arrays:
        """Cosine and sine of the same angle."""
        made = super().arrays(op, case, index)
        angles = generator(case.seed, "angles", index).uniform(-7, 7, made["cos"].shape)
        dtype = made["cos"].dtype
        return {**made, "cos": np.cos(angles).astype(dtype), "sin": np.sin(angles).astype(dtype)}


class StoreKv(Family):
    """Slots in any order, some tokens not kept; the rest of the cache must survive."""

    exact = True

    def sizes(self, draw: st.DrawFn, op: Op[..., Any], variant: Variant) -> dict[str, Any]:
        """A cache with room for every token of a step."""
        found = {w: draw(st.sampled_from(HEAD_DIMS)) for w in ("head_dim", "v_head_dim")}
        if draw(st.booleans()):
            found["v_head_dim"] = found["head_dim"]
        found["kv_heads"] = draw(st.sampled_from([1, 2, 3, 5]))
        found["block_size"] = draw(st.sampled_from([1, 2, 3, 8, 16]))
        return {**found, "blocks": -(-65 // found["block_size"]) + draw(st.sampled_from([0, 1, 3]))}

    def indices(
        self,
        name: str,
        shape: tuple[int, ...],
        case: Case,
        env: Mapping[str, Any],
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Different slots, and -1 for about one token in eight."""
        slots = rng.permutation(env["blocks"] * env["block_size"])[: shape[0]]
        return np.where(rng.random(shape) < 0.125, -1, slots).astype(np.int32)

    def reference(self, op: Op[..., Any], case: Case, arrays: Arrays) -> tuple[np.ndarray, ...]:
        """The caches after the writing."""
        copies = {**arrays, **{n: arrays[n].copy() for n in op.updates}}
        op.fn(**copies)
        return tuple(copies[n] for n in op.updates)


class PagedAttention(Family):
    """Ragged batches of prompts, chunks and single tokens over permuted blocks."""

    def sizes(self, draw: st.DrawFn, op: Op[..., Any], variant: Variant) -> dict[str, Any]:
        """Heads in groups, blocks of any size."""
        kv_heads = draw(st.sampled_from([1, 2, 3]))
        dim = draw(st.sampled_from(HEAD_DIMS))
        return {
            "heads": kv_heads * draw(st.sampled_from([1, 2, 3, 4])),
            "kv_heads": kv_heads,
            "head_dim": dim,
            "v_head_dim": draw(st.one_of(st.just(dim), st.sampled_from(HEAD_DIMS))),
            "block_size": draw(st.sampled_from([1, 2, 4, 7, 8, 16])),
            "max_blocks": draw(st.sampled_from([1, 2, 3, 5, 9])),
        }

    def step(self, draw: st.DrawFn, op: Op[..., Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Context length and new tokens of each sequence; whether sequences share a prefix."""
        size, limit = sizes["block_size"], sizes["block_size"] * sizes["max_blocks"]
        near = [n for k in range(1, sizes["max_blocks"] + 1) for n in (k * size - 1, k * size)]
        edges = [n for n in (*near, *(n + 2 for n in near)) if 1 <= n <= limit]
        length = st.one_of(st.sampled_from(edges), st.integers(1, limit))
        pairs = length.flatmap(
            lambda n: st.tuples(
                st.just(n), st.one_of(st.just(1), st.just(n), st.integers(0, n)).map(int)
            )
        )
        batch = draw(st.lists(pairs, min_size=1, max_size=4))
        return {"sequences": tuple(batch), "share": draw(st.booleans())}

    def filled(self, step: Mapping[str, Any]) -> dict[str, Any]:
        """Every sequence has a token."""
        return {**step, "sequences": tuple((n, max(1, m)) for n, m in step["sequences"])}

    def attribute(self, draw: st.DrawFn, op: Op[..., Any], name: str, variant: Variant) -> Any:  # noqa: ANN401
        """Half of the cases plain."""
        choices: Mapping[str, list[Any]] = {
            "scale": [None, None, 0.3, 0.0],
            "window": [None, None, None, 1, 2, 3, 8, 17],
            "soft_cap": [None, None, 2.0, 30.0],
        }
        return draw(st.sampled_from(choices[name]))

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

    def arrays(self, op: Op[..., Any], case: Case, index: int) -> Arrays:
        """NaN in every slot that no sequence uses, and in the block that unused entries name."""
        env = self.environment(op, case, index)
        made: Arrays = {}
        for param in op.params:
            shape = tuple(case.sizes.get(w, env.get(w)) for w in param.dims)
            rng = generator(case.seed, param.name, index)
            if param.name == "q" or (param.name == "sinks" and "sinks" in case.given):
                fixed = self.is_constant(param, case)
                rng = generator(case.seed, param.name, 0 if fixed else index)
                array = floats(rng, shape, dtype_of(param, case), case.values)
                made[param.name] = constant(param.name, array) if fixed else array
            elif param.name == "sinks":
                made["sinks"] = None
            elif param.dtype.name == "C":
                made[param.name] = floats(rng, shape, dtype_of(param, case), case.values)
        batch, size = case.steps[index]["sequences"], case.sizes["block_size"]
        tables, used = self._blocks(case, index, env["blocks"])
        for name in ("k_cache", "v_cache"):
            made[name][~used] = np.nan
        starts = np.cumsum([0, *(m for _, m in batch)])
        assert tables.shape[1] * size >= max(n for n, _ in batch)
        made["block_tables"] = tables
        made["seq_lens"] = np.array([n for n, _ in batch], np.int32)
        made["query_starts"] = starts.astype(np.int32)
        return {p.name: made[p.name] for p in op.params}

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

    def magnitude(
        self, op: Op[..., Any], case: Case, arrays: Arrays, want: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, ...]:
        """The same weights over absolute values: values that cancel are no kernel's fault."""
        return self.reference(op, case, {**arrays, "v_cache": np.abs(arrays["v_cache"])})

    def disturbed(self, case: Case, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """The scale too is only a float32."""
        made = super().disturbed(case, arrays, rng)
        return {**made, "q": made["q"] * (1 + 2.0**-24)}


class Logits(Family):
    """Rows of logits; every second case has many equal ones."""

    def arrays(self, op: Op[..., Any], case: Case, index: int) -> Arrays:
        """Equal logits are whole numbers."""
        made = super().arrays(op, case, index)
        if case.seed % 2:
            logits = made["logits"]
            made["logits"] = np.rint(logits.astype(np.float32)).astype(logits.dtype)
        return made

    def indices(
        self,
        name: str,
        shape: tuple[int, ...],
        case: Case,
        env: Mapping[str, Any],
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Random tokens."""
        return _below(rng, shape, env["vocab"])


class Greedy(Logits):
    """One right answer, equal logits or not."""

    exact = True


class Softmax(Family):
    """Rows of any length; the definition leaves the shape open, so the cases choose it."""

    def draw(self, draw: st.DrawFn, op: Op[..., Any], variant: Variant) -> Case:
        """The last axis, or the one before."""
        case = super().draw(draw, _rows(op), variant)
        return replace(case, op=op.name, attrs={"axis": draw(st.sampled_from([-1, -1, -2]))})

    def lengths(self, case: Case, index: int) -> dict[str, int]:
        """At least one row, so that the axis before the last is not empty."""
        return {n: max(1, v) for n, v in case.steps[index].items()}

    def largest(self, op: Op[..., Any], case: Case) -> dict[str, int]:
        """As for `*batch hidden`."""
        return super().largest(_rows(op), case)

    def environment(self, op: Op[..., Any], case: Case, index: int | None) -> dict[str, Any]:
        """As for `*batch hidden`."""
        return super().environment(_rows(op), case, index)

    def arrays(self, op: Op[..., Any], case: Case, index: int) -> Arrays:
        """As for `*batch hidden`."""
        return super().arrays(_rows(op), case, index)


def _rows(op: Op[..., Any]) -> Any:  # noqa: ANN401 - what Family reads of an operator
    """The operator with its open shape made `*batch hidden`."""
    from types import SimpleNamespace

    params = tuple(replace(p, dims=("*batch", "hidden")) for p in op.params)
    return SimpleNamespace(name=op.name, params=params, attributes=op.attributes)


def _below(rng: np.random.Generator, shape: tuple[int, ...], limit: int) -> np.ndarray:
    """Indices in `[0, limit)`, the last and the first among them."""
    made = rng.integers(0, limit, shape)
    made[:1], made[1:2] = limit - 1, 0
    return made.astype(np.int32)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "linear": Linear(),
        "embedding": Embedding(),
        "take_rows": TakeRows(),
        "rotary_table": RotaryTable(),
        "rotary_embedding": Rotary(),
        "store_kv": StoreKv(),
        "paged_attention": PagedAttention(),
        "greedy": Greedy(),
        "log_probabilities": Logits(),
        "softmax": Softmax(),
        "log_softmax": Softmax(),
    }
)
"""Operator -> its own family."""


def family_of(op: Op[..., Any]) -> Family | None:
    """The family of an operator; None if its definition alone does not say what inputs are legal.

    That is so for indices and open shapes, which need a family of their own.
    """
    if op.name in FAMILIES:
        return FAMILIES[op.name]
    plain = all(
        not p.any_shape and not p.variadic and p.dtype.name in ("T", "F32", "W") for p in op.params
    )
    return Family() if plain and op.params and words_of(op) else None
