"""Products of bytes: only where a node allows rounding, and much finer than it allows."""

from dataclasses import replace

import numpy as np
import pytest

from perfxlm_core import ops
from perfxlm_core.plugin import Attributes, Site
from perfxlm_opencl.kernels.linear import linear
from perfxlm_opencl.kernels.packing import CUTS

from .operands import MOST, TOKENS, decoded, place, read, weight

RUNTIMES = [
    *(("intel", p, name) for p in ("intel", "adreno", "mali") for name in ("q4_1", "q6_k")),
    ("pocl", "mali", "q8_0"),
]
"""PoCL has no such instruction: there it is emulated, and compiled for long."""
ROWS, COLUMNS = 70, 512


def device_of(open_device, runtime, profile):
    """The device as if it reported integer dot products, if it does not."""
    device = open_device(runtime, profile)
    device.profile = replace(device.profile, dot_product=True)
    device.programs.profile = device.profile
    return device


def bound(device, tensor, x, exact):
    out = place(device, np.zeros((MOST, ROWS), np.float32), (TOKENS, ROWS))
    given = {"out": out, "x": place(device, x, (TOKENS, COLUMNS)), "weight": tensor, "bias": None}
    site = Site(ops.linear, Attributes(exact=exact), given, None, device, device.allocate)
    return linear(site), out


def kernels_of(launch, tokens):
    return [p.kernel for p in launch.parts if p.global_size({"tokens": tokens}) is not None]


@pytest.mark.parametrize(("runtime", "profile", "name"), RUNTIMES)
def test_sixteen_bits_are_kept(open_device, runtime, profile, name):
    rng = np.random.default_rng(1)
    device = device_of(open_device, runtime, profile)
    tensor = weight(name, ROWS, COLUMNS, rng)
    x = rng.standard_normal((MOST, COLUMNS)).astype(np.float32)
    x[:, 5] *= 40  # one column that stands out costs its neighbours nothing that counts
    want = x @ decoded(tensor).T
    launch, out = bound(device, tensor, x, exact=False)
    for tokens, kernel in ((1, "linear_staged"), (MOST, "linear_dot")):
        assert kernels_of(launch, tokens) == [kernel]
        launch({"tokens": tokens})
        got = read(device, out, (MOST, ROWS))[:tokens]
        np.testing.assert_allclose(got, want[:tokens], rtol=0, atol=5e-4 * abs(want).max())


def test_exact_nodes_and_plain_weights_are_not_rounded(open_device):
    rng = np.random.default_rng(2)
    device = device_of(open_device, "intel", "mali")
    x = rng.standard_normal((MOST, COLUMNS)).astype(np.float32)
    for name, exact in (("q4_0", True), ("float16", False)):
        launch, _ = bound(device, weight(name, ROWS, COLUMNS, rng), x, exact)
        assert kernels_of(launch, 1) == kernels_of(launch, MOST) == ["linear_lanes"]
    assert set(CUTS) > {"q4_0", "float16"}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_stays_none(open_device, bad):
    """It spoils its own token and no other."""
    rng = np.random.default_rng(3)
    device = device_of(open_device, "intel", "mali")
    tensor = weight("q8_0", ROWS, COLUMNS, rng)
    x = rng.standard_normal((MOST, COLUMNS)).astype(np.float32)
    x[0, 77] = bad
    launch, out = bound(device, tensor, x, exact=False)
    launch({"tokens": MOST})
    got = read(device, out, (MOST, ROWS))
    assert not np.isfinite(got[0]).any()
    assert np.isfinite(got[1:]).all()


def test_a_driver_that_refuses_them_gets_floats(open_device, caplog):
    rng = np.random.default_rng(4)
    device = device_of(open_device, "intel", "mali")
    attempt = device.programs.attempt

    def broken(source, defines, std):
        return attempt(
            source, {**defines, "LANES": "nonsense("} if defines["DOT"] else defines, std
        )

    device.programs.attempt = broken
    tensor = weight("q4_1", ROWS, COLUMNS, rng)
    x = rng.standard_normal((MOST, COLUMNS)).astype(np.float32)
    launch, _ = bound(device, tensor, x, exact=False)
    assert "does not compile" in caplog.text
    assert kernels_of(launch, 1) == ["linear_lanes"]
