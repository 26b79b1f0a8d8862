"""Cases of composite operators: linear layers with what stands around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from perfxlm_core import ops
from perfxlm_core.conformance.arrays import precise
from perfxlm_core.conformance.case import Case
from perfxlm_core.conformance.draws import HEAD_DIMS, LARGE_HEADS, Draws
from perfxlm_core.conformance.family import Arrays
from perfxlm_core.conformance.indexed import Linear
from perfxlm_core.conformance.paged import BLOCK_SIZES, LONG_SIZES, slots_to_write
from perfxlm_core.conformance.values import generator
from perfxlm_core.ops.spec import Op


class Fused(Linear):
    """Results are judged by what they are sums and products of."""

    kinds = ("normal", "tiny", "zeros", "spiky")

    def draw(self, at: Draws) -> Case:
        """No outliers in float16, which what lies between could not hold."""
        case = super().draw(at)
        overflows = case.values == "spiky" and case.dtype == "float16"
        return replace(case, values="normal") if overflows else case

    def attribute(self, at: Draws, name: str) -> Any:  # noqa: ANN401
        """Every activation function; epsilons that count."""
        if name == "activation":
            return at.one_of(["silu", "gelu", "gelu_tanh"])
        return at.one_of([1e-6, 1e-3]) if name == "head_eps" else super().attribute(at, name)

    def disturbed(self, case: Case, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """Normalized activations half a step of 8 bits away, where they may be rounded so."""
        weight = arrays.get("norm_weight")
        if weight is None or not self._rounds(case):
            return super().disturbed(case, arrays, rng)
        by = precise(weight)
        scaled = super().disturbed(case, {**arrays, "x": precise(arrays["x"]) * by}, rng)
        x = np.where(by == 0, precise(arrays["x"]), scaled["x"] / np.where(by == 0, 1, by))
        return {**scaled, "x": x}

    def linear(self, case: Case, arrays: Arrays, prefix: str) -> np.ndarray:
        """One of the layers in float64, [rows, features]; `prefix` begins its inputs' names."""
        x, weight = precise(arrays["x"]), arrays.get("norm_weight")
        if weight is not None:
            x = ops.rms_norm.fn(x, precise(weight), eps=case.attrs.get("eps", 1e-6))
        bias = arrays[f"{prefix}bias"]
        given = (x, precise(arrays[f"{prefix}weight"]), None if bias is None else precise(bias))
        return np.asarray(ops.linear.fn(*given))


class LinearAdd(Fused):
    """A sum that may cancel."""

    def magnitude(
        self, op: Op[..., Any], case: Case, arrays: Arrays, want: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, ...]:
        """Of the layer and of what it is added to."""
        return (np.abs(self.linear(case, arrays, "")) + np.abs(precise(arrays["residual"])),)


class GatedLinear(Fused):
    """A product of two rows: each factor is as far off as its largest element allows."""

    def magnitude(
        self, op: Op[..., Any], case: Case, arrays: Arrays, want: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, ...]:
        """The largest of both rows, multiplied; twice, since the errors of both factors count."""
        gate, up = (_largest(self.linear(case, arrays, f"{n}_")) for n in ("gate", "up"))
        return (2 * gate * up + np.zeros(want[0].shape),)


class QkvRotaryStore(Fused):
    """Rows into heads, and into slots of the cache in any order."""

    def sizes(self, at: Draws) -> dict[str, Any]:
        """A cache with room for every token of a step."""
        even = [d for d in HEAD_DIMS if d > 1]
        heads, kv_heads = at.one_of(LARGE_HEADS if at.large else [(1, 1), (2, 1), (4, 2), (9, 3)])
        size = at.one_of([64, 128] if at.large else even)
        v_size = size if at.large or at.flag() else at.one_of(even)
        some = [h for h in (1, 2, 3, 4, 8, 16, 24) if h <= size // 2]
        block = at.one_of(LONG_SIZES if at.large else BLOCK_SIZES)
        return {
            "in_features": self.length(at, "in_features", {}),
            "q_features": heads * size,
            "k_features": kv_heads * size,
            "v_features": kv_heads * v_size,
            "half": size // 2 if at.flag() else at.one_of(some),
            "block_size": block,
            "kv_heads": kv_heads,
            "head_dim": size,
            "v_head_dim": v_size,
            "blocks": -(-(300 if at.large else 65) // block) + at.one_of([0, 1, 3]),
        }

    def arrays(self, op: Op[..., Any], case: Case, index: int) -> Arrays:
        """Cosine and sine of the same angle."""
        made = super().arrays(op, case, index)
        angles = generator(case.seed, "angles", index).uniform(-7, 7, made["cos"].shape)
        dtype = made["cos"].dtype
        return {**made, "cos": np.cos(angles).astype(dtype), "sin": np.sin(angles).astype(dtype)}

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
        """Queries, and the caches after the writing."""
        given = {k: precise(v) for k, v in arrays.items()}
        given |= {n: given[n].copy() for n in op.updates}
        q = op.fn(**given, **self.full_attributes(op, case, exact=False))
        return q, *(given[n] for n in op.updates)

    def magnitude(
        self, op: Op[..., Any], case: Case, arrays: Arrays, want: tuple[np.ndarray, ...]
    ) -> tuple[np.ndarray, ...]:
        """The largest of a token in each layer; where heads are normalized, times what that does.

        In the cache, whose numbers are rounded to its own dtype, as much more as that allows.
        """
        sizes = case.sizes
        q = self._heads(case, arrays, "q", sizes["head_dim"])
        k = self._heads(case, arrays, "k", sizes["head_dim"])
        v = self._heads(case, arrays, "v", sizes["v_head_dim"])
        caches = [np.abs(precise(arrays[n])) for n in op.updates]
        k = np.broadcast_to(k, (*k.shape[:2], sizes["head_dim"]))
        v = np.broadcast_to(v, (*v.shape[:2], sizes["v_head_dim"]))
        ops.store_kv.fn(k, v, caches[0], caches[1], arrays["slot_mapping"])
        more = max(1.0, op.tolerance[case.cache_dtype or case.dtype] / self.tolerance(op, case))
        return np.broadcast_to(q, want[0].shape), *(more * c for c in caches)

    def _heads(self, case: Case, arrays: Arrays, name: str, size: int) -> np.ndarray:
        """Magnitudes of each token and head, [tokens, heads, 1]."""
        rows = self.linear(case, arrays, f"{name}_")
        heads = rows.reshape(-1, rows.shape[1] // size, size)
        largest = np.broadcast_to(_largest(rows)[:, None], (*heads.shape[:2], 1))
        weight = arrays.get(f"{name}_norm_weight")
        if weight is None:
            return largest
        eps = case.attrs.get("head_eps", 1e-6)
        rms = np.sqrt(np.mean(heads * heads, axis=-1, keepdims=True) + eps)
        scale = float(np.abs(precise(weight)).max(initial=0))
        return np.asarray(largest / rms * scale)


def _largest(v: np.ndarray) -> np.ndarray:
    """Largest magnitude of each row."""
    return np.asarray(np.abs(v).max(axis=-1, keepdims=True, initial=0))
