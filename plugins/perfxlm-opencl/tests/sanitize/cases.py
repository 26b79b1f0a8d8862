"""Small cases of one operator on the device that the environment names: `cases.py OP N [dot]`.

With `dot` the device is taken to have integer dot products, which are then emulated, and only nodes
whose activations may be rounded are run.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from perfxlm_core.conformance.check import run_case
from perfxlm_core.conformance.slots import Slot, slots
from perfxlm_core.conformance.target import Target
from perfxlm_opencl.device import OpenClDevice
from perfxlm_opencl.discovery import find_devices
from perfxlm_opencl.kernels import kernels

DRAWN = 40
"""Cases of each combination of types among which those to run are chosen."""
LARGEST = 1 << 12
"""Product of a case's lengths: a simulator takes seconds for more."""
ROUNDED = ("q4_0", "q4_1", "q8_0", "q4_k", "q6_k")
"""Formats whose products may be those of bytes."""
BESIDE = {"k_features", "v_features", "half", "block_size", "kv_heads", "head_dim", "v_head_dim"}
"""Lengths that do not multiply the work of a product with `q_features` outputs."""


def main(op: str, wanted: int, dot: bool) -> None:
    """Run `wanted` cases with each combination of types; the simulator reports on stderr.

    Args:
        op: name of the operator.
        wanted: cases.
        dot: whether products are those of bytes.
    """
    device = OpenClDevice(find_devices()[0])
    if dot:
        device.profile = replace(device.profile, dot_product=True)
    target = Target.of("opencl", device, kernels)
    ran = 0
    for slot in slots(target, op):
        if dot and slot.variant.format not in ROUNDED:
            continue
        kernel = next(k for k in target.kernels if k.name == slot.kernel.name)
        taken = (
            case
            for case in largest_first(slot, dot)
            if run_case(device, kernel, case).declined is None
        )
        ran += sum(1 for _ in islice(taken, wanted))
    print(f"{ran} cases on {device.facts.platform} with {device.profile.name}")


def largest_first(slot: Slot, dot: bool) -> list[Any]:
    """Some cases; with `dot`, only those whose activations may be rounded."""
    drawn = []

    @seed(0)
    @settings(
        max_examples=DRAWN,
        database=None,
        deadline=None,
        verbosity=Verbosity.quiet,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(slot.cases())
    def draw(case: Any) -> None:
        if volume(case) <= LARGEST and not (dot and case.attrs.get("exact", True)):
            drawn.append(case)

    draw()
    return sorted(drawn, key=volume, reverse=True)


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
    main(sys.argv[1], int(sys.argv[2]), "dot" in sys.argv[3:])
