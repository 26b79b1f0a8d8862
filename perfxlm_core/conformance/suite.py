"""The kit as pytest tests, for a plugin's own test folder.

Two lines are a test file, and a fixture names the plugin:

    from perfxlm_core.conformance.suite import *  # noqa: F403

    @pytest.fixture(scope="session")
    def perfxlm_plugin(): return "acme"

The fixture takes no arguments, since it is asked when tests are collected. It may return a `Target`
instead, for a device made by hand. `perfxlm_examples` is a fixture as well: how many cases each
kernel gets with each combination of types. With `-p perfxlm_core.conformance`, options of the
command line count here too.
"""

from __future__ import annotations

import pytest

from perfxlm_core.conformance.collect import attempt, executor_of, slots_of
from perfxlm_core.conformance.runner import EXAMPLES
from perfxlm_core.conformance.slots import Slot
from perfxlm_core.conformance.target import Executor, Target
from perfxlm_core.errors import PerfxlmError

__all__ = [
    "perfxlm_examples",
    "perfxlm_executor",
    "pytest_generate_tests",
    "test_operator",
    "test_the_plugin_has_kernels",
]


@pytest.fixture(scope="session")
def perfxlm_examples(pytestconfig: pytest.Config) -> int:
    """Cases for each kernel with each combination of types."""
    return int(pytestconfig.getoption("perfxlm_examples", EXAMPLES))


@pytest.fixture(scope="session")
def perfxlm_executor(pytestconfig: pytest.Config, perfxlm_plugin: str | Target) -> Executor:
    """Where cases run."""
    return executor_of(pytestconfig, perfxlm_plugin)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each kernel with each combination of types."""
    if metafunc.function is not test_operator:
        return
    try:
        executor = executor_of(metafunc.config, _plugin(metafunc))
        found = slots_of(metafunc.config, executor)
    except PerfxlmError as error:
        raise pytest.Collector.CollectError(f"perfxlm: {error}") from None
    metafunc.parametrize("perfxlm_slot", found, ids=[s.name for s in found])


def _plugin(metafunc: pytest.Metafunc) -> str | Target:
    """What the fixture `perfxlm_plugin` returns."""
    definitions = getattr(metafunc, "_arg2fixturedefs", {}).get("perfxlm_plugin", ())
    if not definitions:
        raise pytest.Collector.CollectError(
            "perfxlm: name the plugin with a fixture perfxlm_plugin, or give --perfxlm-plugin"
        )
    definition = definitions[-1]
    if definition.argnames:
        raise pytest.Collector.CollectError(
            f"perfxlm: the fixture perfxlm_plugin must not take arguments: {definition.argnames}"
        )
    found: str | Target = definition.func()
    return found


def test_the_plugin_has_kernels(perfxlm_executor: Executor) -> None:
    """There is something to test."""
    facts = perfxlm_executor.facts
    assert facts.kernels, f"{facts.name} delivers no kernel for its device {facts.device}"


def test_operator(
    pytestconfig: pytest.Config,
    perfxlm_executor: Executor,
    perfxlm_slot: Slot,
    perfxlm_examples: int,
) -> None:
    """A kernel of an operator does what the definition says."""
    attempt(pytestconfig, perfxlm_executor, perfxlm_slot, perfxlm_examples)
