"""Right kernels in NumPy for every operator that the kit covers: what the mutants are made from.

They go about it as real kernels do (tiles, tails, an online softmax, packed weights, scratch
memory), so that a changed line is a bug that real kernels have.
"""

import math

import numpy as np

from perfxlm_core import ops
from perfxlm_core.plugin import DeviceInfo, HostMemory, KernelSet, loop, operand_view

kernels = KernelSet(vendor="numpy", device="numpy")
TILE = 16


class NumpyDevice(HostMemory):
    name = "numpy"

    def describe(self):
        return DeviceInfo("numpy", "numpy", f"NumPy {np.__version__}", self.free_memory())

    def free_memory(self):
        return 1 << 30

    def dtypes(self):
        return ["float32", "float16"]

    def program(self, launches, symbols):
        return loop(launches)


def f32(x):
    return np.asarray(x, np.float32)


def sigmoid(v):
    e = np.exp(-np.abs(v))
    return np.where(v >= 0, 1, e) / (1 + e)


def gelu_of(v, approximate):
    if approximate == "tanh":
        return 0.5 * v * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (v + 0.044715 * v**3)))
    return 0.5 * v * np.frompyfunc(math.erfc, 1, 1)(-v / np.sqrt(np.float64(2))).astype(np.float64)


@kernels.implements(ops.add)
def add(out, a, b):
    target, left, right = out.reshape(-1), a.reshape(-1), b.reshape(-1)
    for i in range(0, out.size, TILE):
        target[i : i + TILE] = f32(left[i : i + TILE]) + f32(right[i : i + TILE])


@kernels.implements(ops.mul)
def mul(out, a, b):
    out[...] = f32(a) * f32(b)


@kernels.implements(ops.scale)
def scale(out, x, *, factor, offset):
    out[...] = f32(x) * np.float32(factor) + np.float32(offset)


@kernels.implements(ops.soft_cap)
def soft_cap(out, x, *, cap):
    out[...] = cap * np.tanh(f32(x) / cap)


@kernels.implements(ops.silu)
def silu(out, x):
    out[...] = f32(x) * sigmoid(f32(x))


@kernels.implements(ops.silu_and_mul)
def silu_and_mul(out, gate, up):
    out[...] = f32(gate) * sigmoid(f32(gate)) * f32(up)


@kernels.implements(ops.gelu)
def gelu(out, x, *, approximate):
    out[...] = gelu_of(f32(x), approximate)


@kernels.implements(ops.gelu_and_mul)
def gelu_and_mul(out, gate, up, *, approximate):
    out[...] = gelu_of(f32(gate), approximate) * f32(up)


@kernels.implements(ops.rms_norm)
def rms_norm(out, x, weight, *, eps):
    v = f32(x)
    mean = np.mean(v * v, axis=-1, keepdims=True)
    out[...] = v / np.sqrt(mean + np.float32(eps)) * f32(weight)


