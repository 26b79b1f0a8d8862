"""What runs where: results of conformance runs, kept as small JSON, and tables made of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perfxlm_core.conformance.slots import DEVICE, GRAPH, MODEL
from perfxlm_core.errors import ArgumentError

NO_OPERATORS = (DEVICE, MODEL, GRAPH)
"""Rows of other things than operators."""
FOLDER = Path("docs/support")
"""Where a checkout keeps the results, a file for each kind of device."""


@dataclass(frozen=True)
class Fact:
    """What became of one kernel (or model) with one combination of types.

    Attributes:
        op: operator's name, or one of NO_OPERATORS.
        kernel: kernel's name, or the architecture; None where the plugin has none.
        dtype: of activations.
        format: of weights or cache; "-" where there are none.
        status: passed, declined, reference, not covered or failed.
        passed: cases that were right.
        declined: cases that the kernel did not take.
        worst: largest error in units of what is allowed.
    """

    op: str
    kernel: str | None
    dtype: str
    format: str
    status: str
    passed: int = 0
    declined: int = 0
    worst: float = 0.0

    @property
    def key(self) -> tuple[str, str | None, str, str]:
        """What was tried, whatever became of it."""
        return self.op, self.kernel, self.dtype, self.format


@dataclass(frozen=True)
class Support:
    """A conformance run on one device, summarized.

    Attributes:
        device: kind of device: its name without a number.
        description: what the device says about itself.
        distribution: the plugin's, with its version.
        perfxlm: version of the core.
        date: of the run, YYYY-MM-DD.
        examples: cases for each row.
        seed: of the cases.
        packages: architecture -> distribution and version of its recipe.
        facts: the rows.
    """

    device: str
    description: str
    distribution: str
    perfxlm: str
    date: str
    examples: int
    seed: int
    packages: Mapping[str, str]
    facts: tuple[Fact, ...]

    def of(self, op: str, kernel: str | None = None) -> list[Fact]:
        """The rows of an operator, or of one kernel (or architecture)."""
        return [f for f in self.facts if f.op == op and kernel in (None, f.kernel)]

    def plain(self) -> str:
        """As JSON, a line for each row."""
        head = {k: v for k, v in asdict(self).items() if k != "facts"}
        rows = [json.dumps(list(asdict(f).values())) for f in self.facts]
        body = json.dumps(head, indent=1).removesuffix("\n}")
        return f'{body},\n "facts": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n"


def summarized(report: Mapping[str, Any], packages: Mapping[str, str]) -> Support:
    """The results of a run.

    Args:
        report: what `perfxlm conformance --json` writes; see `report.report`.
        packages: architecture -> distribution and version of its recipe.

    Raises:
        ArgumentError: that is not such a report, or one of a run with `--op`.
    """
    try:
        facts = tuple(
            Fact(
                row["op"], row["kernel"], row["dtype"], row["format"], row["status"],
                row["passed"], row["declined"], round(row["worst"], 3),
            )
            for row in report["rows"]
        )  # fmt: skip
        device = report["device"]
        if len({f.op for f in facts}) < 2:
            raise ArgumentError("the report is of one operator alone; run it without --op")
        return Support(
            device["name"].split(":")[0], device["description"], report["distribution"],
            report["perfxlm"], report["date"][:10], report["examples"], report["seed"],
            {f.kernel: packages.get(f.kernel, "?") for f in facts if f.op == MODEL and f.kernel},
            facts,
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise ArgumentError(
            f"not a report of perfxlm conformance --json: {type(error).__name__} {error}"
        ) from None


def load(file: Path) -> Support:
    """Results that a checkout keeps.

    Raises:
        ArgumentError: the file holds something else.
    """
    try:
        plain = json.loads(file.read_text())
        return Support(**{**plain, "facts": tuple(Fact(*row) for row in plain["facts"])})
    except (ValueError, KeyError, TypeError) as error:
        raise ArgumentError(
            f"{file} does not hold results of conformance runs ({error}); "
            "write it again with perfxlm support --update"
        ) from None


def load_all(root: Path) -> list[Support]:
    """The results of every device, in the order of their names."""
    return [load(file) for file in sorted((root / FOLDER).glob("*.json"))]


def models_table(known: Sequence[Support]) -> str:
    """Models x devices, as Markdown."""
    packages = {a: p for s in known for a, p in s.packages.items()}
    rows = [
        [f"`{name}`", packages[name], *(_cell(s.of(MODEL, name)) for s in known)]
        for name in sorted(packages)
    ]
    if any(s.of(GRAPH) for s in known):
        rows.append(["random graphs of operators", "", *(_cell(s.of(GRAPH)) for s in known)])
    return _markdown(["architecture", "package", *(s.device for s in known)], rows)


def operators_table(known: Sequence[Support]) -> str:
    """Operators x devices, as Markdown."""
    names = sorted({f.op for s in known for f in s.facts}.difference(NO_OPERATORS))
    rows = [[f"`{name}`", *(_cell(s.of(name)) for s in known)] for name in names]
    if any(s.of(DEVICE) for s in known):
        rows.append(["memory, copies, programs", *(_cell(s.of(DEVICE)) for s in known)])
    return _markdown(["operator", *(s.device for s in known)], rows)


def kernels_table(support: Support) -> str:
    """Every kernel of a device with the types that it was tried with, as Markdown."""
    names = [(f.op, f.kernel) for f in support.facts if f.kernel and f.op not in NO_OPERATORS]
    rows = []
    for op, kernel in dict.fromkeys(names):
        facts = support.of(op, kernel)
        formats = _listed(f.format for f in facts if f.format != "-")
        cases = [str(sum(f.passed for f in facts)), str(sum(f.declined for f in facts))]
        dtypes = _listed(f.dtype for f in facts)
        rows.append([f"`{kernel}`", f"`{op}`", dtypes, formats, *cases, _cell(facts, "passed")])
    header = [
        "kernel",
        "operator",
        "activations",
        "weights or cache",
        "cases",
        "declined",
        "result",
    ]
    return _markdown(header, rows)


def origins(known: Sequence[Support]) -> str:
    """Where each device's column comes from, as a Markdown list."""
    return "\n".join(
        f"* {s.device}: {s.distribution} on {s.description}; perfxlm {s.perfxlm}, {s.date}, "
        f"{s.examples} cases for each kernel and combination of types"
        for s in known
    )


