"""A conformance report as one HTML page: no script, nothing from a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from perfxlm_core.cli import timings

Row = Mapping[str, Any]

COLOURS: Mapping[str, str] = {
    "passed": "#d9f0d9",
    "declined": "#fff3cd",
    "reference": "#e8e8e8",
    "not covered": "#e8e8e8",
    "failed": "#f8d0d0",
}
MEANING: Mapping[str, str] = {
    "passed": "every case that the kernel took is right",
    "declined": "the kernel took no case",
    "reference": "the plugin has no kernel: runs as reference on the host",
    "not covered": "the kit cannot make inputs for this operator",
    "failed": "a kernel is wrong; see below",
}
WORDS = 5
"""Columns of the table of speed that are text; figures follow."""
STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222; }
h1 { font-size: 1.4em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; } th { text-align: left; }
td, th { padding: 2px 10px; border: 1px solid #ddd; vertical-align: top; }
th { white-space: nowrap; } td.n { text-align: right; }
pre { background: #f6f6f6; padding: 8px; overflow-x: auto; }
"""


def page(report: Mapping[str, Any]) -> str:
    """The report for a browser.

    Args:
        report: From `perfxlm_core.conformance.report.report`.
    """
    title = f"Conformance of {report['plugin']}"
    rows = report["rows"]
    failed = [r for r in rows if r["status"] == "failed"]
    parts = [
        f"<h1>{escape(title)}</h1>",
        _facts(report),
        "<h2>Operators</h2>",
        _legend(report["counts"]),
        _matrix(rows),
        "<h2>Failures</h2>" if failed else "",
        *(_failure(r) for r in failed),
        "<h2>Rows</h2>",
        _table(rows),
        _speed(report["perf"]) if "perf" in report else "",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(p for p in parts if p)
        + "\n</body></html>\n"
    )


def _facts(report: Mapping[str, Any]) -> str:
    device = report["device"]
    sizes = "of real models' sizes" if report["large"] else "of small sizes"
    facts = {
        "plugin": report["distribution"] or report["plugin"],
        "device": f"{device['name']}: {device.get('description', '')}",
        **device.get("details", {}),
        "perfxlm": report["perfxlm"],
        "platform": report["platform"],
        "date": report["date"],
        "cases": f"{report['examples']} for each row, {sizes}, seed {report['seed']}",
    }
    cells = (f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in facts.items())
    return f"<table>{''.join(cells)}</table>"


def _legend(counts: Mapping[str, int]) -> str:
    shown = (
        f'<tr><td style="background:{COLOURS[state]}">{state}</td><td class="n">{number}</td>'
        f"<td>{MEANING[state]}</td></tr>"
        for state, number in counts.items()
    )
    note = "In the cells: the worst error in units of what is allowed, and the cases that passed."
    return f"<table>{''.join(shown)}</table><p>{note}</p>"


def _matrix(rows: Sequence[Row]) -> str:
    """Operators down, types across; the worst state of all kernels in each cell."""
    columns = list(dict.fromkeys((r["dtype"], r["format"]) for r in rows if r["dtype"] != "-"))
    heads = "".join(f"<th>{escape(d)}<br>{escape(f)}</th>" for d, f in columns)
    lines = [f"<tr><th></th>{heads}</tr>"]
    for op, kernel in dict.fromkeys((r["op"], _group(r)) for r in rows):
        own = [r for r in rows if (r["op"], _group(r)) == (op, kernel)]
        label = f"{op} {kernel}" if kernel else op
        if all(r["dtype"] == "-" for r in own):
            cells = _cell(own, max(1, len(columns)))
        else:
            cells = "".join(
                _cell([r for r in own if (r["dtype"], r["format"]) == c]) for c in columns
            )
        lines.append(f"<tr><th>{escape(label)}</th>{cells}</tr>")
    return f'<div style="overflow-x:auto"><table>{"".join(lines)}</table></div>'


def _group(row: Row) -> str:
    """What tells rows of plans apart: the architecture."""
    return str(row["kernel"]) if row["op"] in ("model", "graph") else ""


def _cell(rows: Sequence[Row], span: int = 1) -> str:
    if not rows:
        return "<td></td>"
    state = max((r["status"] for r in rows), key=list(COLOURS).index)
    worst = max(r["worst"] for r in rows)
    cases = sum(r["passed"] for r in rows)
    tip = "; ".join(f"{r['kernel'] or r['op']}: {_says(r)}" for r in rows)
    text = f"{worst:.3f} ({cases})" if state == "passed" else state
    text += " hardly tried" if any(r["scarce"] for r in rows) and state == "passed" else ""
    kind = "n" if span == 1 else "wide"
    return (
        f'<td class="{kind}" colspan="{span}" style="background:{COLOURS[state]}" '
        f'title="{escape(tip)}">{text}</td>'
    )


def _says(row: Row) -> str:
    if row["status"] in ("reference", "not covered"):
        return MEANING[row["status"]]
    said = row["failure"] or f"{row['passed']} cases passed, {row['declined']} declined"
    return f"{said} ({row['reason']})" if row["reason"] and not row["failure"] else str(said)


def _failure(row: Row) -> str:
    types = "-".join(t for t in (row["dtype"], row["format"]) if t != "-")
    printed = f"<p>Printed:</p><pre>{escape(row['output'])}</pre>" if row["output"] else ""
    return (
        f"<h3>{escape(row['kernel'])} {escape(types)}</h3><p>{escape(row['failure'])}</p>"
        f"<pre>{escape(row['snippet'])}</pre>{printed}"
    )


def _table(rows: Sequence[Row]) -> str:
    names = ("operator", "kernel", "dtype", "format", "result", "passed", "declined", "worst")
    heads = "".join(f"<th>{n}</th>" for n in (*names, "seconds", "most frequent reason to decline"))
    lines = []
    for r in rows:
        text = (r["op"], r["kernel"] or "-", r["dtype"], r["format"])
        cells = "".join(f"<td>{escape(t)}</td>" for t in text)
        said = f"{r['status']}, hardly tried" if r["scarce"] and r["passed"] else r["status"]
        state = f'<td style="background:{COLOURS[r["status"]]}">{said}</td>'
        numbers = (r["passed"], r["declined"], f"{r['worst']:.3f}", f"{r['seconds']:.1f}")
        figures = "".join(f'<td class="n">{n}</td>' for n in numbers)
        reason = MEANING["reference"] if r["status"] == "reference" else r["reason"] or ""
        lines.append(f"<tr>{cells}{state}{figures}<td>{escape(reason)}</td></tr>")
    return f"<table><tr>{heads}</tr>{''.join(lines)}</table>"


def _speed(perf: Mapping[str, Any]) -> str:
    """What `--perf` measured."""
    from perfxlm_core.conformance.perf import Limits, Timing

    heads = "".join(f"<th>{escape(n)}</th>" for n in timings.HEADER)
    lines = []
    for one in perf["timings"]:
        text = timings.cells(Timing(**one))
        wordy, figures = text[:WORDS], text[WORDS:]
        shown = [f"<td>{escape(t)}</td>" for t in wordy]
        shown += [f'<td class="n">{escape(t)}</td>' for t in figures]
        lines.append(f"<tr>{''.join(shown)}</tr>")
    untimed = "".join(f"<p>{escape(line)}</p>" for line in perf["untimed"])
    said = escape(timings.said(Limits(**perf["limits"])))
    table = f"<table><tr>{heads}</tr>{''.join(lines)}</table>"
    return f"<h2>Speed</h2><p>{said}</p>{table}{untimed}"
