"""The zoo: right kernels with one line changed, as bugs and as legal differences."""

import inspect

import numpy as np
from numpy.lib.stride_tricks import as_strided

from perfxlm_core.plugin import KernelSet

from . import numpy_kernels

TARGET = "target, left, right = out.reshape(-1), a.reshape(-1), b.reshape(-1)"

# name, kernel, what is replaced, by what
MUTANTS = [
    ("tail not written", "add", "range(0, out.size, TILE)",
     "range(0, out.size - out.size % TILE, TILE)"),
    ("element at each tile border skipped", "add", "range(0, out.size, TILE)",
     "range(0, out.size, TILE + 1)"),
    ("writes past the end", "add", TARGET, TARGET + "; past(out)[-1] = 0"),
    ("writes before the start", "add", TARGET, TARGET + "; before(out)[-1] = 0"),
    ("reads past the end", "add", TARGET, TARGET + "; b = b + 0 * past(a)[-1]; right = b.ravel()"),
    ("input used as scratch", "add", TARGET, TARGET + "; left[:1] = 0"),
    ("output aliases an input", "mul", "out[...] = f32(a) * f32(b)", "a *= b; out[...] = a"),
    ("adds to what the output held", "mul", "out[...] = ", "out[...] += "),
    ("offset ignored", "scale", " + np.float32(offset)", ""),
    ("offset inside the product", "scale", "f32(x) * np.float32(factor) + np.float32(offset)",
     "(f32(x) + np.float32(offset)) * np.float32(factor)"),
    ("race between threads", "scale", "np.float32(offset)",
     "np.float32(offset + 1e-6 * rng.random())"),
    ("not scaled back", "soft_cap", "cap * np.tanh", "np.tanh"),
    ("clipped instead of saturated", "soft_cap", "cap * np.tanh(f32(x) / cap)",
     "np.clip(f32(x), -cap, cap)"),
    ("inverse sigmoid", "silu", "sigmoid(f32(x))", "sigmoid(-f32(x))"),
    ("gate and up swapped", "silu_and_mul", "f32(gate) * sigmoid(f32(gate)) * f32(up)",
     "f32(up) * sigmoid(f32(up)) * f32(gate)"),
    ("always by tanh", "gelu", "gelu_of(f32(x), approximate)", "gelu_of(f32(x), 'tanh')"),
    ("never by tanh", "gelu_and_mul", "gelu_of(f32(gate), approximate)",
     "gelu_of(f32(gate), 'none')"),
    ("eps dropped", "rms_norm", "mean + np.float32(eps)", "mean"),
    ("eps outside the root", "rms_norm", "np.sqrt(mean + np.float32(eps))",
     "(np.sqrt(mean) + np.float32(eps))"),
    ("sum instead of mean", "rms_norm", "np.mean(", "np.sum("),
    ("weight off by one", "rms_norm", "f32(weight)", "(1 + f32(weight))"),
    ("computes in float16", "rms_norm", "v = f32(x)", "v = x.astype(np.float16)"),
    ("leading dimensions taken for one", "rms_norm",
     "mean = np.mean(v * v, axis=-1, keepdims=True)",
     "mean = np.mean(v * v, axis=-1, keepdims=True); mean = mean * 0 + mean.reshape(-1)[:1]"
     " if mean.ndim > 2 and mean.size else mean"),
    ("unbiased variance", "layer_norm", "np.mean(centred * centred, axis=-1, keepdims=True)",
     "centred.var(axis=-1, keepdims=True) * v.shape[-1] / max(1, v.shape[-1] - 1)"),
    ("not centred", "layer_norm", "v - v.mean(axis=-1, keepdims=True)", "v"),
    ("bias left out", "layer_norm", "result = result + f32(bias)", "pass"),
    ("tail of the sum dropped", "linear", "range(0, columns, TILE)",
     "range(0, columns - columns % TILE or columns, TILE)"),
    ("tail of the outputs dropped", "linear", "range(0, len(right), TILE)",
     "range(0, len(right) - len(right) % TILE or TILE, TILE)"),
    ("bias of the first tile everywhere", "linear", "bias[o : o + TILE]",
     "bias[: total.shape[1]]"),
    ("accumulates in float16", "linear",
     "total = np.zeros((len(left), len(right[o : o + TILE])), np.float32)",
     "total = np.zeros((len(left), len(right[o : o + TILE])), np.float16)"),
    ("only the last tile of the sum", "linear", "total += left", "total[...] = left"),
    ("nibbles interleaved", "linear_q4_1", "np.concatenate([low, high], axis=1)",
     "np.stack([low, high], axis=2).reshape(-1, 32)"),
    ("nibbles swapped", "linear_q4_1", "[low, high]", "[high, low]"),
    ("minimum ignored", "linear_q4_1", "codes * d + m", "codes * d"),
    ("scale of the next block", "linear_q4_1", "codes * d + m", "codes * np.roll(d, 1) + m"),
    ("high nibble with a sign", "linear_q4_1", "blocks[:, 4:] >> 4",
     "blocks[:, 4:].view(np.int8) >> 4"),
    ("no sign extension", "linear_q8_0", "blocks[..., 2:].view(np.int8)", "blocks[..., 2:]"),
    ("scratch not cleared", "linear_q8_0", "        total[...] = 0\n", ""),
    ("writes past the scratch", "linear_q8_0", "total[...] = 0",
     "total[...] = 0; past(total)[-1 if total.size * 4 == site.scratch.shape[0] else 0] = 0"),
    ("weights of the node bound last", "linear_q8_0", 'state = {"packed": packed}',
     'state = STATE; state["packed"] = packed'),
    ("sizes of the first launch kept", "linear_q8_0", "def launch(sizes):",
     "def launch(sizes):\n        sizes = state.setdefault('sizes', dict(sizes))"),
    ("step of the first run of activations", "linear_q8_0", "* step[:, b]", "* step[:, 0]"),
    ("scale of the first block", "linear_q8_0", "* d[:, b]", "* d[:, 0]"),
    ("16-bit accumulator", "linear_q8_0",
     "rounded[:, b].astype(np.int32) @ codes[:, b].T",
     "(rounded[:, b].astype(np.int32) @ codes[:, b].T).astype(np.int16)"),
    ("rows packed by the bytes of one less", "linear_q8_0",
     "packed.handle[: weight.nbytes] = weight.data",
     "packed.handle[: weight.nbytes - 34] = weight.data[:-34]"),
    ("row before", "embedding", "table[token]", "table[token - 1]"),
    ("last row out of reach", "embedding", "table[token]", "table[min(token, len(table) - 2)]"),
    ("empty batch fails", "embedding", "    for t, token",
     "    assert len(token_ids) > 0\n    for t, token"),
    ("scale of the row's first block", "embedding_q8_0", "codes * d", "codes * d[:, :1]"),
    ("rows in order", "take_rows", "x[rows]", "x[np.sort(rows)]"),
    ("bytes through float16", "take_rows", "x[rows]", "x[rows].astype(np.float16)"),
    ("positions in float16", "rotary_table", "positions[:, None].astype(np.float32)",
     "positions[:, None].astype(np.float16)"),
    ("angle in double", "rotary_table", "positions[:, None].astype(np.float32)",
     "positions[:, None]"),
    ("sine without the factor", "rotary_table", "np.sin(angles) * attention_factor",
     "np.sin(angles)"),
    ("halves swapped", "rotary_embedding", "slice(0, half), slice(half, 2 * half)",
     "slice(half, 2 * half), slice(0, half)"),
    ("interleaving ignored", "rotary_embedding", "if interleaved:", "if False:"),
    ("rest of the head left out", "rotary_embedding",
     "out[..., 2 * half :] = x[..., 2 * half :]", "pass"),
    ("halves of the whole head", "rotary_embedding", "(slice(0, half), slice(half, 2 * half))",
     "(slice(0, half), slice(x.shape[-1] - half, x.shape[-1]))"),
    ("turned the other way", "rotary_embedding",
     "v[..., a] * cos[:, None] - v[..., b] * sin[:, None]",
     "v[..., a] * cos[:, None] + v[..., b] * sin[:, None]"),
    ("angle of the first token", "rotary_embedding", "half, v = cos.shape[1], f32(x)",
     "cos, sin = cos[:1], sin[:1]; half, v = cos.shape[1], f32(x)"),
    ("unkept tokens overwrite the last slot", "store_kv", "if slot < 0:", "if False:"),
    ("stops at an unkept token", "store_kv", "continue", "break"),
    ("values rounded to zero", "store_kv", "= v[t]",
     "= v[t] - (v[t] - v[t].astype(v_cache.dtype).astype(v.dtype) < 0) * 1e-3"),
    ("keys beside their slot", "store_kv", "k_cache[slot // size, slot % size]",
     "k_cache[slot // size, (slot + 1) % size]"),
    ("own key not seen", "paged_attention", "* factor\n",
     "* factor - 1e9 * ((j[seen] == position) & (start < position))\n"),
    ("next key seen", "paged_attention", "(j <= position)", "(j <= position + 1)"),
    ("whole last block read", "paged_attention", "(j <= position)", "(j >= 0)"),
    ("window one too wide", "paged_attention", "position - window + 1", "position - window"),
    ("window one too narrow", "paged_attention", "position - window + 1",
     "min(position, position - window + 2)"),
    ("window ignored", "paged_attention", "0 if window is None else", "0 if True else"),
    ("wrong head in grouped attention", "paged_attention",
     "keys = f32(k_cache[page, :, h // group])", "keys = f32(k_cache[page, :, h % kv_heads])"),
    ("blocks in order", "paged_attention", "block_tables[s, block]", "block_tables[s, 0] + block"),
    ("blocks of the first sequence", "paged_attention", "block_tables[s, block]",
     "block_tables[0, block]"),
    ("entry behind the last block read", "paged_attention", "block_tables[s, block]",
     "block_tables[s, min(block + 1, block_tables.shape[1] - 1)]"),
    ("no maximum subtracted", "paged_attention", "higher = max(top, scores.max())",
     "higher = 0.0"),
    ("sum not rescaled", "paged_attention", "total * shrink", "total"),
    ("values not rescaled", "paged_attention", "value * shrink", "value"),
    ("position of a chunk from zero", "paged_attention",
     "length - (last - first) + (row - first)", "row - first"),
    ("chunk attends to its own end only", "paged_attention",
     "length - (last - first) + (row - first)", "length - 1"),
    ("scale 0 taken for none", "paged_attention", "if scale is None", "if not scale"),
    ("scale ignored", "paged_attention", "if scale is None", "if True"),
    ("capped before scaling", "paged_attention", "scores = soft_cap * np.tanh(scores / soft_cap)",
     "scores = soft_cap * np.tanh(scores / factor / soft_cap) * factor"),
    ("cap ignored", "paged_attention", "if soft_cap is not None", "if False"),
    ("sinks ignored", "paged_attention", "if sinks is not None", "if False"),
    ("sink of the first head", "paged_attention", "float(sinks[h])", "float(sinks[0])"),
    ("last sequence left out", "paged_attention", "enumerate(seq_lens.tolist())",
     "enumerate(seq_lens.tolist()[:-1] or seq_lens.tolist())"),
    ("scores in float16", "paged_attention", "scores = keys @ f32(q[row, h]) * factor",
     "scores = (keys @ f32(q[row, h]) * factor).astype(np.float16).astype(np.float32)"),
    ("no maximum subtracted", "softmax", "np.exp(v - v.max(axis=axis, keepdims=True))",
     "np.exp(v)"),
    ("axis ignored", "softmax", "axis=axis", "axis=-1"),
    ("logarithm of a vanished quotient", "log_softmax",
     "v - np.log(np.exp(v).sum(axis=axis, keepdims=True))",
     "np.log(np.exp(v) / np.exp(v).sum(axis=axis, keepdims=True))"),
    ("last of equal logits", "greedy", "logits.argmax(axis=1)",
     "logits.shape[1] - 1 - logits[:, ::-1].argmax(axis=1)"),
    ("no maximum subtracted", "log_probabilities", "top = v.max(axis=1)",
     "top = 0 * v.max(axis=1)"),
    ("probability of the token before", "log_probabilities", "token_ids]", "token_ids - 1]"),
]  # fmt: skip