@kernels.implements(ops.layer_norm)
def layer_norm(out, x, weight, bias, *, eps):
    v = f32(x)
    centred = v - v.mean(axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    result = centred / np.sqrt(variance + np.float32(eps)) * f32(weight)
    if bias is not None:
        result = result + f32(bias)
    out[...] = result


@kernels.implements(ops.linear)
def linear(out, x, weight, bias, *, exact):
    left, right = f32(x).reshape(-1, x.shape[-1]), f32(weight)
    rows, columns = out.reshape(-1, out.shape[-1]), left.shape[1]
    for o in range(0, len(right), TILE):
        total = np.zeros((len(left), len(right[o : o + TILE])), np.float32)
        for k in range(0, columns, TILE):
            total += left[:, k : k + TILE] @ right[o : o + TILE, k : k + TILE].T
        if bias is not None:
            total += f32(bias[o : o + TILE])
        rows[:, o : o + TILE] = total


@kernels.implements(ops.linear, formats=["q4_1"])
def linear_q4_1(out, x, weight, bias, *, exact):
    blocks = weight.data.reshape(-1, 20)
    d, m = (blocks[:, i : i + 2].copy().view("<f2").astype(np.float32) for i in (0, 2))
    low, high = blocks[:, 4:] & 15, blocks[:, 4:] >> 4
    codes = np.concatenate([low, high], axis=1).astype(np.float32)
    w = (codes * d + m).reshape(weight.shape)
    out[...] = f32(x) @ w.T
    if bias is not None:
        out[...] = f32(out) + f32(bias)


def tokens_of(x):
    return x.size // x.shape[-1]


def scratch_bytes(dims, attrs):
    return 4 * dims.out_features * math.prod(dims.batch)


@kernels.binds(
    ops.linear, formats=["q8_0"], constants=["weight"], dtypes=["float32"],
    when=lambda dims, attrs: not attrs.exact, scratch=scratch_bytes,
)  # fmt: skip
def linear_q8_0(site):
    weight = site.constant("weight")
    n, k = weight.shape
    packed = site.pack(weight.nbytes)
    packed.handle[: weight.nbytes] = weight.data
    state = {"packed": packed}

    def launch(sizes):
        blocks = state["packed"].handle[: weight.nbytes].reshape(n, k // 32, 34)
        d = blocks[..., :2].copy().view("<f2")[..., 0].astype(np.float32)
        codes = blocks[..., 2:].view(np.int8).astype(np.int32)
        x = operand_view(site.device, site.operand("x"), sizes)
        out = operand_view(site.device, site.operand("out"), sizes).reshape(-1, n)
        v = f32(x).reshape(-1, k // 32, 32)
        step = np.abs(v).max(axis=-1, keepdims=True) / 127
        rounded = np.rint(np.divide(v, step, where=step > 0, out=np.zeros_like(v)))
        total = site.scratch.buffer.handle[site.scratch.offset :].view(np.float32)
        total = total[: len(v) * n].reshape(len(v), n)
        total[...] = 0
        for b in range(k // 32):
            dot = rounded[:, b].astype(np.int32) @ codes[:, b].T
            total += dot * step[:, b] * d[:, b]
        out[...] = total
        bias = site.operands["bias"]
        if bias is not None:
            numbers = (
                bias.array() if hasattr(bias, "array") else operand_view(site.device, bias, sizes)
            )
            out += numbers

    return launch


@kernels.implements(ops.embedding)
def embedding(out, token_ids, table, *, dtype):
    for t, token in enumerate(token_ids):
        out[t] = table[token]


@kernels.implements(ops.embedding, formats=["q8_0"])
def embedding_q8_0(out, token_ids, table, *, dtype):
    rows = table.data.reshape(table.shape[0], -1, 34)[token_ids]
    d = rows[..., :2].copy().view("<f2").astype(np.float32)
    codes = rows[..., 2:].view(np.int8).astype(np.float32)
    out[...] = (codes * d).reshape(out.shape)


@kernels.implements(ops.take_rows)
def take_rows(out, x, rows):
    out[...] = x[rows]


@kernels.implements(ops.rotary_table)
def rotary_table(cos, sin, positions, inverse_frequencies, *, attention_factor):
    angles = positions[:, None].astype(np.float32) * inverse_frequencies
    angles = angles.astype(np.float64)
    cos[...] = np.cos(angles) * attention_factor
    sin[...] = np.sin(angles) * attention_factor


@kernels.implements(ops.rotary_embedding)
def rotary_embedding(out, x, cos, sin, *, interleaved):
    half, v = cos.shape[1], f32(x)
    a, b = (slice(0, half), slice(half, 2 * half))
    if interleaved:
        a, b = (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
    out[..., 2 * half :] = x[..., 2 * half :]
    out[..., a] = v[..., a] * cos[:, None] - v[..., b] * sin[:, None]
    out[..., b] = v[..., b] * cos[:, None] + v[..., a] * sin[:, None]


@kernels.implements(ops.store_kv)
def store_kv(k, v, k_cache, v_cache, slot_mapping):
    size = k_cache.shape[1]
    for t, slot in enumerate(slot_mapping):
        if slot < 0:
            continue
        k_cache[slot // size, slot % size] = k[t]
        v_cache[slot // size, slot % size] = v[t]


@kernels.implements(ops.paged_attention)
def paged_attention(
    out, q, k_cache, v_cache, block_tables, seq_lens, query_starts, sinks,
    *, scale, window, soft_cap,
):  # fmt: skip
    size, kv_heads = k_cache.shape[1], k_cache.shape[2]
    heads = q.shape[1]
    owners = np.arange(heads) // (heads // kv_heads)
    factor = np.float32(q.shape[2] ** -0.5 if scale is None else scale)
    for s, length in enumerate(seq_lens.tolist()):
        first, last = query_starts[s : s + 2].tolist()
        for row in range(first, last):
            position = length - (last - first) + (row - first)
            start = 0 if window is None else max(0, position - window + 1)
            top, total = np.full((heads, 1), -np.inf, np.float32), np.zeros((heads, 1), np.float32)
            value = np.zeros((heads, v_cache.shape[3]))
            if sinks is not None:
                top, total = f32(sinks)[:, None], total + 1
            for block in range(start // size, position // size + 1):
                page = block_tables[s, block]
                j = np.arange(block * size, block * size + size)
                seen = (j >= start) & (j <= position)
                keys = f32(k_cache[page, :, owners])[:, seen]
                values = f32(v_cache[page, :, owners])[:, seen]
                scores = (keys @ f32(q[row])[:, :, None])[..., 0] * factor
                if soft_cap is not None:
                    scores = np.float32(soft_cap) * np.tanh(scores / np.float32(soft_cap))
                higher = np.maximum(top, scores.max(axis=1, keepdims=True))
                shrink = np.exp(top - higher)
                weights = np.exp(scores - higher)
                value = value * shrink + (weights[:, None] @ values)[:, 0]
                total = total * shrink + weights.sum(axis=1, keepdims=True)
                top = higher
            out[row] = value / total


@kernels.implements(ops.softmax)
def softmax(out, x, *, axis):
    v = f32(x)
    e = np.exp(v - v.max(axis=axis, keepdims=True))
    out[...] = e / e.sum(axis=axis, keepdims=True)


@kernels.implements(ops.log_softmax)
def log_softmax(out, x, *, axis):
    v = f32(x)
    v = v - v.max(axis=axis, keepdims=True)
    out[...] = v - np.log(np.exp(v).sum(axis=axis, keepdims=True))


@kernels.implements(ops.greedy)
def greedy(out, logits):
    out[...] = logits.argmax(axis=1)


@kernels.implements(ops.log_probabilities)
def log_probabilities(out, logits, token_ids):
    v = f32(logits)
    top = v.max(axis=1)
    total = np.log(np.exp(v - top[:, None]).sum(axis=1)) + top
    out[...] = v[np.arange(len(v)), token_ids] - total
