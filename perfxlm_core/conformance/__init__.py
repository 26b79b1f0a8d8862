"""The conformance kit: proves that a plugin's kernels do what the operators' definitions say.

Needs hypothesis: `pip install "perfxlm[conformance]"`. From the command line it is
`perfxlm conformance PLUGIN`; in a plugin's own tests it is two lines, see `suite`.
"""

from perfxlm_core.conformance.case import Case, Failure, Variant
from perfxlm_core.conformance.runner import Row, Target, check, run, run_slot, slots, snippet

__all__ = [
    "Case",
    "Failure",
    "Row",
    "Target",
    "Variant",
    "check",
    "run",
    "run_slot",
    "slots",
    "snippet",
]
