"""Weights with random codes, and operands on a device."""

import numpy as np

from perfxlm_core.plugin import FORMATS, Dim, Operand, Tensor

TOKENS = Dim.symbol("tokens")
MOST = 11
"""Tokens of a step, at most."""


def weight(name, rows, columns, rng):
    """A weight with scales of a sensible size."""
    if name not in FORMATS:
        return Tensor.from_array("w", rng.standard_normal((rows, columns)).astype(name))
    known = FORMATS[name]
    blocks = rng.integers(
        0, 256, (rows * columns // known.block_size, known.block_bytes), dtype=np.uint8
    )
    places = {"q4_0": [0], "q8_0": [0], "q6_k": [208]}.get(name, [0, 2])
    for at in places:
        scales = rng.uniform(0.001, 0.01, len(blocks)).astype(np.float16)
        blocks[:, at : at + 2] = scales[:, None].view(np.uint8)
    return Tensor("w", (rows, columns), name, blocks.reshape(-1))


def decoded(tensor):
    return np.asarray(tensor.rows(np.arange(tensor.shape[0])), np.float32)


def place(device, array, shape):
    buffer = device.allocate(array.nbytes)
    device.copy_in(device.view(buffer, 0, array.shape, array.dtype.name), array)
    return Operand("x", shape, array.dtype.name, buffer, 0)


def read(device, operand, shape):
    out = np.empty(shape, np.float32)
    device.copy_out(out, device.view(operand.buffer, 0, shape, "float32"))
    return out
