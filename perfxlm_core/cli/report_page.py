"""A plan's report as one HTML page: no script, nothing from a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from perfxlm_core.cli.report_text import REGIONS, formats, reasons, runner
from perfxlm_core.cli.tables import megabytes

Node = Mapping[str, Any]

ROW = 18
ARCS = 220
"""Width in pixels of the part of the graph's picture that shows which node reads which."""
WIDTH = 1000
HEIGHT = 420
PALETTE = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#76b7b2", "#edc948", "#9c755f", "#e15759")

STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222; }
h1 { font-size: 1.4em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; } th { text-align: left; }
td, th { padding: 2px 12px 2px 0; vertical-align: top; } td.n { text-align: right; }
svg text { font: 12px ui-monospace, monospace; }
.picture { overflow-x: auto; border: 1px solid #ddd; }
"""


def page(report: Mapping[str, Any]) -> str:
    """The report for a browser.

    Args:
        report: From `perfxlm_core.cli.inspect.examine`.
    """
    model = report["model"]
    title = f"{', '.join(model['architectures'])} on {report['device']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(_about(report))}</p>",
        "<h2>Memory</h2>",
        _regions(report["memory"]),
        "<h2>Activations over time</h2>",
        "<p>Each block is a value: from the node that writes it to the last that reads it, at its "
        "place in the arena. Point at one for its name.</p>",
        _arena(report),
        "<h2>Graph</h2>",
        "<p>Nodes in the order in which they run; an arc leads from a node to one that reads its "
        "output. Point at a node for its shapes and the kernels that refused it.</p>",
        _graph(report["nodes"]),
        "<h2>Weights</h2>",
        _weights(report["weights"]),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _about(report: Mapping[str, Any]) -> str:
    model, limits = report["model"], report["limits"]
    return (
        f"{model['path']} ({model['kind']}, {megabytes(model['bytes'])}); weights "
        f"{formats(report)}; activations {report['dtype']}; {limits['max_num_seqs']} sequences of "
        f"at most {limits['max_model_len']} tokens, {limits['max_num_batched_tokens']} tokens a "
        f"step, {limits['num_blocks']} KV blocks of {limits['block_size']} tokens"
    )


def _regions(memory: Mapping[str, int]) -> str:
    """One bar, a piece for each region, and the numbers."""
    total = max(memory["total"], 1)
    bar, rows, at = [], [], 0.0
    for colour, (name, label) in zip(PALETTE, REGIONS.items(), strict=False):
        width = memory[name] / total * WIDTH
        bar.append(
            f'<rect x="{at:.1f}" y="0" width="{width:.1f}" height="28" fill="{colour}">'
            f"<title>{escape(label)}: {megabytes(memory[name])}</title></rect>"
        )
        at += width
        rows.append(
            f'<tr><td><span style="color:{colour}">&#9632;</span> {escape(label)}</td>'
            f'<td class="n">{megabytes(memory[name])}</td><td class="n">{memory[name]}</td></tr>'
        )
    rows.append(
        f'<tr><th>total</th><td class="n">{megabytes(memory["total"])}</td>'
        f'<td class="n">{memory["total"]}</td></tr>'
    )
    return (
        f'<svg width="{WIDTH}" height="28">{"".join(bar)}</svg>'
        f"<table><tr><th></th><th></th><th>bytes</th></tr>{''.join(rows)}</table>"
    )


def _arena(report: Mapping[str, Any]) -> str:
    nodes, placements = report["nodes"], report["placements"]
    size = max(report["memory"]["arena"], 1)
    across = WIDTH / (len(nodes) + 1)
    blocks = []
    for index, block in enumerate(placements):
        width = (block["last"] - block["first"] + 1) * across
        height = max(block["bytes"] / size * HEIGHT, 0.5)
        blocks.append(
            f'<rect x="{block["first"] * across:.1f}" y="{block["offset"] / size * HEIGHT:.1f}" '
            f'width="{width:.1f}" height="{height:.1f}" fill="{PALETTE[index % len(PALETTE)]}" '
            f'fill-opacity="0.7"><title>{escape(block["name"])}: {block["bytes"]} bytes at '
            f"{block['offset']}, nodes {block['first']} to {block['last']}</title></rect>"
        )
    return (
        f'<div class="picture"><svg width="{WIDTH}" height="{HEIGHT}">{"".join(blocks)}</svg></div>'
    )


def _graph(nodes: list[Node]) -> str:
    kernels = list(dict.fromkeys(runner(n) for n in nodes))
    lines = [_arc(a, b) for a, b in edges(nodes)]
    lines += [_node(n, PALETTE[kernels.index(runner(n)) % len(PALETTE)]) for n in nodes]
    height = (len(nodes) + 1) * ROW
    return (
        f'<div class="picture"><svg width="{WIDTH + ARCS}" height="{height}">'
        f"{''.join(lines)}</svg></div>"
    )


def edges(nodes: Iterable[Node]) -> list[tuple[int, int]]:
    """Pairs of nodes, the second of which reads what the first gives."""
    producer: dict[str, int] = {}
    found: list[tuple[int, int]] = []
    for node in nodes:
        read = {producer[name] for name in node["inputs"] if name in producer}
        found += [(source, node["index"]) for source in sorted(read)]
        producer |= {out["name"]: node["index"] for out in node["outputs"]}
    return found


def _arc(first: int, last: int) -> str:
    top, bottom = (first + 1) * ROW - 5, (last + 1) * ROW - 5
    reach = min(12 * (last - first), ARCS - 20)
    return (
        f'<path d="M{ARCS},{top} C{ARCS - reach},{top} {ARCS - reach},{bottom} {ARCS},{bottom}" '
        'fill="none" stroke="#999" stroke-opacity="0.6"/>'
    )


def _node(node: Node, colour: str) -> str:
    outputs = "; ".join(
        f"{o['name']} [{', '.join(o['shape'])}] {o['dtype']}" for o in node["outputs"]
    )
    facts = [outputs or "updates its arguments", f"run by {runner(node)}", reasons(node)]
    y = (node["index"] + 1) * ROW
    return (
        f"<g><title>{escape(chr(10).join(f for f in facts if f))}</title>"
        f'<circle cx="{ARCS}" cy="{y - 5}" r="4" fill="{colour}"/>'
        f'<text x="{ARCS + 12}" y="{y}">{node["index"]:4} {escape(node["op"])}</text>'
        f'<text x="{ARCS + 200}" y="{y}" fill="{colour}">{escape(runner(node))}</text>'
        f'<text x="{ARCS + 430}" y="{y}" fill="#777">{escape(node["scope"])}</text></g>'
    )


def _weights(weights: Iterable[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(w['name'])}</td><td>{' x '.join(map(str, w['shape']))}</td>"
        f'<td>{escape(w["format"])}</td><td class="n">{w["bytes"]}</td></tr>'
        for w in weights
    )
    return f"<table><tr><th>name</th><th>shape</th><th>format</th><th>bytes</th></tr>{rows}</table>"
