"""Plugins that crash, hang, exit and scribble, as distributions in a folder."""

import textwrap

from ..registry.distributions import plugin

HEAD = """
import ctypes, os, re, signal, sys, time
import numpy as np
from perfxlm_core import ops
from perfxlm_core.plugin import DeviceInfo, HostMemory, KernelSet, hookimpl, loop

PERFXLM_API_VERSION = 1
kernels = KernelSet(vendor="NAME", device="NAME")
children = []

class Device(HostMemory):
    name = "NAME"
    def describe(self): return DeviceInfo("NAME", "NAME", "made for a test", 1 << 30)
    def free_memory(self): return 1 << 30
    def dtypes(self): return ["float32"]
    def program(self, launches, symbols): return loop(launches)

@hookimpl
def perfxlm_probe_devices():
    return [Device()]

@hookimpl
def perfxlm_register_kernels(registry):
    registry.extend(kernels)

def right(x):
    return x * (1 / (1 + np.exp(-np.clip(x, -80, 80))))

"""
KERNELS = """
@kernels.implements(ops.add, dtypes=["float32"])
def add(out, a, b):
    np.add(a, b, out=out)

@kernels.implements(ops.silu, dtypes=["float32"])
def segfault(out, x):
    print("about to read address 0")
    ctypes.string_at(0)

@kernels.implements(ops.silu, dtypes=["float32"])
def endless(out, x):
    while True:
        time.sleep(0.01)

@kernels.implements(ops.silu, dtypes=["float32"])
def blocked_with_the_lock(out, x):
    ctypes.PyDLL(None).pause()

@kernels.implements(ops.silu, dtypes=["float32"])
def leaves(out, x):
    os._exit(3)

@kernels.binds(ops.silu, dtypes=["float32"])
def leaves_in_bind(site):
    os._exit(0)

@kernels.binds(ops.silu, dtypes=["float32"])
def exits_in_bind(site):
    sys.exit("no licence")

@kernels.implements(ops.silu, dtypes=["float32"])
def exits(out, x):
    raise SystemExit(7)

@kernels.implements(ops.silu, dtypes=["float32"])
def interrupts(out, x):
    raise KeyboardInterrupt

@kernels.implements(ops.silu, dtypes=["float32"])
def killed(out, x):
    os.kill(os.getpid(), signal.SIGKILL)

@kernels.implements(ops.silu, dtypes=["float32"])
def chatty(out, x):
    print("x" * 3_000_000)
    out[...] = right(x)

@kernels.implements(ops.silu, dtypes=["float32"])
def writes_to_low_descriptors(out, x):
    for number in range(1, 100):
        try:
            os.write(number, b"boo" * 10)
        except OSError:
            pass
    out[...] = right(x)

@kernels.implements(ops.silu, dtypes=["float32"])
def writes_to_all_descriptors(out, x):
    for number in range(1, 1000):
        try:
            os.write(number, b"boo" * 10)
        except OSError:
            pass
    out[...] = right(x)

@kernels.implements(ops.silu, dtypes=["float32"])
def closes_all_descriptors(out, x):
    os.closerange(3, 1000)
    out[...] = right(x)

@kernels.implements(ops.silu, dtypes=["float32"])
def forks(out, x):
    if not children:
        children.append(os.fork())
    out[...] = right(x)

@kernels.implements(ops.silu, dtypes=["float32"])
def leaves_a_child_and_dies(out, x):
    if os.fork() == 0:
        time.sleep(600)
    os._exit(5)

@kernels.implements(ops.mul, dtypes=["float32"])
def mul(out, a, b):
    np.multiply(a, b, out=out)
"""
AT_TIMES = """
@kernels.implements(ops.silu, dtypes=["float32"])
def segfault_when_wide(out, x):
    if x.shape[-1] > 40:
        ctypes.string_at(0)
    out[...] = right(x)

"""
"""A kernel that dies of some shapes."""
AT_IMPORT = {
    "exiting": "import sys; sys.exit('no licence')",
    "leaving": "import os; os._exit(4)",
    "dying": "import ctypes; print('reading', flush=True); ctypes.string_at(0)",
    "stuck": "import time; time.sleep(600)",
    "raising": "import no_such_driver_library",
    "absent": HEAD.replace("return [Device()]", "return []"),
}
"""Plugins that cannot be loaded."""


def write(folder):
    """All of them."""
    for name, source in {
        "hostile": HEAD + KERNELS,
        "hostile_at_times": HEAD + AT_TIMES,
        **AT_IMPORT,
    }.items():
        plugin(folder, name, textwrap.dedent(source).replace("NAME", name))
