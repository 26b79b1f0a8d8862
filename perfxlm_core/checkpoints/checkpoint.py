"""A model on disk: configuration, tensors and tokenizer under one interface, whatever the files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from perfxlm_core.checkpoints.gguf import GGUFFile
from perfxlm_core.checkpoints.gguf_config import generation_config, huggingface_config
from perfxlm_core.checkpoints.gguf_names import huggingface_names
from perfxlm_core.checkpoints.json_file import read_json
from perfxlm_core.checkpoints.safetensors import SafetensorsFile, open_shards
from perfxlm_core.errors import CheckpointError
from perfxlm_core.ops.formats import Tensor

if TYPE_CHECKING:
    from perfxlm_core.checkpoints.tokenizer import Tokenizer


class Checkpoint(Protocol):
    """What `open_checkpoint` returns. Tensors have Hugging Face names in every kind."""

    @property
    def path(self) -> Path:
        """The file or folder."""
        ...

    @property
    def kind(self) -> Literal["gguf", "safetensors", "onnx"]:
        """How the weights are stored."""
        ...

    @property
    def graph_path(self) -> Path | None:
        """The file that holds the graph itself; None where a recipe builds it."""
        ...

    @property
    def architectures(self) -> list[str]:
        """Hugging Face class names; for a GGUF file a guess made of its architecture."""
        ...

    @property
    def gguf_architecture(self) -> str | None:
        """The value of `general.architecture`; None for other kinds."""
        ...

    @property
    def config(self) -> dict[str, Any]:
        """Model configuration with Hugging Face's keys."""
        ...

    @property
    def generation_config(self) -> dict[str, Any]:
        """Defaults of generation: `eos_token_id`, `temperature` ..."""
        ...

    @property
    def gguf_metadata(self) -> Mapping[str, Any]:
        """All metadata of a GGUF file; empty for other kinds."""
        ...

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors, as stored."""
        ...

    def names(self) -> Iterator[str]:
        """Names of the tensors."""
        ...

    def __contains__(self, name: str) -> bool: ...

    def tensor(self, name: str) -> Tensor:
        """The tensor called `name`, as a view of its memory-mapped file."""
        ...

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; made at each call."""
        ...


class GGUFCheckpoint:
    """A GGUF file."""

    kind: Literal["gguf", "safetensors", "onnx"] = "gguf"
    graph_path: Path | None = None

    def __init__(self, path: Path) -> None:
        """Opens and validates the file.

        Raises:
            CheckpointError: it is missing, damaged, or one part of several.
        """
        self.path = path
        self._file = GGUFFile(path)
        parts = self._file.metadata.get("split.count", 1)
        if parts not in (0, 1):
            raise CheckpointError(
                f"{path}: is one of {parts} parts; merge them into one file with gguf-split --merge"
            )
        self.config: dict[str, Any] = huggingface_config(self._file)
        self._names = huggingface_names(self._file.tensors)

    @property
    def architectures(self) -> list[str]:
        """A guess at the Hugging Face class: the file's architecture and `ForCausalLM`."""
        return list(self.config["architectures"])

    @property
    def gguf_architecture(self) -> str | None:
        """The value of `general.architecture`."""
        return str(self.config["model_type"])

    @property
    def gguf_metadata(self) -> Mapping[str, Any]:
        """All metadata of the file."""
        return MappingProxyType(dict(self._file.metadata))

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """Defaults of generation: `eos_token_id` is a list."""
        return generation_config(self._file)

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors, as stored."""
        return sum(info.nbytes for info in self._file.tensors.values())

    def names(self) -> Iterator[str]:
        """Names of the tensors, in the order of the file."""
        return iter(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def tensor(self, name: str) -> Tensor:
        """The tensor called `name`, as a view of the memory-mapped file.

        Raises:
            CheckpointError: there is none.
        """
        if name not in self._names:
            raise CheckpointError(f"{self.path}: holds no tensor {name!r}")
        stored = self._file.tensor(self._names[name])
        return Tensor(name, stored.shape, stored.format, stored.data, stored.source, stored.mapping)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, rebuilt from the metadata.

        Raises:
            CheckpointError: the metadata hold none that we can read.
        """
        from perfxlm_core.checkpoints.gguf_tokenizer import gguf_tokenizer

        return gguf_tokenizer(self._file)


