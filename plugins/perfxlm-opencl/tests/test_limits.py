"""The profiles of devices that are not here: their shapes against the limits that others published.

Limits: clinfo of an Adreno 643L and an Adreno 740 (github.com/ggml-org/llama.cpp, issues 11953 and
25870), Arm's OpenCL guide for Mali (100614), Intel's guides to its graphics architectures, and the
least that the OpenCL 1.2 specification allows.
"""

from dataclasses import replace

import numpy as np
import pytest

from perfxlm_core import ops
from perfxlm_core.graph.ir import Graph
from perfxlm_core.graph.plan import decide
from perfxlm_core.ops.formats import FORMATS, Tensor
from perfxlm_core.ops.types import Dim
from perfxlm_core.registry.kernels import Registry
from perfxlm_opencl.kernels import kernels
from perfxlm_opencl.kernels.attention import local_bytes
from perfxlm_opencl.kernels.parameters import TABLES, candidates, fitted, valid
from perfxlm_opencl.profiles import NAMES, choose

KIB, MIB = 1 << 10, 1 << 20
SUBGROUPS = {"cl_khr_subgroups", "cl_khr_fp16", "cl_khr_integer_dot_product"}
REQUIRED = "cl_intel_required_subgroup_size"
PUBLISHED = {
    "adreno 643L": ("adreno", 1024, 32 * KIB, 884 * MIB, 1 << 27, {"cl_qcom_reqd_sub_group_size"}),
    "adreno 740": ("adreno", 1024, 32 * KIB, 884 * MIB, 1 << 27, {"cl_qcom_reqd_sub_group_size"}),
    "mali g71": ("mali", 384, 32 * KIB, 1024 * MIB, 1 << 16, set()),
    "mali g715": ("mali", 1024, 32 * KIB, 1024 * MIB, 1 << 16, set()),
    "intel gen9": ("intel", 256, 64 * KIB, 1024 * MIB, 1 << 26, {REQUIRED}),
    "intel xe-lp": ("intel", 512, 64 * KIB, 4096 * MIB, 1 << 26, {REQUIRED}),
    "the least": ("generic", 64, 32 * KIB, 128 * MIB, 1 << 16, None),
}  # fmt: skip
"""Profile, work-items of a group, local memory, one allocation, pixels of an image, extensions."""
FREQUENT = ("q4_0", "q4_1", "q8_0", "q4_k", "q6_k")
"""Formats that are compiled here; the kit runs all of them."""
COLUMNS = (32, 576, 1536, 2048, 8192, 11008)


@pytest.fixture(params=PUBLISHED)
def published(request, device):
    """Facts as such a device would report them, and the profile that it gets."""
    name, group, local, allocation, pixels, extra = PUBLISHED[request.param]
    facts = replace(
        device.facts,
        device=request.param, platform="QUALCOMM" if name == "adreno" else "platform",
        is_cpu=False, max_work_group=group, local_memory=local, max_allocation=allocation,
        image_buffer=pixels, image2d=(8192, 8192), features=frozenset(),
        extensions=frozenset() if extra is None else frozenset(SUBGROUPS | extra),
    )  # fmt: skip
    profile = choose(facts, "")
    assert profile.name == name
    return facts, profile


def test_groups_and_local_memory_are_within_the_limits(published):
    facts, profile = published
    assert max(profile.row_items, profile.items) <= facts.max_work_group
    assert profile.max_items <= facts.max_work_group
    assert 4 * profile.row_items <= facts.local_memory
    assert all(local_bytes(size) <= facts.local_memory for size in (64, 128, 256, 512))
    for _, shape in TABLES[profile.name].shapes:
        assert valid(fitted(shape, profile, facts), profile, facts)


def test_what_a_tuner_tries_is_within_the_limits(published):
    facts, profile = published
    for columns in COLUMNS:
        every = list(candidates(profile, facts, columns, 64))
        assert every
        for shape in every:
            assert shape.items * shape.split <= facts.max_work_group
            assert 4 * (shape.split - 1) * shape.rows * shape.tokens * shape.items <= (
                facts.local_memory
            )


def test_features_are_those_that_devices_of_the_kind_have(published):
    _, profile = published
    assert profile.fp16 == profile.dot_product == (profile.name != "generic")
    assert profile.subgroup == {"adreno": 64, "intel": 16}.get(profile.name, 0)
    assert profile.images == (profile.name == "adreno")


def bind_everything(device, dtype, steps=(1, 3, 16)):
    """Nodes of linear in several formats, run in steps of so many tokens."""
    tensors = {}
    for name in FREQUENT:
        shape = (80, 512)
        data = np.zeros(FORMATS[name].nbytes(shape), np.uint8)
        tensors[name] = Tensor(name, shape, name, data)
    graph = Graph(lambda name: tensors[name], dtype=dtype)
    x = graph.input("x", (Dim.symbol("tokens"), 512), dtype)
    graph.outputs = [ops.linear(x, graph.weight(n, *t.shape)) for n, t in tensors.items()]
    registry = Registry()
    registry.extend(list(kernels))
    plan = decide(graph, device, registry, {"tokens": 16})
    plan.lay_out()
    bound = plan.bind()
    for tokens in steps:
        bound.program({"tokens": tokens})
    device.synchronize()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_runtime_compiles_all_that_its_features_allow(device, open_device, name):
    """No kernel is refused: neither the special reads nor what replaces them."""
    runtime = "intel" if "Intel" in device.facts.platform else "pocl"
    own = open_device(runtime, name)
    # PoCL compiles again for each launch, for seconds; the kit runs the kernels on it.
    steps = (1, 3, 16) if runtime == "intel" else ()
    bind_everything(own, own.profile.activation, steps)
    assert not own.programs._refused


def test_a_weight_larger_than_an_image_is_read_as_a_buffer(open_device):
    own = open_device("intel", "adreno")
    own.facts = replace(own.facts, image_buffer=1 << 10)
    bind_everything(own, "float32")
