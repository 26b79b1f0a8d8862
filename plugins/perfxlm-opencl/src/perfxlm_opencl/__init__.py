"""OpenCL devices: integrated GPUs, phones, and any other that a driver offers.

How the plugin is laid out, and how a kernel is added to it:

    discovery.py   platforms and devices, PERFXLM_OPENCL_PLATFORM
    profiles.py    what a device reports -> what kernels may use of it, PERFXLM_OPENCL_PROFILE
    device.py      the device: memory, copies, `program`
    memory.py      the pool: `Region` (a piece of a cl.Buffer) behind the core's `Buffer`
    programs.py    sources in cl/*.cl -> compiled programs; binaries.py keeps them on disk
    launch.py      `launch(site, ...)`: a node described, with its arguments and its grid
    progress.py    bars while a model is loaded
    program.py     a plan's launches -> one program
    sweep.py       a list of launches -> one sweep of enqueues; times of each
    recorded.py    a sweep that repeats itself -> recordings, where replaying is quicker
    commands.py    cl_khr_command_buffer, PERFXLM_OPENCL_RECORD
    peaks.py       what the device reaches at most
    kernels/       operators bound to kernels, one module for each part of the operator API
    cl/            the kernels; storage.cl and groups.cl are what they share

A kernel is a function in a `cl/*.cl` file and a bind in `kernels/*.py`. In OpenCL C, an operand is
a buffer and an offset in elements, because the core packs activations into one arena:

    #include "storage.cl"

    __kernel void twice(OUT(ACT, out), IN(ACT, x), const int n) {
        PLACE_OUT(ACT, out);                // __global float *out, at its offset
        PLACE_IN(ACT, x);
        const int i = get_global_id(0);
        if (i < n) STORE(ACT, out, i, 2.0f * LOAD(ACT, x, i));
    }

`ACT` is the kind in which activations are stored, a define: `float`, `half` (read with
`vload_half`, so no fp16 arithmetic is needed) or `bfloat`. Arithmetic is in float. In Python:

    @kernels.binds(ops.twice, dtypes=ACTIVATIONS)
    def twice(site: Site) -> Launch:
        n = count(shape_of(site, "x"))
        return launch(
            site, "twice.cl", "twice", ["out", "x", n], [Tiles(n, 64)], [64],
            defines={"ACT": kind_of(site, "x")},
        )

Arguments are operands or constants by name (two OpenCL arguments each), `Buffer`s, ints and `Dim`s
(`const int`), and floats. The grid is a number of work-groups for each dimension: `Tiles(length,
per)` is one for each `per` elements, rounded up, so kernels check their bounds. A step sets only
those arguments that depend on its sizes, and only when they change.

A faster variant for devices that have what it needs is chosen in the same bind, from
`device_of(site).profile`; where a driver might refuse to compile it, ask
`device.programs.attempt(...)` first: it warns once and gives None, and the bind goes on with the
generic variant. `by_size` chooses between two launches by a size of the step (one token or many),
`chain` makes one node of several launches.
"""

from __future__ import annotations

from collections.abc import Iterable

from perfxlm_core.plugin import Device, Registry, hookimpl

PERFXLM_API_VERSION = 1


@hookimpl
def perfxlm_probe_devices() -> Iterable[Device]:
    """Every OpenCL device: GPUs first, then the processors.

    Raises:
        DeviceError: there is none; says whether a driver is missing or a permission.
    """
    from perfxlm_core.plugin import DeviceError
    from perfxlm_opencl.device import OpenClDevice
    from perfxlm_opencl.discovery import find_devices, why_none

    found = [OpenClDevice(one, index) for index, one in enumerate(find_devices())]
    if not found:
        raise DeviceError(why_none())
    return found


@hookimpl
def perfxlm_register_kernels(registry: Registry) -> None:
    """All kernels; each chooses its variant by the profile of the device that it is bound to."""
    from perfxlm_opencl.kernels import kernels

    registry.extend(kernels)
