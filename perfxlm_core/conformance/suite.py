"""The kit as pytest tests, for a plugin's own test folder.

Two lines are a test file, and a fixture names the plugin:

    from perfxlm_core.conformance.suite import *  # noqa: F403

    @pytest.fixture(scope="session")
    def perfxlm_plugin(): return "acme"

The fixture may return a `Target` instead, for a device made by hand. `perfxlm_examples` is a
fixture as well: how many cases each kernel gets with each combination of types.
"""

from __future__ import annotations

import pytest

from perfxlm_core.conformance.runner import EXAMPLES, Target, operators, run, snippet

__all__ = [
    "perfxlm_examples",
    "perfxlm_target",
    "test_operator",
    "test_the_plugin_has_kernels",
]


@pytest.fixture(scope="session")
def perfxlm_examples() -> int:
    """Cases for each kernel with each combination of types."""
    return EXAMPLES


@pytest.fixture(scope="session")
def perfxlm_target(perfxlm_plugin: str | Target) -> Target:
    """The plugin, loaded."""
    return Target.load(perfxlm_plugin) if isinstance(perfxlm_plugin, str) else perfxlm_plugin


def test_the_plugin_has_kernels(perfxlm_target: Target) -> None:
    """There is something to test."""
    assert perfxlm_target.kernels, f"{perfxlm_target.name} delivers no kernel for its device"


@pytest.mark.parametrize("operator", [o.name for o in operators()])
def test_operator(operator: str, perfxlm_target: Target, perfxlm_examples: int) -> None:
    """Every kernel of an operator does what the definition says."""
    rows = list(run(perfxlm_target, operator, perfxlm_examples))
    for row in rows:
        if row.failure is not None:
            pytest.fail(
                f"{row.kernel}: {row.failure}\n\n{snippet(perfxlm_target.name, row)}", pytrace=False
            )
    if not any(row.passed for row in rows):
        pytest.skip(f"{operator}: {', '.join(sorted({row.status for row in rows}))}")
