"""A small decoder with made-up weights, in the file formats of checkpoints."""

import numpy as np
import pytest

from perfxlm_core import ops
from perfxlm_core.graph.ir import Graph
from perfxlm_core.graph.onnx.weights import FORMS
from perfxlm_core.ops.formats import FORMATS, Tensor, TensorSource, is_quantized
from perfxlm_core.ops.types import numpy_dtype

HIDDEN, HEADS, KV_HEADS, SIZE, WIDTH, VOCAB, LAYERS = 64, 4, 2, 16, 128, 96, 2


class WeightFile:
    """Weights of one format in a file, drawn once and read back from it."""

    def __init__(self, path, form):
        self.path, self.form = path, form
        self.rng = np.random.default_rng(0)
        path.write_bytes(b"HEAD")
        self.tensors = {}

    def __call__(self, name, *shape):
        if name not in self.tensors:
            self.tensors[name] = self._draw(name, shape)
        return self.tensors[name]

    def _draw(self, name, shape):
        form = self.form if len(shape) == 2 else "float32"
        values = (self.rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        if is_quantized(form):
            data = FORMATS[form].quantize(values).reshape(-1)
        else:
            data = np.ascontiguousarray(values.astype(numpy_dtype(form))).reshape(-1).view(np.uint8)
        with self.path.open("ab") as file:
            offset = file.tell()
            file.write(data.tobytes())
        return Tensor(name, shape, form, data, TensorSource(self.path, offset, data.nbytes))


def decoder(
    weights, *, window=None, soft_cap=None, bias=False, norm_heads=False, turned=SIZE,
    dtype="float32",
):  # fmt: skip
    """A decoder of two layers as a recipe would build it."""
    shapes = {}

    def find(name):
        return weights(name, *shapes[name])

    g = Graph(find, dtype=dtype)

    def weight(name, *shape):
        shapes[name] = shape
        return g.weight(name, *shape)

    def linear(name, x, width):
        b = weight(f"{name}.bias", width) if bias else None
        return ops.linear(x, weight(f"{name}.weight", width, x.shape[-1]), b)

    table = weight("embed.weight", VOCAB, HIDDEN)
    inverse = g.constant("rope", (1.0 / 100.0 ** np.arange(0, 1, 2 / turned)).astype(np.float32))
    x = ops.embedding(g.token_ids, table, dtype=dtype)
    cos, sin = ops.rotary_table(
        g.positions, inverse, attention_factor=1.0 if turned == SIZE else 1.1
    )
    for i in range(LAYERS):
        y = ops.rms_norm(x, weight(f"{i}.norm", HIDDEN), eps=1e-5)
        q, k, v = (
            linear(f"{i}.{n}", y, count * SIZE).reshape(-1, count, SIZE)
            for n, count in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS))
        )
        if norm_heads:
            q = ops.rms_norm(q, weight(f"{i}.q_norm", SIZE), eps=1e-6)
        q, k = (ops.rotary_embedding(t, cos, sin) for t in (q, k))
        y = ops.attention(q, k, v, layer=i, window=window, soft_cap=soft_cap)
        x = x + linear(f"{i}.o", y.reshape(-1, HEADS * SIZE), HIDDEN)
        y = ops.layer_norm(x, weight(f"{i}.norm2", HIDDEN), weight(f"{i}.norm2.bias", HIDDEN))
        y = ops.silu_and_mul(linear(f"{i}.gate", y, WIDTH), linear(f"{i}.up", y, WIDTH))
        x = x + linear(f"{i}.down", y, HIDDEN) * 0.5
    logits = ops.linear(x, table)
    g.outputs = [logits if soft_cap is None else ops.soft_cap(logits, cap=soft_cap)]
    return g


@pytest.fixture
def weight_file(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    return lambda form: WeightFile(folder / "weights.bin", form)


@pytest.fixture(params=FORMS)
def form(request):
    return request.param
