"""Composites on the profiles that pack: one copy of each weight, read in tiles at any step."""

import numpy as np
import pytest

from perfxlm_core import ops
from perfxlm_core.plugin import Attributes, Dim, Operand, Site
from perfxlm_opencl.kernels.fused import gated_linear, linear_add, qkv_rotary_store

from .operands import decoded, place, read, weight

TOKENS = Dim.symbol("tokens")
MOST = 3
COLUMNS, ROWS = 256, 40
HEADS, KV_HEADS, SIZE = 4, 2, 32
PACKING = ("generic", "intel", "adreno", "mali")


def bound(device, op, bind, operands, widths, **attrs):
    """A composite with scratch memory for `MOST` tokens."""
    nbytes = 4 * sum(widths) * MOST + 256 * len(widths)
    scratch = Operand("scratch", (nbytes,), "uint8", device.allocate(nbytes), 0)
    site = Site(op, Attributes(exact=True, **attrs), operands, scratch, device, device.allocate)
    return bind(site)


def rows(device, width, rng=None):
    """Values for each token, zeros or random ones, and the operand."""
    array = np.zeros((MOST, width)) if rng is None else rng.standard_normal((MOST, width))
    array = array.astype(np.float32)
    return array, place(device, array, (TOKENS, width))


def kernels_of(launch, tokens):
    parts = getattr(launch, "parts", [launch])
    return [p.kernel for p in parts if p.global_size({"tokens": tokens}) is not None]


@pytest.mark.parametrize("profile", PACKING)
def test_linear_add_is_one_launch_at_any_step(open_device, profile):
    rng, device = np.random.default_rng(1), open_device("intel", profile)
    tensor = weight("q4_0", ROWS, COLUMNS, rng)
    (x, x_at), (base, base_at), (_, out) = (
        rows(device, COLUMNS, rng), rows(device, ROWS, rng), rows(device, ROWS),
    )  # fmt: skip
    given = {"x": x_at, "weight": tensor, "residual": base_at, "bias": None, "out": out}
    launch = bound(device, ops.linear_add, linear_add, given, [ROWS])
    for tokens in (1, MOST):
        assert kernels_of(launch, tokens) == ["linear_lanes"]
        launch({"tokens": tokens})
        want = (x @ decoded(tensor).T + base)[:tokens]
        got = read(device, out, (MOST, ROWS))[:tokens]
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * abs(want).max())


@pytest.mark.parametrize("profile", PACKING)
@pytest.mark.parametrize(("gate", "up"), [("q4_k", "q4_k"), ("q8_0", "q4_1"), ("q5_0", "q5_0")])
def test_gated_linear_holds_each_weight_once(open_device, profile, gate, up):
    rng, device = np.random.default_rng(2), open_device("intel", profile)
    tensors = [weight(name, 4096, COLUMNS, rng) for name in (gate, up)]
    (x, x_at), (_, out) = rows(device, COLUMNS, rng), rows(device, 4096)
    given = {"x": x_at, "gate_weight": tensors[0], "up_weight": tensors[1], "out": out}
    given |= dict.fromkeys(["norm_weight", "gate_bias", "up_bias"])
    before = device.pool.used
    launch = bound(device, ops.gated_linear, gated_linear, given, [COLUMNS, 4096, 4096],
                   activation="silu", eps=1e-6)  # fmt: skip
    held = device.pool.used - before - 4 * MOST * (COLUMNS + 2 * 4096)
    assert held < 1.1 * sum(t.nbytes for t in tensors)
    first = kernels_of(launch, 1)
    assert first == {"q4_k": ["gated_lanes"], "q5_0": ["gated_linear"]}.get(gate, first)
    a, b = (x @ decoded(t).T for t in tensors)
    want = a * 0.5 * (1 + np.tanh(a / 2)) * b
    for tokens in (1, MOST):
        launch({"tokens": tokens})
        got = read(device, out, (MOST, 4096))[:tokens]
        np.testing.assert_allclose(got, want[:tokens], rtol=0, atol=1e-4 * abs(want).max())


@pytest.mark.parametrize("profile", PACKING)
@pytest.mark.parametrize(
    "names", [("q4_k", "q4_k", "q6_k"), ("q4_0", "q8_0", "float32"), ("q4_0", "q4_0", "q5_1")]
)
def test_queries_keys_and_values_of_different_formats(open_device, profile, names):
    """All packed, or all as in their files; in one launch for one token."""
    rng, device = np.random.default_rng(3), open_device("intel", profile)
    widths = (HEADS * SIZE, KV_HEADS * SIZE, KV_HEADS * SIZE)
    tensors = [weight(n, w, COLUMNS, rng) for n, w in zip(names, widths, strict=True)]
    (x, x_at), (_, q) = rows(device, COLUMNS, rng), rows(device, HEADS * SIZE)
    angles = rng.uniform(-3, 3, (MOST, SIZE // 2)).astype(np.float32)
    caches = [place(device, np.zeros((1, MOST, KV_HEADS, SIZE), np.float32),
                    (1, MOST, KV_HEADS, SIZE)) for _ in "kv"]  # fmt: skip
    given = {
        "x": x_at, "q": Operand("q", (TOKENS, HEADS, SIZE), "float32", q.buffer, 0),
        **dict(zip(("q_weight", "k_weight", "v_weight"), tensors, strict=True)),
        "cos": place(device, np.cos(angles), (TOKENS, SIZE // 2)),
        "sin": place(device, np.sin(angles), (TOKENS, SIZE // 2)),
        "k_cache": caches[0], "v_cache": caches[1],
        "slot_mapping": place(device, np.arange(MOST, dtype=np.int32), (TOKENS,)),
        **dict.fromkeys(["norm_weight", "q_bias", "k_bias", "v_bias", "q_norm_weight",
                         "k_norm_weight"]),
    }  # fmt: skip
    between = [COLUMNS, *2 * [widths[0]], *3 * [widths[1]], widths[2]]
    launch = bound(device, ops.qkv_rotary_store, qkv_rotary_store, given, between,
                   eps=1e-6, head_eps=1e-6, interleaved=False)  # fmt: skip
    assert kernels_of(launch, 1) == ["qkv_rotary_store"]
    kept = {form for t in tensors for form in device._constants[t]}
    assert all(f.startswith("tiles") for f in kept) or all(f.startswith("plain") for f in kept)
    shapes = [(MOST, n, SIZE) for n in (HEADS, KV_HEADS, KV_HEADS)]
    flat = [(x @ decoded(t).T).reshape(s) for t, s in zip(tensors, shapes, strict=True)]
    want = [*(turned(v, angles) for v in flat[:2]), flat[2]]
    for tokens in (1, MOST):
        launch({"tokens": tokens})
        for operand, shape, expected in zip((given["q"], *caches), shapes, want, strict=True):
            got = read(device, operand, shape)[:tokens]
            np.testing.assert_allclose(
                got, expected[:tokens], rtol=0, atol=2e-5 * abs(expected).max()
            )


def turned(value, angles):
    a, b = np.split(value, 2, axis=-1)
    c, s = np.cos(angles)[:, None], np.sin(angles)[:, None]
    return np.concatenate([a * c - b * s, b * c + a * s], axis=-1)
