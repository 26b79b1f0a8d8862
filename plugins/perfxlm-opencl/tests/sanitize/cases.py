"""Small cases of one operator on the device that the environment names: `cases.py OP N HALF [dot]`.

With `dot` the device is taken to have integer dot products, which are then emulated, and only nodes
whose activations may be rounded are run.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from perfxlm_core.conformance.check import run_case
from perfxlm_core.conformance.slots import Slot, slots
from perfxlm_core.conformance.target import Target
from perfxlm_opencl.device import OpenClDevice
from perfxlm_opencl.discovery import find_devices
from perfxlm_opencl.kernels import kernels

MANY = 16
"""With more combinations of types than this, only half of them are run."""
LARGEST = 1 << 14
"""Product of a case's lengths: a simulator takes seconds for more."""
MANY = 40
"""Combinations of types of which all are tried; of more, every seventh."""
ROUNDED = ("q4_0", "q4_1", "q8_0", "q4_k", "q6_k")
"""Formats whose products may be those of bytes."""
BESIDE = {"k_features", "v_features", "half", "block_size", "kv_heads", "head_dim", "v_head_dim"}
"""Lengths that do not multiply the work of a product with `q_features` outputs."""


def main(op: str, wanted: int, half: int, dot: bool) -> None:
    """Run `wanted` cases with each combination of types; the simulator reports on stderr.

    Args:
        op: name of the operator.
        wanted: cases.
        half: 0 or 1: of many combinations, each format runs with one dtype, the other half with
            the other one.
        dot: whether products are those of bytes.
    """
    device = OpenClDevice(find_devices()[0])
    if dot:
        device.profile = replace(device.profile, dot_product=True)
    target = Target.of("opencl", device, kernels)
    ran = 0
    every = slots(target, op)
    if dot:
        every = [s for s in every if s.variant.format in ROUNDED]
    for slot in every[:: 1 if len(every) <= MANY else 7]:
        kernel = next(k for k in target.kernels if k.name == slot.kernel.name)
        left = wanted

        @seed(0)
        @settings(
            max_examples=200,
            database=None,
            deadline=None,
            verbosity=Verbosity.quiet,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(slot.cases())
        def attempt(case: Any) -> None:
            nonlocal left, ran
            if dot and case.attrs.get("exact", True):
                return
            if left and volume(case) <= LARGEST and run_case(device, kernel, case).declined is None:  # noqa: B023
                left, ran = left - 1, ran + 1

        attempt()
    print(f"{ran} cases on {device.facts.platform} with {device.profile.name}")


def halved(every: list[Slot], half: int) -> list[Slot]:
    """All, or every other combination of a dtype and a format."""
    if len(every) <= MANY:
        return every
    dtypes = sorted({s.variant.dtype for s in every})
    formats = sorted({s.variant.label for s in every})
    return [
        s
        for s in every
        if (dtypes.index(s.variant.dtype) + formats.index(s.variant.label)) % 2 == half
    ]


def volume(case: Any) -> int:
    """About how much work a case is."""
    sizes = case.sizes
    if "q_features" in sizes:
        sizes = {n: v for n, v in sizes.items() if n not in {*BESIDE, "blocks"}}
    total = 1
    for number in [*numbers(sizes), *(n for s in case.steps for n in numbers(s))]:
        total *= max(1, number)
    return total


def numbers(given: Any) -> Iterator[int]:
    """All integers in a nest of mappings and tuples."""
    if isinstance(given, bool | str) or given is None:
        return
    if isinstance(given, int):
        yield given
        return
    inner = given.values() if hasattr(given, "values") else given
    for one in inner if hasattr(inner, "__iter__") else ():
        yield from numbers(one)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "dot" in sys.argv[4:])
