"""More of the zoo: operators over tensors of any shape, and sampling, with one line changed."""

import inspect

from perfxlm_core.plugin import KernelSet

from . import numpy_kernels_tensor

# name, kernel, what is replaced, by what
MUTANTS = [
    ("right side not broadcast", "broadcast_add", "wide(a) + wide(b)",
     "wide(a) + wide(b).reshape(-1)[:1].reshape(()) if b.size and b.shape != a.shape"
     " else wide(a) + wide(b)"),
    ("subtracts", "broadcast_add", "wide(a) + wide(b)", "wide(a) - wide(b)"),
    ("rounds down", "divide", "np.where((a < 0) != (b < 0), -size, size)", "a // b"),
    ("unsigned division of signed numbers", "divide",
     "np.where((a < 0) != (b < 0), -size, size)", "size"),
    ("multiplies by a half precision inverse", "divide", "wide(a) / wide(b)",
     "wide(a) * (np.float16(1) / b.astype(np.float16))"),
    ("sides swapped", "where", "(condition, a, b)", "(condition, b, a)"),
    ("selects by multiplying", "where", "np.where(condition, a, b)",
     "condition * a + (1 - condition.astype(np.int8)) * b"),
    ("high before low", "clip", "np.minimum(v, high)", "v"),
    ("clips magnitudes", "clip", "np.maximum(v, low)", "np.maximum(v, -abs(low) - 1)"),
    ("NaN equals NaN", "equal", "a == b", "(a == b) | ((a != a) & (b != b))"),
    ("compares bits", "equal", "a == b",
     "a.astype(np.float64).view(np.int64) == b.astype(np.float64).view(np.int64)"),
    ("wrong axis", "reduce_sum", "a % x.ndim", "(a + 1) % x.ndim"),
    ("negative axis off by one", "reduce_sum", "a % x.ndim",
     "a if a >= 0 else (a + x.ndim - 1) % x.ndim"),
    ("only the first axis", "reduce_sum", "sorted(along, reverse=True)",
     "sorted(along, reverse=True)[:1]"),
    ("empty axes always change nothing", "reduce_sum", "and noop_with_empty_axes", "is not None"),
    ("accumulates in half precision", "reduce_sum", "total.sum(axis=axis)",
     "total.sum(axis=axis, dtype=np.float16 if total.dtype.kind == 'f' else None)"),
    ("starts from zero", "reduce_max", "keepdims=bool(keepdims))",
     "keepdims=bool(keepdims), initial=0)"),
    ("last of equals", "argmax", "if select_last_index", "if True"),
    ("first of equals", "argmax", "if select_last_index", "if False"),
    ("axis from the front alone", "argmax", "np.moveaxis(x, axis, -1)",
     "np.moveaxis(x, abs(axis) % x.ndim, -1)"),
    ("inclusive", "cumulative_sum", "if exclusive:", "if exclusive and len(v) > 65:"),
    ("forwards", "cumulative_sum", "-1 if reverse else 1", "1"),
    ("negative index reads the first", "gather", "i + length if i < 0 else i", "max(i, 0)"),
    ("negative index off by one", "gather", "i + length if i < 0", "i + length - 1 if i < 0"),
    ("last slice left out", "gather", "indices_of(indices.shape)",
     "list(indices_of(indices.shape))[: max(1, indices.size - 1)]"),
    ("clears what is not written", "scatter_nd", "out[...] = x", "out[...] = 0"),
    ("reduction ignored", "scatter_nd", 'if reduction == "none":', "if True:"),
    ("largest taken for smallest", "scatter_nd", '"min": np.minimum', '"min": np.maximum'),
    ("inputs in reverse", "concat", "for x in inputs", "for x in inputs[::-1]"),
    ("second input off by one", "concat", "start = end",
     "start = end if end < 2 or end >= out.shape[axis] else end - 1"),
    ("inverse permutation", "transpose", "np.transpose(x, order)",
     "np.transpose(x, np.argsort(order)) if out.shape == np.transpose(x, np.argsort(order)).shape"
     " else np.transpose(x, order)"),
    ("value ignored", "pad", "0 if value is None else value", "0"),
    ("before and after swapped", "pad",
     "before[axis], after[axis] = counts[i], counts[i + len(along)]",
     "before[axis], after[axis] = counts[i + len(along)], counts[i]"),
    ("edge for reflection", "pad", "mode=mode)", 'mode="edge")'),
    ("index out of range wraps", "one_hot", "if 0 <= i < length:",
     "i %= length\n        if True:"),
    ("last product left out", "matmul", "range(left.shape[-1])",
     "range(max(1, left.shape[-1] - 1))"),
    ("broadcast matrices from the first batch", "matmul", "left, right = wide(a), wide(b)",
     "left, right = wide(a), wide(b) if b.ndim < 3 or not b.size else"
     " np.broadcast_to(wide(b)[:1], b.shape)"),
    ("bias scaled twice", "gemm", "wide(c) * out.dtype.type(beta)",
     "wide(c) * out.dtype.type(beta * alpha)"),
    ("transposition ignored where square", "gemm", "left.T if transA",
     "left if transA and left.shape[0] == left.shape[1] else left.T if transA"),
    ("halves away from zero", "quantize_linear", "np.rint(x / spread(scale))",
     "np.sign(x) * np.floor(abs(x / spread(scale)) + np.float32(0.5))"),
    ("wraps instead of saturating", "quantize_linear", "np.clip(y, info.min, info.max)",
     "y.astype(np.int64).astype(out.dtype)"),
    ("zero point ignored", "quantize_linear", "y = y + spread(zero_point)", "pass"),
    ("scales of the first block", "quantize_linear", "np.repeat(s, block_size, axis=axis)",
     "np.repeat(s.take([0] * s.shape[axis], axis=axis), block_size, axis=axis)"),
    ("equal elements in reverse", "top_k", "for i, n in enumerate(row)",
     "for i, n in list(enumerate(row))", "-n if largest else n, i)", "-n if largest else n, -i)",
     "[i for _, i in", "[-i for _, i in"),
    ("not sorted", "top_k", "found[at] = order[:count]",
     "found[at] = np.sort(np.array(order[:count], int))"),
    ("always the largest", "top_k", "-n if largest else n", "-n"),
    ("temperature ignored", "sample_top_k_top_p", " / temperatures[r]", ""),
    ("multiplied by the temperature", "sample_top_k_top_p", " / temperatures[r]",
     " * temperatures[r]"),
    ("temperature of the first row", "sample_top_k_top_p", " / temperatures[r]",
     " / (temperatures[0] or 1)"),
    ("zero temperature draws", "sample_top_k_top_p", "if temperatures[r] == 0:", "if False:",
     " / temperatures[r]", " / (temperatures[r] or 1)"),
    ("top-k ignored", "sample_top_k_top_p", "if top_ks[r] > 0:", "if False:"),
    ("top-k off by one", "sample_top_k_top_p", "order[: top_ks[r]]", "order[: top_ks[r] + 1]"),
    ("top-p ignored", "sample_top_k_top_p", "int(enough.argmax()) + 1", "len(order)"),
    ("top-p exclusive", "sample_top_k_top_p", ">= top_ps[r]", "> top_ps[r]"),
    ("top-p without the token that reaches it", "sample_top_k_top_p",
     "int(enough.argmax()) + 1", "max(1, int(enough.argmax()))"),
    ("number on the border takes the token before", "sample_top_k_top_p",
     "running[:kept] > uniforms", "running[:kept] >= uniforms"),
    ("not scaled to the candidates", "sample_top_k_top_p", "uniforms[r] * running[kept - 1]",
     "uniforms[r] * running[-1]"),
    ("number ignored", "sample_top_k_top_p", "uniforms[r]", "np.float32(0.5)"),
    ("higher ids first among equals", "sample_top_k_top_p", 'np.argsort(-v, kind="stable")',
     'len(v) - 1 - np.argsort(-v[::-1], kind="stable")'),
]  # fmt: skip

