"""The suite as a vendor uses it: two lines and a fixture."""

import pytest

from perfxlm_core.conformance import Target
from perfxlm_core.conformance.suite import *  # noqa: F403

from . import numpy_kernels


@pytest.fixture(scope="session")
def perfxlm_plugin():
    return Target.of("numpy", numpy_kernels.NumpyDevice(), numpy_kernels.kernels)


@pytest.fixture(scope="session")
def perfxlm_examples():
    return 5
