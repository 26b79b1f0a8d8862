"""A plan's report as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from perfxlm_core.cli.tables import megabytes, table

Node = Mapping[str, Any]

REGIONS = {"weights": "weights", "arena": "activations and scratch", "kv_cache": "KV cache"}


def text(report: Mapping[str, Any], *, every: bool = False) -> str:
    """The report for a terminal.

    Args:
        report: From `perfxlm_core.cli.inspect.examine`.
        every: Whether each node has its own line; else nodes that differ only in a layer's number
            share one.
    """
    parts = [
        _model(report),
        _memory(report),
        _nodes(report["nodes"]) if every else _groups(report["nodes"]),
        _refusals(report["nodes"]),
    ]
    return "\n\n".join(part for part in parts if part)


def _model(report: Mapping[str, Any]) -> str:
    model, limits = report["model"], report["limits"]
    return "\n".join(
        [
            f"{', '.join(model['architectures'])} from {model['path']} ({model['kind']}, "
            f"{megabytes(model['bytes'])})",
            f"on {report['device']}, activations {report['dtype']}, weights {formats(report)}",
            f"{limits['max_num_seqs']} sequences of at most {limits['max_model_len']} tokens, "
            f"{limits['max_num_batched_tokens']} tokens a step, "
            f"{limits['num_blocks']} KV blocks of {limits['block_size']} tokens",
        ]
    )


def formats(report: Mapping[str, Any]) -> str:
    """Formats of the weights with the bytes in each, largest first."""
    total: dict[str, int] = {}
    for weight in report["weights"]:
        total[weight["format"]] = total.get(weight["format"], 0) + weight["bytes"]
    ordered = sorted(total.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {megabytes(nbytes)}" for name, nbytes in ordered)


def _memory(report: Mapping[str, Any]) -> str:
    memory = report["memory"]
    rows = [(label, megabytes(memory[name]), str(memory[name])) for name, label in REGIONS.items()]
    rows.append(("total", megabytes(memory["total"]), str(memory["total"])))
    return table(("memory", "", "bytes"), rows)


def runner(node: Node) -> str:
    """What runs a node: a kernel's name, or how else it is done."""
    if node["kernel"] is not None:
        return str(node["kernel"])
    return {"view": "nothing: a view", "reference": "the NumPy reference on the host"}[node["how"]]


def reasons(node: Node) -> str:
    """Why other kernels do not run a node; empty if there are none."""
    said = [f"{r['kernel']}: {r['reason']}" for r in node["refusals"]]
    said += [f"decoded on load: {name}" for name in node["dequantized"]]
    return "; ".join(said)


def _nodes(nodes: Iterable[Node]) -> str:
    rows = [
        (
            str(node["index"]),
            node["op"],
            node["scope"],
            runner(node),
            "; ".join(f"[{', '.join(o['shape'])}] {o['dtype']}" for o in node["outputs"]),
        )
        for node in nodes
    ]
    return table(("node", "operator", "scope", "run by", "outputs"), rows)


def _groups(nodes: Iterable[Node]) -> str:
    """Nodes that do the same in different layers, on one line with their number."""
    counts: dict[tuple[str, str, str], int] = {}
    for node in nodes:
        key = (node["op"], re.sub(r"\d+", "N", node["scope"]), runner(node))
        counts[key] = counts.get(key, 0) + 1
    rows = [(str(count), *key) for key, count in counts.items()]
    return table(("nodes", "operator", "scope", "run by"), rows)


def _refusals(nodes: Iterable[Node]) -> str:
    """Each operator's refusals, with the number of nodes that met them."""
    counts: dict[tuple[str, str], int] = {}
    for node in nodes:
        why = reasons(node)
        if why:
            counts[node["op"], why] = counts.get((node["op"], why), 0) + 1
    if not counts:
        return "no kernel that was considered refused a node"
    rows = [(str(count), op, why) for (op, why), count in counts.items()]
    return table(("nodes", "operator", "kernels that did not take them, and why"), rows)
