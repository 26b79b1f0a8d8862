"""The kit's tests for pytest without a test file: options, collection, the tests themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from perfxlm_core.conformance.runner import EXAMPLES, run_slot, snippet
from perfxlm_core.conformance.session import TIMEOUT, Session
from perfxlm_core.conformance.slots import Slot, slots
from perfxlm_core.conformance.target import Executor, Target
from perfxlm_core.errors import PerfxlmError

SESSIONS = pytest.StashKey[dict[str, Session]]()
"""The workers of this run, by plugin."""
NODE = "perfxlm"
"""What stands before `::` in the names of tests without a file."""


def add_options(parser: pytest.Parser) -> None:
    """What can be said on pytest's command line."""
    group = parser.getgroup("perfxlm", "the conformance kit of perfxlm")
    group.addoption(
        "--perfxlm-plugin",
        help="Test this plugin; with no files given, nothing else is collected.",
    )
    group.addoption(
        "--perfxlm-examples",
        type=int,
        default=EXAMPLES,
        help="Cases for each kernel with each combination of types (default: %(default)s).",
    )
    group.addoption("--perfxlm-seed", type=int, default=0, help="Of the cases (default: 0).")
    group.addoption("--perfxlm-op", help="Test this operator alone.")
    group.addoption(
        "--perfxlm-large", action="store_true", help="Cases of the sizes that real models have."
    )
    group.addoption(
        "--perfxlm-timeout",
        type=float,
        default=TIMEOUT,
        help="Seconds that loading the plugin, or a case, may take (default: %(default)s).",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Without files on the command line, the plugin's tests are all there is."""
    given = config.args_source is pytest.Config.ArgsSource.ARGS
    if config.getoption("perfxlm_plugin") is not None and not given:
        config.args = []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Put our tests before the others, and before `-k` chooses."""
    plugin = config.getoption("perfxlm_plugin")
    if plugin is None:
        return
    try:
        ours = list(_items(session, config, executor_of(config, plugin)))
    except PerfxlmError as error:
        raise pytest.UsageError(f"perfxlm: {error}") from None
    items[:0] = ours
    counted = pytest.CollectReport(NODE, "passed", None, [*ours])
    config.hook.pytest_collectreport(report=counted)


def executor_of(config: pytest.Config, plugin: str | Target) -> Executor:
    """Where cases run: a worker for a plugin's name, started once; this process for a `Target`."""
    if isinstance(plugin, Target):
        return plugin
    sessions = config.stash.setdefault(SESSIONS, {})
    if plugin not in sessions:
        sessions[plugin] = Session(plugin, config.getoption("perfxlm_timeout", TIMEOUT)).__enter__()
        config.add_cleanup(sessions[plugin].close)
    return sessions[plugin]


def slots_of(config: pytest.Config, executor: Executor) -> list[Slot]:
    """What is tested, as the command line restricts it."""
    return slots(executor, config.getoption("perfxlm_op", None))


def attempt(config: pytest.Config, executor: Executor, slot: Slot, examples: int) -> None:
    """Run a slot as the body of a test: it passes, is skipped, or fails with its Python."""
    start = config.getoption("perfxlm_seed", 0)
    large = config.getoption("perfxlm_large", False)
    row = run_slot(executor, slot, examples, start, large)
    if row.failure is not None:
        printed = f"\n\nIt printed:\n\n{row.output}" if row.output else ""
        name = executor.facts.name
        pytest.fail(f"{row.kernel}: {row.failure}\n\n{snippet(name, row)}{printed}", pytrace=False)
    if row.status == "reference":
        pytest.skip(f"{row.op}: the plugin has no kernel, it runs as reference on the host")
    if not row.passed:
        pytest.skip(f"{slot.name}: {row.status}{f' ({row.reason})' if row.reason else ''}")


class KernelItem(pytest.Item):
    """A kernel with one combination of types, as a test."""

    slot: Slot
    executor: Executor

    def runtest(self) -> None:
        """Try its cases."""
        examples = self.config.getoption("perfxlm_examples")
        attempt(self.config, self.executor, self.slot, examples)

    def reportinfo(self) -> tuple[Path, None, str]:
        """For pytest's listings."""
        return self.path, None, self.nodeid


def _items(
    session: pytest.Session, config: pytest.Config, executor: Executor
) -> Iterator[KernelItem]:
    for slot in slots_of(config, executor):
        name = f"test_operator[{slot.name}]"
        item: KernelItem = KernelItem.from_parent(session, name=name, nodeid=f"{NODE}::{name}")
        item.slot, item.executor = slot, executor
        yield item
