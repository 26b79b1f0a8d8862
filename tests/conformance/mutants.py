"""The zoo: right kernels with one line changed, as bugs and as legal differences."""

import ctypes
import inspect

import numpy as np
from numpy.lib.stride_tricks import as_strided

from perfxlm_core.plugin import KernelSet
from perfxlm_core.registry.kernels import Kernel

from . import numpy_kernels

SCORES = "scores = (keys @ f32(q[row])[:, :, None])[..., 0] * factor"
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
     "np.arange(heads) // (heads // kv_heads)", "np.arange(heads) % kv_heads"),
    ("blocks in order", "paged_attention", "block_tables[s, block]", "block_tables[s, 0] + block"),
    ("blocks of the first sequence", "paged_attention", "block_tables[s, block]",
     "block_tables[0, block]"),
    ("entry behind the last block read", "paged_attention", "block_tables[s, block]",
     "block_tables[s, min(block + 1, block_tables.shape[1] - 1)]"),
    ("no maximum subtracted", "paged_attention",
     "higher = np.maximum(top, scores.max(axis=1, keepdims=True))",
     "higher = 0 * top if sinks is not None else np.zeros((heads, 1), np.float32)"),
    ("sum not rescaled", "paged_attention", "total * shrink", "total"),
    ("values not rescaled", "paged_attention", "value * shrink", "value"),
    ("position of a chunk from zero", "paged_attention",
     "length - (last - first) + (row - first)", "row - first"),
    ("chunk attends to its own end only", "paged_attention",
     "length - (last - first) + (row - first)", "length - 1"),
    ("scale 0 taken for none", "paged_attention", "if scale is None", "if not scale"),
    ("scale ignored", "paged_attention", "if scale is None", "if True"),
    ("capped before scaling", "paged_attention",
     "np.float32(soft_cap) * np.tanh(scores /",
     "factor * np.float32(soft_cap) * np.tanh(scores / factor /"),
    ("cap ignored", "paged_attention", "if soft_cap is not None", "if False"),
    ("sinks ignored", "paged_attention", "if sinks is not None", "if False"),
    ("sink of the first head", "paged_attention", "f32(sinks)[:, None]", "f32(sinks)[:1, None]"),
    ("last sequence left out", "paged_attention", "enumerate(seq_lens.tolist())",
     "enumerate(seq_lens.tolist()[:-1] or seq_lens.tolist())"),
    ("scores in float16", "paged_attention", SCORES,
     SCORES + "; scores = f32(scores.astype(np.float16))"),
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
    ("operands taken for 128-byte aligned", "add", TARGET,
     TARGET.replace("a.reshape(-1)", "rounded_down(a, 128).reshape(-1)")),
    ("operands taken for page aligned", "scale", "f32(x)", "f32(rounded_down(x, 4096))"),
    ("sums in an order by address", "rms_norm", "np.mean(v * v,",
     "np.mean((v * v)[..., :: 1 if x.ctypes.data % 1024 else -1],"),
    ("sums in an order by batch", "rms_norm", "np.mean(v * v,",
     "np.mean((v * v)[..., :: 1 if len(v) > 3 else -1],"),
    ("vector and tail by other formulas", "silu", "out[...] = f32(x) * sigmoid(f32(x))",
     "v, flat = f32(x).ravel(), out.reshape(-1); w = v.size // 8 * 8; "
     "flat[:w] = v[:w] / (1 + np.exp(-v[:w])); flat[w:] = v[w:] * sigmoid(v[w:])"),
    ("last row rounded otherwise", "rotary_embedding", "    half, v = ",
     "    if len(cos) > 1:\n        cos = np.vstack([cos[:-1], np.nextafter(cos[-1:], 2, "
     "dtype=cos.dtype)])\n    half, v = "),
    ("promise broken by the size of the batch", "linear",
     "@kernels.implements(ops.linear)", "@kernels.implements(ops.linear, batch_invariant=True)",
     "range(0, columns, TILE)", "range(0, columns, TILE)[:: 1 if len(left) < 5 else -1]"),
    ("promise broken by other sequences", "paged_attention",
     "@kernels.implements(ops.paged_attention)",
     "@kernels.implements(ops.paged_attention, batch_invariant=True)",
     SCORES,
     SCORES + " * np.float32(1 if len(seq_lens) < 2 else 1 + 2e-7)"),
    ("promise broken by the rest of the chunk", "paged_attention",
     "@kernels.implements(ops.paged_attention)",
     "@kernels.implements(ops.paged_attention, batch_invariant=True)",
     SCORES,
     SCORES + " * np.float32(1 if last - first < 2 else 1 + 2e-7)"),
    ("block table of the first launch", "paged_attention", "    size, kv_heads =",
     "    block_tables = STATE.setdefault(block_tables.shape, block_tables.copy());"
     " size, kv_heads ="),
    ("weights of the node bound first", "linear_q8_0", 'state = {"packed": packed}',
     'state = STATE; state.setdefault("packed", packed)'),
    ("lengths of the node bound last", "linear_q8_0", "    state =", "    STATE['n'] = n; state =",
     "reshape(len(v), n)", "reshape(len(v), STATE['n'])"),
    ("order by the number of launches", "rms_norm", "np.mean(v * v,",
     "STATE.update(n=-STATE.get('n', 1)); mean = np.mean((v * v)[..., :: STATE['n']],"),
    ("maximum over one element too many", "softmax", "v.max(axis=axis, keepdims=True)",
     "np.fmax(v.max(axis=axis, keepdims=True), f32(past(x)[-1]))"),
    ("constant read past its end", "linear_q4_1", "    d, m =",
     "    blocks = blocks.copy(); blocks[-1, -1:] ^= past(weight.data)[-1:]; d, m ="),
    ("two inputs taken for different memory", "mul", "out[...] = f32(a) * f32(b)",
     "saved = a.copy(); a[...] = 1; out[...] = f32(saved) * f32(b); a[...] = saved"),
    ("takes what it cannot do", "linear_q8_0", "not attrs.exact", "True"),
    ("takes types that it does not name", "linear_q8_0", "@kernels.binds",
     "@greedy(kernels).binds"),
    ("declines without a reason", "mul", "@kernels.implements(ops.mul)",
     "@silent(kernels).implements(ops.mul, when=lambda d, a: len(d.batch) > 1)"),
    ("a reason for a condition's answer", "mul", "@kernels.implements(ops.mul)",
     "@kernels.implements(ops.mul, when=lambda d, a: '' if len(d.batch) > 1 else 'too flat')"),
    ("a condition that changes its mind", "mul", "@kernels.implements(ops.mul)",
     "@kernels.implements(ops.mul, when=lambda d, a: rng.random() < 0.5)"),
    ("a condition that compares symbols", "mul", "@kernels.implements(ops.mul)",
     "@kernels.implements(ops.mul, when=lambda d, a: d.batch[0] < 9)"),
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
    ("attention in float64", "paged_attention", SCORES,
     SCORES.replace("f32(q[row])", "q[row].astype(np.float64)")),
    ("query scaled before the product", "paged_attention", SCORES,
     SCORES.replace(" * factor", "").replace("f32(q[row])", "(f32(q[row]) * factor)")),
    ("results below the normal range flushed", "mul", "out[...] = f32(a) * f32(b)",
     "v = f32(a) * f32(b); out[...] = np.where(abs(v) < 1.2e-38, 0, v)"),
    ("tiles of seven", "add", "TILE", "7"),
    ("sum in two halves", "linear", "for k in range(0, columns, TILE):",
     "for k in (*range(0, columns, 2 * TILE), *range(TILE, columns, 2 * TILE)):"),
    ("products rounded once", "linear", "total += left[:, k : k + TILE] @ ",
     "total[...] = total + left[:, k : k + TILE].astype(np.float64) @ "),
    ("a promise kept, row by row", "linear", "@kernels.implements(ops.linear)",
     "@kernels.implements(ops.linear, batch_invariant=True)",
     "total += left[:, k : k + TILE] @ right[o : o + TILE, k : k + TILE].T",
     "total += (left[:, None, k : k + TILE] * right[o : o + TILE, k : k + TILE]).sum(axis=-1)"),
    ("a promise kept by attention", "paged_attention", "@kernels.implements(ops.paged_attention)",
     "@kernels.implements(ops.paged_attention, batch_invariant=True)"),
    ("softmax in one pass", "softmax", "e = np.exp(v - v.max(axis=axis, keepdims=True))",
     "e = np.exp((v - v.max(axis=axis, keepdims=True)).astype(np.float64))"),
    ("declines with a reason", "mul", "@kernels.implements(ops.mul)",
     "@kernels.implements(ops.mul, when=lambda d, a: len(d.batch) > 1)"),
    ("exponent by powers of two", "silu", "sigmoid(f32(x))",
     "(1 / (1 + np.exp2(-f32(x) * np.float32(1.4426950408889634))))"),
]  # fmt: skip


