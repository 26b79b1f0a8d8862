"""Right kernels in NumPy for operators over tensors of any shape, and for sampling."""

import numpy as np

from perfxlm_core import ops
from perfxlm_core.conformance.structured import known_operators
from perfxlm_core.plugin import KernelSet

kernels = KernelSet(vendor="numpy", device="numpy")
OPS = known_operators()
in_order = sorted


def wide(x):
    v = np.asarray(x)
    return v.astype(np.float32) if v.dtype in (np.float16, np.float32) else v


def listed(x):
    return np.asarray(x).reshape(-1).tolist()


def indices_of(shape):
    return np.ndindex(*shape)


@kernels.implements(OPS["broadcast_add"])
def broadcast_add(out, a, b):
    out[...] = wide(a) + wide(b)


@kernels.implements(OPS["divide"])
def divide(out, a, b):
    if out.dtype.kind == "f":
        out[...] = wide(a) / wide(b)
    else:
        size = abs(a.astype(np.int64)) // abs(b.astype(np.int64))
        out[...] = np.where((a < 0) != (b < 0), -size, size)


@kernels.implements(OPS["where"])
def where(out, condition, a, b):
    out[...] = np.where(condition, a, b)


@kernels.implements(OPS["clip"])
def clip(out, x, low, high):
    v = x
    v = v if low is None else np.maximum(v, low)
    v = v if high is None else np.minimum(v, high)
    out[...] = v


@kernels.implements(OPS["equal"])
def equal(out, a, b):
    out[...] = a == b


@kernels.implements(OPS["reduce_sum"])
def reduce_sum(out, x, axes, *, keepdims, noop_with_empty_axes):
    along = [] if axes is None else [a % x.ndim for a in listed(axes)]
    if not along and noop_with_empty_axes:
        out[...] = x
        return
    along = along or list(range(x.ndim))
    total = wide(x)
    for axis in sorted(along, reverse=True):
        total = total.sum(axis=axis)
    out[...] = total.reshape(out.shape).astype(out.dtype)


@kernels.implements(OPS["reduce_max"])
def reduce_max(out, x, axes, *, keepdims, noop_with_empty_axes):
    along = [] if axes is None else [a % x.ndim for a in listed(axes)]
    if not along and noop_with_empty_axes:
        out[...] = x
        return
    out[...] = np.max(x, axis=tuple(along or range(x.ndim)), keepdims=bool(keepdims))


@kernels.implements(OPS["argmax"])
def argmax(out, x, *, axis, keepdims, select_last_index):
    v = np.moveaxis(x, axis, -1)
    best = v.max(axis=-1, keepdims=True)
    place = np.arange(v.shape[-1])
    if select_last_index:
        found = np.where(v == best, place, -1).max(axis=-1)
    else:
        found = np.where(v == best, place, v.shape[-1]).min(axis=-1)
    out[...] = found.reshape(out.shape)


@kernels.implements(OPS["cumulative_sum"])
def cumulative_sum(out, x, axis, *, exclusive, reverse):
    v = np.moveaxis(wide(x), int(np.asarray(axis).reshape(())), 0)
    target = np.moveaxis(out, int(np.asarray(axis).reshape(())), 0)
    total = np.zeros(v.shape[1:], v.dtype)
    for i in range(len(v))[:: -1 if reverse else 1]:
        if exclusive:
            target[i] = total
        total = total + v[i]
        if not exclusive:
            target[i] = total


@kernels.implements(OPS["gather"])
def gather(out, x, indices, *, axis):
    length, axis = x.shape[axis], axis % x.ndim
    for at in indices_of(indices.shape):
        i = int(indices[at])
        i = i + length if i < 0 else i
        place = (slice(None),) * axis + at
        out[place] = x[(slice(None),) * axis + (i,)]


@kernels.implements(OPS["scatter_nd"])
def scatter_nd(out, x, indices, updates, *, reduction):
    out[...] = x
    combine = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
    for row, where in enumerate(indices):
        place = tuple(where.tolist())
        if reduction == "none":
            out[place] = updates[row]
        else:
            out[place] = combine[reduction](wide(out[place]), wide(updates[row]))


@kernels.implements(OPS["concat"])
def concat(out, inputs, *, axis):
    axis, start = axis % out.ndim, 0
    for x in inputs:
        end = start + x.shape[axis]
        out[(slice(None),) * axis + (slice(start, end),)] = x
        start = end


