"""The conformance kit: proves that a plugin's kernels do what the operators' definitions say.

Needs hypothesis: `pip install "perfxlm[conformance]"`. From the command line it is
`perfxlm conformance PLUGIN`; with pytest `pytest -p perfxlm_core.conformance --perfxlm-plugin
PLUGIN`, or two lines in a plugin's own tests, see `suite`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfxlm_core.conformance.case import Case, Failure, Variant
from perfxlm_core.conformance.runner import Row, check, run, run_slot, snippet
from perfxlm_core.conformance.session import Session
from perfxlm_core.conformance.slots import Slot, slots
from perfxlm_core.conformance.target import Target

if TYPE_CHECKING:
    import pytest

__all__ = [
    "Case",
    "Failure",
    "Row",
    "Session",
    "Slot",
    "Target",
    "Variant",
    "check",
    "run",
    "run_slot",
    "slots",
    "snippet",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of `pytest -p perfxlm_core.conformance`."""
    from perfxlm_core.conformance import collect

    collect.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """The other hooks of pytest are in `collect`."""
    from perfxlm_core.conformance import collect

    config.pluginmanager.register(collect, "perfxlm-conformance")
