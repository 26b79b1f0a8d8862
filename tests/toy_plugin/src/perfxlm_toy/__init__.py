"""A device in NumPy: what the smallest plugin looks like that runs a Llama from end to end.

Ten kernels, each a plain function that writes into `out`. Weights of quantized formats are
not taken, so the core decodes them when the model is loaded.
"""

import os
from collections.abc import Iterable, Sequence

import numpy as np

from perfxlm_core import ops
from perfxlm_core.plugin import (
    DeviceInfo,
    HostMemory,
    KernelSet,
    Launch,
    Program,
    Registry,
    hookimpl,
    loop,
)

PERFXLM_API_VERSION = 1

kernels = KernelSet(vendor="toy", device="toy")


class ToyDevice(HostMemory):
    """The host's memory, and one launch after the other."""

    name = "toy"

    def describe(self) -> DeviceInfo:
        return DeviceInfo("toy", "toy", f"NumPy {np.__version__}", self.free_memory())

    def free_memory(self) -> int:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def dtypes(self) -> Sequence[str]:
        return ["float32"]

    def program(self, launches: Sequence[Launch], symbols: Sequence[str]) -> Program:
        return loop(launches)


@hookimpl
def perfxlm_probe_devices() -> Iterable[ToyDevice]:
    """NumPy is everywhere."""
    return [ToyDevice()]


@hookimpl
def perfxlm_register_kernels(registry: Registry) -> None:
    """All there are."""
    registry.extend(kernels)


@kernels.implements(ops.embedding)
def embedding(out, token_ids, table, *, dtype):
    out[...] = table[token_ids]  # the table may be of another float dtype


@kernels.implements(ops.take_rows)
def take_rows(out, x, rows):
    np.take(x, rows, axis=0, out=out)


@kernels.implements(ops.linear)
def linear(out, x, weight, bias, *, exact):
    np.matmul(x, weight.T, out=out)
    if bias is not None:
        out += bias


@kernels.implements(ops.add)
def add(out, a, b):
    np.add(a, b, out=out)


@kernels.implements(ops.silu_and_mul)
def silu_and_mul(out, gate, up):
    np.multiply(gate * up, 1 / (1 + np.exp(-np.clip(gate, -80, None))), out=out)


@kernels.implements(ops.rms_norm)
def rms_norm(out, x, weight, *, eps):
    np.multiply(x / np.sqrt(np.mean(x * x, -1, keepdims=True) + np.float32(eps)), weight, out=out)


@kernels.implements(ops.rotary_table)
def rotary_table(cos, sin, positions, inverse_frequencies, *, attention_factor):
    angles = positions[:, None].astype(np.float32) * inverse_frequencies
    np.multiply(np.cos(angles), attention_factor, out=cos, casting="same_kind")
    np.multiply(np.sin(angles), attention_factor, out=sin, casting="same_kind")


@kernels.implements(ops.rotary_embedding)
def rotary_embedding(out, x, cos, sin, *, interleaved):
    half = cos.shape[1]
    a, b = (
        (np.s_[..., 0 : 2 * half : 2], np.s_[..., 1 : 2 * half : 2])
        if interleaved
        else (np.s_[..., :half], np.s_[..., half : 2 * half])
    )
    out[...] = x
    out[a] = x[a] * cos[:, None] - x[b] * sin[:, None]
    out[b] = x[b] * cos[:, None] + x[a] * sin[:, None]


@kernels.implements(ops.store_kv, dtypes=("float32",))
def store_kv(k, v, k_cache, v_cache, slot_mapping):
    place = np.divmod(slot_mapping, k_cache.shape[1])
    k_cache[place], v_cache[place] = k, v


@kernels.implements(ops.paged_attention, when=lambda d, a: not (a.window or a.soft_cap))
def paged_attention(
    out, q, k_cache, v_cache, block_tables, seq_lens, query_starts, sinks,
    *, scale, window, soft_cap,
):  # fmt: skip
    group = q.shape[1] // k_cache.shape[2]
    for s, length in enumerate(seq_lens):
        rows = slice(query_starts[s], query_starts[s + 1])
        blocks = block_tables[s, : -(-length // k_cache.shape[1])]
        k, v = (
            c[blocks].reshape(-1, *c.shape[2:])[:length].repeat(group, 1).astype(np.float32)
            for c in (k_cache, v_cache)
        )
        scores = np.einsum("mhd,jhd->hmj", q[rows], k) * (scale or q.shape[2] ** -0.5)
        first = length - (rows.stop - rows.start)
        scores[:, np.arange(length) > np.arange(first, length)[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        total = weights.sum(-1, keepdims=True)
        if sinks is not None:
            total += np.exp(sinks[:, None, None] - scores.max(-1, keepdims=True))
        out[rows] = np.einsum("hmj,jhd->mhd", weights / total, v)