def document(known: Sequence[Support]) -> dict[str, str]:
    """Marker -> what stands between its two lines in the documents."""
    details = "\n\n".join(f"## Kernels of {s.device}\n\n{kernels_table(s)}" for s in known)
    models = models_table(known)
    everything = (
        f"## Models\n\n{models}\n\n## Operators\n\n{operators_table(known)}\n\n{details}\n\n"
        f"## Where this comes from\n\n{origins(known)}"
    )
    return {"models": f"{models}\n\n{origins(known)}", "all": everything}


def filled(text: str, contents: Mapping[str, str]) -> str:
    """A document with every marked part replaced.

    A part stands between the lines `<!-- support:NAME -->` and `<!-- /support:NAME -->`.
    """
    for name, content in contents.items():
        first, last = f"<!-- support:{name} -->\n", f"<!-- /support:{name} -->"
        if first in text and last in text:
            before, rest = text.split(first, 1)
            text = f"{before}{first}{content}\n{last}{rest.split(last, 1)[1]}"
    return text


def differences(
    support: Support,
    present: Collection[tuple[str, str | None, str, str]],
    distribution: str,
    description: str,
) -> list[str]:
    """What an installed plugin has become since its results were written, a line for each.

    Args:
        support: the results.
        present: `Fact.key` of everything that there is to try now.
        distribution: the plugin's, with its version.
        description: what the device says about itself. Another device than that of the results
            may lack some of their types.
    """
    found = []
    if distribution != support.distribution:
        found.append(f"{support.device}: made with {support.distribution}, now {distribution}")
    tried = {f.key for f in support.facts}
    new = [k for k in present if k not in tried]
    found += [f"{support.device}: {line}" for line in _in_short(new, "was never tried")]
    if description == support.description:
        gone = [k for k in sorted(tried, key=str) if k not in present and k[0] != MODEL]
        found += [f"{support.device}: {line}" for line in _in_short(gone, "is not there any more")]
    return found


def _in_short(keys: Sequence[tuple[str, str | None, str, str]], what: str) -> Iterator[str]:
    """A line for each kernel: the first of its types, and how many there are beside."""
    kernels: dict[tuple[str, str | None], list[str]] = {}
    for key in keys:
        kernels.setdefault(key[:2], []).append(_named(key))
    for first, *others in kernels.values():
        more = f", nor {len(others)} other types of it" if others else ""
        yield f"{first} {what}{more}"


def _named(key: tuple[str, str | None, str, str]) -> str:
    op, kernel, *types = key
    return " ".join([op, kernel or "without a kernel", *(t for t in types if t != "-")])


def _cell(facts: Sequence[Fact], good: str | None = None) -> str:
    """All rows of a cell in a few words; those that passed are named by their activations.

    Args:
        facts: the rows.
        good: what to say instead of the activations.
    """
    failed = [f for f in facts if f.status == "failed"]
    passed = [f for f in facts if f.status == "passed"]
    if failed:
        return f"**failed** with {len(failed)} of {len(facts)} types"
    if passed:
        named = good or _listed(f.dtype for f in passed if f.dtype != "-") or "passed"
        return f"{named}, worst {max(f.worst for f in passed):.2g}"
    texts: Mapping[str, str] = {"reference": "reference on the host", "not covered": "not tested"}
    return _listed(texts.get(f.status, f.status) for f in facts) or "not tested"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])