class FolderCheckpoint:
    """A Hugging Face folder: config.json, safetensors files, tokenizer.json."""

    kind: Literal["gguf", "safetensors", "onnx"] = "safetensors"
    graph_path: Path | None = None
    gguf_architecture: str | None = None

    def __init__(self, path: Path) -> None:
        """Opens and validates the folder's files.

        Raises:
            CheckpointError: something is missing or damaged.
        """
        self.path = path
        self.config: dict[str, Any] = read_json(path / "config.json", required=True)
        _refuse_quantized(path, self.config)
        self._files: dict[str, SafetensorsFile] = open_shards(path)
        if not self._files:
            raise CheckpointError(f"{path}: the safetensors files hold no tensor")

    @property
    def architectures(self) -> list[str]:
        """Hugging Face class names, from the configuration."""
        listed = self.config.get("architectures")
        if not isinstance(listed, list):
            return []
        return [name for name in listed if isinstance(name, str)]

    @property
    def gguf_metadata(self) -> Mapping[str, Any]:
        """Empty."""
        return MappingProxyType({})

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """generation_config.json, with the token ids of config.json where it has none."""
        ids = ("bos_token_id", "eos_token_id", "pad_token_id")
        inherited = {key: self.config[key] for key in ids if self.config.get(key) is not None}
        return inherited | read_json(self.path / "generation_config.json")

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors, as stored."""
        return sum(file.tensor(name).nbytes for name, file in self._files.items())

    def names(self) -> Iterator[str]:
        """Names of the tensors."""
        return iter(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def tensor(self, name: str) -> Tensor:
        """The tensor called `name`, as a view of its memory-mapped file.

        Raises:
            CheckpointError: there is none.
        """
        if name not in self._files:
            raise CheckpointError(f"{self.path}: holds no tensor {name!r}")
        return self._files[name].tensor(name)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of tokenizer.json.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        from perfxlm_core.checkpoints.folder_tokenizer import folder_tokenizer

        return folder_tokenizer(self.path, end_ids(self.generation_config))


def end_ids(generation: Mapping[str, Any]) -> list[int]:
    """End-of-sequence tokens of a generation configuration, which may list one or several."""
    ends = generation.get("eos_token_id")
    return [i for i in (ends if isinstance(ends, list) else [ends]) if type(i) is int]


def open_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a GGUF file or of a folder, which need not hold a model's weights.

    Raises:
        CheckpointError: there is none that we read.
    """
    path = Path(path)
    if path.is_dir() and (path / "tokenizer.json").is_file():
        from perfxlm_core.checkpoints.folder_tokenizer import folder_tokenizer

        return folder_tokenizer(path, end_ids(read_json(path / "generation_config.json")))
    return open_checkpoint(path).tokenizer()


def _refuse_quantized(path: Path, config: Mapping[str, Any]) -> None:
    """Scales of other schemes lie beside their weights; without them weights mean nothing."""
    scheme = config.get("quantization_config") or config.get("compression_config")
    if scheme:
        method = scheme.get("quant_method") if isinstance(scheme, Mapping) else scheme
        raise CheckpointError(
            f"{path}: config.json has quantization_config with quant_method {method!r}, which is "
            "not read; use the unquantized model or a GGUF file of it"
        )


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The model in a GGUF or ONNX file, in a folder with a single one, or in a Hugging Face folder.

    Raises:
        CheckpointError: there is nothing that we read; the message says what there is.
    """
    path = Path(path)
    if path.is_file():
        return _open_onnx(path) if path.suffix == ".onnx" else GGUFCheckpoint(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such file or folder")
    if any(path.glob("*.safetensors")):
        return FolderCheckpoint(path)
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return GGUFCheckpoint(files[0])
    graphs = sorted(path.glob("*.onnx"))
    if len(graphs) == 1 and not files:
        return _open_onnx(graphs[0])
    raise _unreadable(path, files)


def _open_onnx(path: Path) -> Checkpoint:
    from perfxlm_core.checkpoints.onnx_file import ONNXCheckpoint

    beside = sorted(path.parent.glob("*.gguf"))
    return ONNXCheckpoint(path, GGUFCheckpoint(beside[0]) if len(beside) == 1 else None)


def _unreadable(folder: Path, files: list[Path]) -> CheckpointError:
    if files:
        names = ", ".join(file.name for file in files)
        return CheckpointError(f"{folder}: holds {len(files)} GGUF files ({names}); name one")
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        return CheckpointError(
            f"{folder}: holds only pickled weights, which can run code when they are loaded; "
            "convert them to safetensors (save_pretrained of transformers does)"
        )
    return CheckpointError(
        f"{folder}: holds neither *.safetensors beside a config.json nor a *.gguf or *.onnx file"
    )