def past(array):
    """An array and the element behind it."""
    flat = array.reshape(-1)
    return as_strided(flat, (array.size + 1,), (array.itemsize,)) if array.size else np.zeros(1)


def before(array):
    """The first element and the one before it."""
    flat = array.reshape(-1)
    return as_strided(flat, (2,), (-array.itemsize,)) if array.size else np.zeros(1)


def rounded_down(array, multiple):
    """The array that a kernel sees which drops the low bits of an address."""
    start = array.ctypes.data // multiple * multiple
    return np.ndarray(array.shape, array.dtype, (ctypes.c_char * array.nbytes).from_address(start))


class Greedy(Kernel):
    """Takes every node."""

    def refusal(self, query):
        return None


class Silent(Kernel):
    """Does not say why it declines."""

    def refusal(self, query):
        return "" if super().refusal(query) else None


class Altered:
    """A kernel set whose kernels become those of another class."""

    def __init__(self, kernels, kind):
        self.kernels, self.kind = kernels, kind

    def implements(self, *arguments, **named):
        return self._altering(self.kernels.implements(*arguments, **named))

    def binds(self, *arguments, **named):
        return self._altering(self.kernels.binds(*arguments, **named))

    def _altering(self, decorate):
        def decorated(function):
            decorate(function)
            self.kernels._kernels[-1] = self.kind(**vars(self.kernels._kernels[-1]))
            return function

        return decorated


def mutate(kernel_name, *changes):
    """A kernel set that holds one kernel, with a line changed: old text, new text, and so on."""
    right = next(k for k in numpy_kernels.kernels if k.function.__name__ == kernel_name)
    source = inspect.getsource(right.function)
    space = {
        **vars(numpy_kernels), "past": past, "before": before, "rounded_down": rounded_down,
        "STATE": {}, "rng": np.random.default_rng(),
        "greedy": lambda kernels: Altered(kernels, Greedy),
        "silent": lambda kernels: Altered(kernels, Silent),
    }  # fmt: skip
    space["kernels"] = KernelSet(vendor="zoo", device="numpy")
    if right.scratch is not None:
        source = inspect.getsource(right.scratch) + source
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in source, f"{kernel_name} has no {old!r}"
        source = source.replace(old, new)
    exec(compile(source, f"<{kernel_name}>", "exec"), space)
    assert len(space["kernels"]) == 1
    return space["kernels"]
