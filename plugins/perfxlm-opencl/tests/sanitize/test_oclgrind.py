"""No invalid access, no race, no divergent barrier, as far as Oclgrind sees; and it does see.

Oclgrind simulates a device and reports on stderr; its exit code is always 0.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from perfxlm_opencl.discovery import PLATFORM
from perfxlm_opencl.kernels import kernels
from perfxlm_opencl.profiles import PROFILE

FOLDER = Path(__file__).parent
SIGNS = (
    "Invalid read",
    "Invalid write",
    "Invalid memory",
    "data race",
    "divergence detected",
    "exceeds static array",
    "not aligned",
    "FATAL",
)
pytestmark = pytest.mark.timeout(600)
OPERATORS = sorted({k.op.name for k in kernels})
LIMITS = {
    "OCLGRIND_DATA_RACES": "1",
    "OCLGRIND_MAX_ERRORS": "1000000",
    "OCLGRIND_MAX_WGSIZE": "256",
    "OCLGRIND_LOCAL_MEM_SIZE": "32768",
    "PERFXLM_OPENCL_CACHE": "",
    PLATFORM: "oclgrind",
}
"""Also the limits of small devices: groups of 256, 32 KiB of local memory."""


def simulate(script, *arguments, profile="generic"):
    """What a script printed, and Oclgrind's messages."""
    env = {**os.environ, **LIMITS, PROFILE: profile}
    command = [sys.executable, str(FOLDER / script), *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on Oclgrind" in done.stdout
    lines = (done.stdout + done.stderr).splitlines()
    return done.stdout, [line for line in lines if any(s in line for s in SIGNS)]


@pytest.mark.parametrize("profile", ["generic", "cpu"])
@pytest.mark.parametrize("op", OPERATORS)
def test_kernels_are_clean(op, profile):
    printed, messages = simulate("cases.py", op, 1 if profile == "cpu" else 2, profile=profile)
    assert not messages, "\n".join(messages[:5])
    assert int(printed.split()[0]) > 0


@pytest.mark.parametrize("op", ["linear", "linear_add", "gated_linear", "qkv_rotary_store"])
def test_products_of_bytes_are_clean(op):
    """The kernels of devices with integer dot products, those emulated."""
    printed, messages = simulate("cases.py", op, 1, "dot")
    assert not messages, "\n".join(messages[:5])
    assert int(printed.split()[0]) > 0


def test_a_kernel_without_bugs_is_clean():
    assert not simulate("planted.py", "no_bug")[1]


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        ("read_past_the_end", "Invalid read"),
        ("write_past_the_end", "Invalid write"),
        ("half_read_past_the_end", "Invalid read"),
        ("local_write_past_the_end", "Invalid write"),
        ("barrier_forgotten", "data race"),
        ("one_element_for_all", "data race"),
        ("barrier_for_some", "divergence detected"),
    ],
)
def test_a_planted_bug_is_seen(bug, message):
    messages = simulate("planted.py", bug)[1]
    assert any(message in line for line in messages), messages