LEGAL = [
    ("sums from the end", "linear", "range(0, columns, TILE)",
     "reversed(range(0, columns, TILE))"),
    ("sums in float64", "linear", "right = f32(x).reshape(-1, x.shape[-1]), f32(weight)",
     "right = f32(x).reshape(-1, x.shape[-1]).astype(np.float64), f32(weight)"),
    ("inverse root first", "rms_norm", "v / np.sqrt(mean + np.float32(eps)) * f32(weight)",
     "v * (1 / np.sqrt(mean + np.float32(eps))) * f32(weight)"),
    ("running sum", "rms_norm", "np.mean(v * v, axis=-1, keepdims=True)",
     "np.cumsum(v * v, axis=-1, dtype=np.float32)[..., -1:] / np.float32(v.shape[-1])"),
    ("plain sigmoid", "silu_and_mul", "sigmoid(f32(gate))", "(1 / (1 + np.exp(-f32(gate))))"),
    ("attention in float64", "paged_attention", "scores = keys @ f32(q[row, h]) * factor",
     "scores = keys.astype(np.float64) @ q[row, h].astype(np.float64) * factor"),
    ("query scaled before the product", "paged_attention", "keys @ f32(q[row, h]) * factor",
     "keys @ (f32(q[row, h]) * factor)"),
    ("results below the normal range flushed", "mul", "out[...] = f32(a) * f32(b)",
     "v = f32(a) * f32(b); out[...] = np.where(abs(v) < 1.2e-38, 0, v)"),
    ("tiles of seven", "add", "TILE", "7"),
]  # fmt: skip


def past(array):
    """An array and the element behind it."""
    flat = array.reshape(-1)
    return as_strided(flat, (array.size + 1,), (array.itemsize,)) if array.size else np.zeros(1)


def before(array):
    """The first element and the one before it."""
    flat = array.reshape(-1)
    return as_strided(flat, (2,), (-array.itemsize,)) if array.size else np.zeros(1)


def mutate(kernel_name, old, new):
    """A kernel set that holds one kernel, with one line changed."""
    right = next(k for k in numpy_kernels.kernels if k.function.__name__ == kernel_name)
    source = inspect.getsource(right.function)
    space = {**vars(numpy_kernels), "past": past, "before": before, "STATE": {},
             "rng": np.random.default_rng()}  # fmt: skip
    space["kernels"] = KernelSet(vendor="zoo", device="numpy")
    if right.scratch is not None:
        source = inspect.getsource(right.scratch) + source
    assert old in source, f"{kernel_name} has no {old!r}"
    exec(compile(source.replace(old, new), f"<{kernel_name}>", "exec"), space)
    assert len(space["kernels"]) == 1
    return space["kernels"]
