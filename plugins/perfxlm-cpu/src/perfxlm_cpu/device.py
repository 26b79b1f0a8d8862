"""The processor as a device."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from perfxlm_core.plugin import DeviceError, DeviceInfo, HostMemory, Launch, Program
from perfxlm_cpu import _native, topology
from perfxlm_cpu.launch import program_of
from perfxlm_cpu.peaks import measure_limits


class CpuDevice(HostMemory):
    """The cores that this process may use, as one device with a pool of threads.

    Args:
        variant: instruction set, one of `instruction_sets()`; the fastest by default, or what
            the environment variable `PERFXLM_CPU_ISA` says.
        threads: how many; by default `PERFXLM_CPU_THREADS`, else `OMP_NUM_THREADS`, else one for
            each physical core that affinity and control groups leave to this process.

    Raises:
        DeviceError: an instruction set that this machine lacks, or a thread count below one.
    """

    name = "cpu"

    def __init__(self, *, variant: str | None = None, threads: int | None = None) -> None:
        self.variant = _choose_variant(variant)
        self.pool = _native.Pool(_choose_threads(threads))

    def describe(self) -> DeviceInfo:
        """Model, threads, instruction set and caches."""
        model = topology.model_name()
        quota = topology.cpu_quota()
        threads = f"{self.pool.threads} of {len(topology.allowed_cpus())} logical processors"
        return DeviceInfo(
            name=self.name,
            vendor="cpu",
            description=f"{model}, {self.pool.threads} threads, {self.variant}",
            total_memory=topology.total_memory(),
            details={
                "threads": threads + ("" if quota is None else f", quota {quota:g}"),
                "instruction set": f"{self.variant} of {', '.join(instruction_sets())}",
                "caches": ", ".join(f"{k} {v}" for k, v in topology.caches().items()) or "unknown",
            },
        )

    def free_memory(self) -> int:
        """Bytes available to this process, the control group's limit included."""
        return topology.available_memory()

    def dtypes(self) -> Sequence[str]:
        """Activations are float32."""
        return ["float32"]

    def limits(self) -> Mapping[str, float]:
        """What all threads reach together with this instruction set, measured now (0.3 s)."""
        return measure_limits(self.pool, self.variant)

    def program(self, launches: Sequence[Launch], symbols: Sequence[str]) -> Program:
        """One native call for each run of native nodes; all threads walk the list together."""
        return program_of(launches, symbols)


def instruction_sets() -> list[str]:
    """Variants of the kernels that this machine runs, the fastest first."""
    return list(_native.supported_variants())


def _choose_variant(given: str | None) -> str:
    wanted = given if given is not None else os.environ.get("PERFXLM_CPU_ISA") or None
    available = instruction_sets()
    if wanted is None:
        return available[0]
    if wanted not in available:
        source = "variant" if given is not None else "PERFXLM_CPU_ISA"
        raise DeviceError(
            f"{source}={wanted!r}: this machine runs {', '.join(available)}; choose one of them"
        )
    return wanted


def _choose_threads(given: int | None) -> int:
    if given is not None:
        return _checked_threads("threads", given)
    own = os.environ.get("PERFXLM_CPU_THREADS")
    if own:
        return _checked_threads("PERFXLM_CPU_THREADS", own)
    openmp = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if openmp.isdigit() and int(openmp) > 0:
        return int(openmp)
    cores = topology.physical_cores(topology.allowed_cpus())
    quota = topology.cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _checked_threads(source: str, value: int | str) -> int:
    try:
        threads = int(value)
    except ValueError:
        threads = 0
    if not 1 <= threads <= 1024:
        raise DeviceError(f"{source}={value!r}: want a number of threads from 1 to 1024")
    return threads
