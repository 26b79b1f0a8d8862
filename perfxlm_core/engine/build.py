"""From settings to a running engine: find the model, open it, load it."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING

from perfxlm_core.engine.llm_engine import LLMEngine
from perfxlm_core.errors import ArgumentError

if TYPE_CHECKING:
    from perfxlm_core.checkpoints import Checkpoint
    from perfxlm_core.checkpoints.tokenizer import Tokenizer
    from perfxlm_core.engine.config import EngineConfig


def build_engine(config: EngineConfig) -> LLMEngine:
    """Load the model that `config` names and put an engine on it.

    Raises:
        ModelError: the model cannot be found, or no recipe builds it.
        CheckpointError: its files are damaged.
        DeviceError: the device is not there.
        MemoryPlanError: it does not fit.
    """
    from perfxlm_core.checkpoints import open_checkpoint, resolve_model
    from perfxlm_core.graph.loading import LoadOptions, load_runner
    from perfxlm_core.registry.plugins import load_plugins

    plugins = load_plugins()
    device = plugins.device(config.device)  # before anything is fetched for it
    checkpoint = open_checkpoint(resolve_model(config.model, config.revision))
    if config.quantization not in (None, checkpoint.kind):
        raise ArgumentError(
            f"quantization={config.quantization!r} does not fit {checkpoint.path}, which is "
            f"{checkpoint.kind}; leave it out: weights keep their file's format"
        )
    options = LoadOptions(**{f.name: getattr(config, f.name) for f in fields(LoadOptions)})
    load = partial(load_runner, checkpoint, device, plugins.registry, options)
    found = checkpoint.generation_config
    generation_config = found if config.generation_config == "auto" else _only_eos(found)
    generation_config = {**generation_config, **config.override_generation_config}
    engine = LLMEngine(load(), _tokenizer(checkpoint, config), config, generation_config)
    engine.reload = load
    return engine


def _tokenizer(checkpoint: Checkpoint, config: EngineConfig) -> Tokenizer | None:
    from perfxlm_core.checkpoints import open_tokenizer, resolve_model

    if config.skip_tokenizer_init:
        return None
    if config.tokenizer is None:
        return checkpoint.tokenizer()
    return open_tokenizer(resolve_model(config.tokenizer))


def _only_eos(generation_config: dict[str, object]) -> dict[str, object]:
    return {k: v for k, v in generation_config.items() if k == "eos_token_id"}
