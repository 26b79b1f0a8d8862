"""The conformance kit on PoCL: plain OpenCL C 1.2, no fp16 arithmetic, no subgroups."""

import pytest

from perfxlm_core.conformance.suite import *  # noqa: F403
from perfxlm_core.conformance.target import Target
from perfxlm_opencl.device import OpenClDevice
from perfxlm_opencl.discovery import find_devices
from perfxlm_opencl.kernels import kernels


@pytest.fixture(scope="session")
def perfxlm_plugin():
    return Target.of("opencl", OpenClDevice(find_devices("portable")[0]), kernels)


@pytest.fixture(scope="session")
def perfxlm_examples():
    return 2
