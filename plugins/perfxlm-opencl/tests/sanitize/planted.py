"""Run one kernel of planted.cl on the device that the environment names: `python planted.py X`."""

import sys
from pathlib import Path

import pyopencl as cl

from perfxlm_opencl.device import OpenClDevice
from perfxlm_opencl.discovery import find_devices

device = OpenClDevice(find_devices()[0])
source = (Path(__file__).parent / "planted.cl").read_text()
program = cl.Program(device.context, source).build(["-cl-std=CL1.2"])
kernel = cl.Kernel(program, sys.argv[1])
memory = cl.Buffer(device.context, cl.mem_flags.READ_WRITE, 256)
kernel.set_arg(0, memory)
cl.enqueue_nd_range_kernel(device.queue, kernel, (64,), (64,))
device.synchronize()
print(f"ran on {device.facts.platform}")