LEGAL = [
    ("one axis at a time from the front", "reduce_sum", "sorted(along, reverse=True)",
     "[a - sum(b < a for b in along) for a in sorted(along)]"),
    ("the library's product", "matmul", "out[...] = total.reshape(out.shape)",
     "out[...] = np.matmul(wide(a), wide(b))"),
    ("probabilities normalized first", "sample_top_k_top_p",
     "weights = np.exp((v[order] - v[order[0]]) / temperatures[r])",
     "weights = np.exp((v[order] - v[order[0]]) / temperatures[r]);"
     " weights = weights / weights.sum()"),
    ("sums in double", "sample_top_k_top_p", "dtype=np.float32)", "dtype=np.float64)"),
    ("powers of two", "sample_top_k_top_p",
     "np.exp((v[order] - v[order[0]]) / temperatures[r])",
     "np.exp2((v[order] - v[order[0]]) / temperatures[r] * np.float32(1.442695))"),
]  # fmt: skip


def mutate(kernel_name, *changes):
    """A kernel set that holds one kernel, with a line changed: old text, new text, and so on."""
    right = next(k for k in numpy_kernels_tensor.kernels if k.function.__name__ == kernel_name)
    source = inspect.getsource(right.function)
    space = {
        **vars(numpy_kernels_tensor),
        "kernels": KernelSet(vendor="zoo", device="numpy"),
    }
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in source, f"{kernel_name} has no {old!r}"
        source = source.replace(old, new)
    exec(compile(source, f"<{kernel_name}>", "exec"), space)
    return space["kernels"]
