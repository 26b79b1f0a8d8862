"""A model whose graph is an ONNX file; its configuration and tokenizer lie beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from perfxlm_core.checkpoints.json_file import read_json
from perfxlm_core.errors import CheckpointError
from perfxlm_core.ops.formats import Tensor

if TYPE_CHECKING:
    from perfxlm_core.checkpoints.checkpoint import Checkpoint
    from perfxlm_core.checkpoints.tokenizer import Tokenizer


class ONNXCheckpoint:
    """An ONNX file of a decoder, such as `perfxlm convert` writes.

    What the graph does not say (context length, end-of-sequence tokens, tokenizer) is read from
    the GGUF file or the config.json and tokenizer.json in the same folder.
    """

    kind: Literal["gguf", "safetensors", "onnx"] = "onnx"
    gguf_architecture: str | None = None

    def __init__(self, path: Path, beside: Checkpoint | None) -> None:
        """Opens what lies beside the graph; the graph itself is read when it is planned.

        Args:
            path: The ONNX file.
            beside: The GGUF file in its folder, if there is one.

        Raises:
            CheckpointError: there is neither a GGUF file nor a config.json.
        """
        self.path = path
        self.graph_path: Path | None = path
        self._beside = beside
        self.config: dict[str, Any] = (
            dict(beside.config)
            if beside is not None
            else read_json(path.parent / "config.json", required=True)
        )

    @property
    def architectures(self) -> list[str]:
        """Hugging Face class names, from the configuration; for reports."""
        listed = self.config.get("architectures")
        return [n for n in listed if isinstance(n, str)] if isinstance(listed, list) else []

    @property
    def gguf_metadata(self) -> Mapping[str, Any]:
        """That of the GGUF file beside the graph, if there is one."""
        return {} if self._beside is None else self._beside.gguf_metadata

    @property
    def generation_config(self) -> dict[str, Any]:
        """Defaults of generation, from beside the graph."""
        if self._beside is not None:
            return self._beside.generation_config
        ids = ("bos_token_id", "eos_token_id", "pad_token_id")
        inherited = {key: self.config[key] for key in ids if self.config.get(key) is not None}
        return inherited | read_json(self.path.parent / "generation_config.json")

    @property
    def total_bytes(self) -> int:
        """Bytes of the ONNX file and of the data file of the same name."""
        data = self.path.with_name(f"{self.path.name}.data")
        return self.path.stat().st_size + (data.stat().st_size if data.is_file() else 0)

    def names(self) -> Iterator[str]:
        """Nothing: the weights are the graph's."""
        return iter(())

    def __contains__(self, name: str) -> bool:
        return False

    def tensor(self, name: str) -> Tensor:
        """Refused: the weights are the graph's.

        Raises:
            CheckpointError: always.
        """
        raise CheckpointError(
            f"{self.path}: weights of an ONNX model belong to its graph; {name!r} cannot be looked "
            "up by a checkpoint's name"
        )

    def tokenizer(self) -> Tokenizer:
        """The tokenizer beside the graph.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        if self._beside is not None:
            return self._beside.tokenizer()
        from perfxlm_core.checkpoints.checkpoint import end_ids
        from perfxlm_core.checkpoints.folder_tokenizer import folder_tokenizer

        return folder_tokenizer(self.path.parent, end_ids(self.generation_config))
