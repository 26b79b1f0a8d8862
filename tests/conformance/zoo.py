"""How the kit does on the zoo: `python tests/conformance/zoo.py --seeds 20`.

Prints a table of mutants (which check found each, after how many cases, in how many seconds), and
one of right kernels and legal variants (how many cases passed). Exit code 1 if a mutant escapes, or
if a right kernel is blamed.
"""

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from perfxlm_core.conformance import Failure, Target, run, run_slot, slots
from tests.conformance import mutants, mutants_tensor, numpy_kernels, numpy_kernels_tensor

MUTANTS = [(m.mutate, *one) for m in (mutants, mutants_tensor) for one in m.MUTANTS]
LEGAL = [(m.mutate, *one) for m in (mutants, mutants_tensor) for one in m.LEGAL]
"""How a kernel is changed, the change's name, the kernel's, and texts: old, new, and so on."""
RIGHT = [*numpy_kernels.kernels, *numpy_kernels_tensor.kernels]
FEW = 10
"""Cases a row for kernels that are right: there is nothing to find, and many rows."""


def target_of(kernels):
    return Target.of("zoo", numpy_kernels.NumpyDevice(), kernels)


class Counting:
    """A target that counts cases up to the first failure."""

    def __init__(self, target):
        self.target, self.cases, self.failed = target, 0, False

    @property
    def facts(self):
        return self.target.facts

    def run(self, kernel, case):
        self.cases += not self.failed
        try:
            return self.target.run(kernel, case)
        except Failure:
            self.failed = True
            raise


@dataclass
class Result:
    """What became of a mutant: for each seed that found it the check, cases and seconds."""

    name: str
    kernel: str
    seeds: int = 0
    checks: Counter = field(default_factory=Counter)
    cases: list = field(default_factory=list)
    seconds: list = field(default_factory=list)

    def row(self):
        checks = ", ".join(c for c, _ in self.checks.most_common())
        found = f"{len(self.cases)}/{self.seeds}"
        if not self.cases:
            return f"| {self.kernel} | {self.name} | {found} | | | |"
        return (
            f"| {self.kernel} | {self.name} | {found} | {checks} | {mean(self.cases):.1f} "
            f"| {mean(self.seconds):.2f} |"
        )


def hunt(mutant, seeds):
    """Look for a planted bug once for each seed."""
    mutate, name, kernel, *changes = mutant
    result = Result(name, kernel)
    for seed in seeds:
        target = Counting(target_of(mutate(kernel, *changes)))
        (op,) = {k.op for k in target.facts.kernels}
        start = time.perf_counter()
        found = next((r for r in run(target, op, start=seed) if r.failure is not None), None)
        result.seeds += 1
        if found is not None:
            result.checks[found.failure.split(":")[0]] += 1
            result.cases.append(target.cases)
            result.seconds.append(time.perf_counter() - start)
    return result


def slots_of(target):
    """Rows of the target's own kernels."""
    ops = dict.fromkeys(k.op for k in target.facts.kernels)
    return [slot for op in ops for slot in slots(target, op)]


def blamed(kernels, seeds):
    """Rows of right kernels that fail all the same, and how many cases passed."""
    target, wrong, passed = target_of(kernels), [], 0
    for slot in slots_of(target):
        for seed in seeds:
            row = run_slot(target, slot, FEW, seed)
            passed += row.passed
            if row.failure is not None:
                wrong.append((seed, row.kernel, row.failure, row.case))
    return wrong, passed


def report(seeds):
    """Print everything; gives whether all is well."""
    print("| kernel | planted bug | found | by check | cases until found | seconds |")
    print("|---|---|---|---|---|---|")
    results = []
    for mutant in MUTANTS:
        results.append(hunt(mutant, seeds))
        print(results[-1].row(), flush=True)
    hunts, found = sum(r.seeds for r in results), sum(len(r.cases) for r in results)
    seconds = [s for r in results for s in r.seconds]
    print(
        f"\n{len(results)} mutants, {len(seeds)} seeds: {found} of {hunts} hunts found the bug; "
        f"{mean(seconds):.2f} seconds on average to find it and make the case small, "
        f"{max(seconds):.1f} at most.\n"
    )
    print("| right kernels | false alarms | cases passed |")
    print("|---|---|---|")
    alarms = []
    right = [("all kernels as they are", RIGHT)]
    right += [(f"{kernel}: {name}", mutate(kernel, *c)) for mutate, name, kernel, *c in LEGAL]
    for name, kernels in right:
        wrong, passed = blamed(kernels, seeds)
        alarms += wrong
        print(f"| {name} | {len(wrong)} | {passed} |", flush=True)
    for alarm in alarms:
        print(*alarm)
    return found == hunts and not alarms


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Try the conformance kit on kernels with bugs.")
    parser.add_argument("--seeds", type=int, default=20, help="how many times each hunt is made")
    sys.exit(not report(range(parser.parse_args().seeds)))
