"""An ONNX file as a graph of our operators."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfxlm_core.errors import CheckpointError, GraphError
from perfxlm_core.graph.ir import Graph
from perfxlm_core.graph.onnx.importer import Importer
from perfxlm_core.graph.onnx.initializers import Initializers

if TYPE_CHECKING:
    from onnx import ModelProto

NEWEST = 28
"""The newest version of the default operator set whose definitions we know."""


def load_onnx(source: str | PathLike[str] | ModelProto) -> Graph:
    """Read a model of any exporter.

    Each node becomes one of our operators (`perfxlm_core.ops.tensor`). A node that we have no
    operator for is replaced by its function body: the model's own, or the standard's. Constants
    in other files are mapped into memory, not read.

    Args:
        source: path of the .onnx file, or a model without constants in other files.

    Returns:
        A graph whose inputs and outputs are the model's, for `interpret`.

    Raises:
        CheckpointError: the file is missing or damaged.
        GraphError: the model holds something that we do not compute; says which node.
    """
    folder = None
    if isinstance(source, str | PathLike):
        path = Path(source)
        folder, model = path.parent, _parse(path)
    else:
        model = source
    versions = {e.domain: e.version for e in model.opset_import}
    version = versions.get("", versions.get("ai.onnx"))
    if version is not None and version > NEWEST:
        raise GraphError(
            f"the model is of operator set {version}; we read up to {NEWEST}. Export it again for "
            "an older one, or update perfxlm"
        )
    return Importer(model, Initializers(folder)).graph()


def _parse(path: Path) -> Any:  # noqa: ANN401
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise CheckpointError(f"{path} is not an ONNX model: {error}") from error
    if not model.HasField("graph") or not model.opset_import:
        raise CheckpointError(f"{path} is not an ONNX model: it has no graph or no operator set")
    return model
