"""A recipe's graph as an ONNX file that any runtime can run."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfxlm_core.errors import ArgumentError, GraphError
from perfxlm_core.graph.ir import Graph, Value
from perfxlm_core.graph.onnx.block_functions import DOMAIN, VERSION, block_functions
from perfxlm_core.graph.onnx.initializers import CODES
from perfxlm_core.graph.onnx.lowering import Lowering, cache_names
from perfxlm_core.graph.onnx.weights import FORMS, WeightFiles

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

log = logging.getLogger(__name__)

IR_VERSION = 11
"""Of the files; the oldest that knows operator sets 23 and later."""


@dataclass(frozen=True)
class SavedModel:
    """What `save_onnx` made.

    Attributes:
        path: the model.
        linked: the checkpoint's files that were hard-linked beside it.
        copied: those that had to be copied, because the file system could not link them.
        decoded: weights written as float32, for want of a form for their format.
        referenced_bytes: weights that the model points to in the checkpoint's own files.
        written_bytes: weights written anew.
    """

    path: Path
    linked: tuple[Path, ...]
    copied: tuple[Path, ...]
    decoded: tuple[str, ...]
    referenced_bytes: int
    written_bytes: int


def save_onnx(
    graph: Graph,
    folder: str | PathLike[str],
    *,
    form: str = "quantized",
    name: str = "model.onnx",
    files: Iterable[str | PathLike[str]] = (),
) -> SavedModel:
    """Write a decoder in portable form.

    The model takes `input_ids` and `position_ids` (int64, [batch, sequence]) and, for each layer,
    `past_key_values.N.key` and `.value` ([batch, kv_heads, past, head_dim]); it gives `logits`
    ([batch, sequence, vocab]) and `present.N.key` and `.value`. Only operators of the standard
    stand in it, of operator set 24, or 25 where attention has a window.

    Weights stay in the checkpoint's files: initializers point into them. Such a file must lie in
    the model's folder or below, so one that does not is hard-linked there, or copied.

    Args:
        graph: as its recipe built it, weights included, before any pass.
        folder: where to write; made if need be.
        form: for quantized weights: "quantized" leaves the blocks as they are, with a function of
            domain ai.perfxlm that says in standard operators what they mean; "standard" writes
            DequantizeLinear; "dequantized" writes float32. A format that has no such form is
            written as float32.
        name: of the model's file.
        files: others to copy beside it (tokenizer, configuration).

    Raises:
        ArgumentError: `form` is unknown, or the folder cannot be written.
        GraphError: the graph holds what has no portable form; nothing is left behind.
    """
    if form not in FORMS:
        raise ArgumentError(f"form={form!r}, want one of {', '.join(FORMS)}")
    target = Path(folder)
    made = not target.exists()
    weights = WeightFiles(target, f"{name}.data")
    part = target / f".{name}.part"
    try:
        target.mkdir(parents=True, exist_ok=True)
        low = Lowering(graph, form, weights)
        model = _model(graph, low, low.run())
        part.write_bytes(model.SerializeToString())
        weights.finish()
        for extra in files:
            if Path(extra).resolve() != (target / Path(extra).name).resolve():
                shutil.copyfile(extra, target / Path(extra).name)
        os.replace(part, target / name)
    except BaseException as error:
        _clean(target, part, weights, made)
        if isinstance(error, OSError):
            raise ArgumentError(f"cannot write into {target}: {error}") from error
        raise
    return _report(target / name, low, weights)


def _clean(target: Path, part: Path, weights: WeightFiles, made: bool) -> None:
    """Leave the folder as it was; one that was made goes if nothing else is in it."""
    if not target.is_dir():
        return
    part.unlink(missing_ok=True)
    weights.abandon()
    if made:
        with contextlib.suppress(OSError):
            target.rmdir()


def _report(path: Path, low: Lowering, weights: WeightFiles) -> SavedModel:
    if weights.copied:
        log.warning(
            "%s: copied, because the file system cannot link: %s",
            path, ", ".join(str(p) for p in weights.copied),
        )  # fmt: skip
    if low.decoded and low.form != "dequantized":
        log.warning("%s: written as float32: %s", path, ", ".join(low.decoded))
    return SavedModel(
        path, tuple(weights.linked), tuple(weights.copied), tuple(low.decoded),
        weights.referenced_bytes, weights.written_bytes,
    )  # fmt: skip


def _model(graph: Graph, low: Lowering, logits: str) -> ModelProto:
    from onnx import helper

    if len(graph.outputs) != 1 or not low.caches:
        raise GraphError("a portable model is a decoder: it has attention and gives logits alone")
    low.emit("Identity", [logits], "logits")
    dtype = CODES[graph.dtype]
    used = {name for node in low.nodes for name in node.input}
    inputs = [
        _info(name, CODES["int64"], ["batch", "sequence"])
        for name in ("input_ids", "position_ids")
        if name in used
    ]
    outputs = [_info("logits", dtype, ["batch", "sequence", graph.outputs[0].shape[-1]])]
    for node in sorted(low.caches, key=lambda n: int(n.attrs["layer"])):
        for stem, length, into in (
            ("past_key_values", "past", inputs), ("present", "total", outputs)
        ):  # fmt: skip
            for one, value in zip(cache_names(stem, node.attrs["layer"]), "kv", strict=True):
                into.append(_info(one, dtype, _cache_shape(node.inputs[value], length)))
    imports = [helper.make_opsetid("", low.opset)]
    if low.formats:
        imports.append(helper.make_opsetid(DOMAIN, VERSION))
    return helper.make_model(
        helper.make_graph(
            low.nodes,
            "model",
            inputs,
            outputs,
            initializer=list(low.initializers.values()),
            value_info=[
                _info(n, dtype, shape)
                for n, shape in low.shapes.items()
                if n not in ("input_ids", "position_ids")
            ],
        ),
        producer_name="perfxlm",
        opset_imports=imports,
        ir_version=IR_VERSION,
        functions=block_functions(low.formats, low.opset),
    )


def _cache_shape(value: Value, length: str) -> Sequence[Any]:
    _, heads, size = value.shape
    return ["batch", heads, length, size]


def _info(name: str, dtype: int, shape: Sequence[Any]) -> ValueInfoProto:
    from onnx import helper

    return helper.make_tensor_value_info(name, dtype, list(shape))