@kernels.implements(OPS["transpose"])
def transpose(out, x, *, perm):
    order = range(x.ndim)[::-1] if perm is None else perm
    out[...] = np.transpose(x, order)


@kernels.implements(OPS["pad"])
def pad(out, x, pads, value, axes, *, mode):
    along = range(x.ndim) if axes is None else [a % x.ndim for a in listed(axes)]
    counts = listed(pads)
    before, after = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(along):
        before[axis], after[axis] = counts[i], counts[i + len(along)]
    v = x[tuple(slice(max(-b, 0), n - max(-a, 0))
                for b, a, n in zip(before, after, x.shape, strict=True))]  # fmt: skip
    widths = [(max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True)]
    if mode == "constant":
        out[...] = 0 if value is None else value
        inner = tuple(slice(b, b + n) for (b, _), n in zip(widths, v.shape, strict=True))
        out[inner] = v
    else:
        out[...] = np.pad(v, widths, mode=mode)


@kernels.implements(OPS["one_hot"])
def one_hot(out, indices, depth, values, *, axis):
    length = int(np.asarray(depth).reshape(()))
    out[...] = values[0]
    target = np.moveaxis(out, axis, -1)
    for at in indices_of(indices.shape):
        i = int(indices[at])
        i = i + length if i < 0 else i
        if 0 <= i < length:
            target[(*at, i)] = values[1]


@kernels.implements(OPS["matmul"])
def matmul(out, a, b):
    left, right = wide(a), wide(b)
    left = left[None, :] if a.ndim == 1 else left
    right = right[:, None] if b.ndim == 1 else right
    shape = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    total = np.zeros((*shape, left.shape[-2], right.shape[-1]), np.result_type(left, right))
    for k in range(left.shape[-1]):
        total += left[..., :, k : k + 1] * right[..., k : k + 1, :]
    out[...] = total.reshape(out.shape)


@kernels.implements(OPS["gemm"])
def gemm(out, a, b, c, *, alpha, beta, transA, transB):
    left, right = wide(a), wide(b)
    y = (left.T if transA else left) @ (right.T if transB else right) * out.dtype.type(alpha)
    if c is not None:
        y = y + wide(c) * out.dtype.type(beta)
    out[...] = y


@kernels.implements(OPS["quantize_linear"], dtypes=["float32"])
def quantize_linear(
    out, x, scale, zero_point, *, axis, block_size, output_dtype, precision, saturate
):  # fmt: skip
    info = np.iinfo(out.dtype)

    def spread(s):
        if s.ndim == 0:
            return s
        if block_size:
            return np.repeat(s, block_size, axis=axis).take(range(x.shape[axis]), axis=axis)
        return s.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])

    y = np.rint(x / spread(scale))
    if zero_point is not None:
        y = y + spread(zero_point)
    out[...] = np.clip(y, info.min, info.max)


@kernels.implements(ops.top_k)
def top_k(values, indices, x, k, *, axis, largest, sorted):
    count = int(np.asarray(k).reshape(()))
    v, found = np.moveaxis(x, axis, -1), np.moveaxis(indices, axis, -1)
    for at in indices_of(v.shape[:-1]):
        row = v[at].tolist()
        order = [i for _, i in in_order((-n if largest else n, i) for i, n in enumerate(row))]
        found[at] = order[:count]
    values[...] = np.take_along_axis(x, indices, axis=axis)


@kernels.implements(ops.sample_top_k_top_p)
def sample_top_k_top_p(out, logits, temperatures, top_ks, top_ps, uniforms):
    for r in range(len(out)):
        v = logits[r].astype(np.float32)
        order = np.argsort(-v, kind="stable")
        if temperatures[r] == 0:
            out[r] = order[0]
            continue
        if top_ks[r] > 0:
            order = order[: top_ks[r]]
        weights = np.exp((v[order] - v[order[0]]) / temperatures[r])
        running = np.cumsum(weights, dtype=np.float32)
        enough = running >= top_ps[r] * running[-1]
        kept = int(enough.argmax()) + 1
        beyond = running[:kept] > uniforms[r] * running[kept - 1]
        out[r] = order[int(beyond.argmax())]
