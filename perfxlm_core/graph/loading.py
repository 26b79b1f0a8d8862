"""From a checkpoint to a runner: recipe, passes, plan, memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from perfxlm_core import ops
from perfxlm_core.errors import ArgumentError, ConfigError, GraphError, MemoryPlanError
from perfxlm_core.graph.ir import Graph, Node
from perfxlm_core.graph.passes import (
    allow_rounding,
    cache_layers,
    fuse,
    page_attention,
    select_rows,
)
from perfxlm_core.graph.passes.paging import CacheLayer, resize_caches
from perfxlm_core.graph.plan import Plan, decide
from perfxlm_core.graph.recipe import find_recipe
from perfxlm_core.graph.runner import Limits, ModelRunner
from perfxlm_core.ops.formats import Tensor
from perfxlm_core.ops.types import Dim
from perfxlm_core.registry.device import Device, kind_of
from perfxlm_core.registry.kernels import Query, Registry

log = logging.getLogger(__name__)

DTYPES = {"float": "float32", "half": "float16", "int8_per_token_head": "int8"}
SHARED_CACHE_BYTES = 1 << 30
"""KV cache by default where device and host share memory: one GiB, but at least one longest
sequence and at most `max_num_seqs` of them."""


class Source(Protocol):
    """What is needed of a checkpoint."""

    @property
    def architectures(self) -> list[str]:
        """Hugging Face architecture names."""
        ...

    @property
    def gguf_architecture(self) -> str | None:
        """GGUF's name of the architecture, if the file is one."""
        ...

    @property
    def graph_path(self) -> Path | None:
        """The ONNX file that holds the graph; None where a recipe builds it."""
        ...

    @property
    def config(self) -> dict[str, Any]:
        """Settings by Hugging Face's names."""
        ...

    def tensor(self, name: str) -> Tensor:
        """The tensor called `name`, by Hugging Face's names."""
        ...


@dataclass(frozen=True)
class LoadOptions:
    """How a model is to be loaded; names and meanings are vLLM's.

    Attributes:
        dtype: "auto" (the device's choice; activations beside quantized weights may be rounded)
            or the name of a float dtype, which then holds exactly.
        kv_cache_dtype: "auto" (float16 if dtype is "auto" and the device stores it, else the
            activation dtype), the name of a float dtype, or "int8": codes of 8 bits with a scale
            for each token and head, about half of float16's bytes.
        max_model_len: tokens of the longest sequence; None takes the model's own limit, or less
            if that does not fit the cache.
        gpu_memory_utilization: share of the device's memory that weights, activations and cache
            may take together.
        kv_cache_memory_bytes: size of the cache; None derives it.
        num_gpu_blocks_override: exact number of KV blocks.
        hf_overrides: replacements of settings in the model's configuration.
        kernels: operator -> vendor, to settle ties between plugins.
    """

    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    block_size: int = 16
    gpu_memory_utilization: float = 0.92
    kv_cache_memory_bytes: int | None = None
    num_gpu_blocks_override: int | None = None
    hf_overrides: Mapping[str, Any] = field(default_factory=dict)
    kernels: Mapping[str, str] = field(default_factory=dict)


def load_runner(
    source: Source, device: Device, registry: Registry, options: LoadOptions | None = None
) -> ModelRunner:
    """Build, plan and load a model.

    Raises:
        ModelError: no installed recipe builds it.
        ConfigError: its configuration asks for what its recipe does not do.
        MemoryPlanError: it does not fit; says what is needed and what to change.
    """
    options = options or LoadOptions()
    plan, limits = plan_model(source, device, registry, options)
    log.info(
        "%s: weights %s, arena %s, KV cache %s (%d blocks of %d tokens)",
        device.name,
        *(_mib(n) for n in (plan.weight_bytes, plan.arena.nbytes, plan.cache_bytes)),
        limits.num_blocks,
        limits.block_size,
    )
    return ModelRunner(plan.bind(), limits)


def build_graph(source: Source, dtype: str, overrides: Mapping[str, Any] | None = None) -> Graph:
    """The checkpoint's graph, as its recipe builds it, or as its ONNX file holds it.

    Raises:
        ModelError, ConfigError: see `load_runner`.
        GraphError: the ONNX file is not a decoder that we understand.
    """
    if source.graph_path is not None:
        return _imported(source.graph_path, dtype, overrides or {})
    recipe = find_recipe(source.architectures, source.gguf_architecture)
    return recipe.graph({**source.config, **(overrides or {})}, source.tensor, dtype=dtype)


def _imported(path: Path, dtype: str, overrides: Mapping[str, Any]) -> Graph:
    from perfxlm_core.graph.onnx import as_recipe, load_onnx

    given = [name for name in overrides if name != "max_model_len"]
    if given:
        raise ConfigError(
            f"hf_overrides={given} cannot change {path}: an ONNX file fixes the maths; convert the "
            "model again from its checkpoint"
        )
    graph: Graph = as_recipe(load_onnx(path))
    if graph.dtype != dtype:
        raise ArgumentError(
            f"{path} computes in {graph.dtype}, the device would in {dtype}; convert the model "
            f"again, or pass dtype={graph.dtype!r} on a device that has it"
        )
    return graph


def plan_model(
    source: Source, device: Device, registry: Registry, options: LoadOptions
) -> tuple[Plan, Limits]:
    """Everything up to the point where memory would be taken: what `perfxlm inspect` shows."""
    dtype = activation_dtype(options.dtype, device)
    limit = {} if options.max_model_len is None else {"max_model_len": options.max_model_len}
    graph = build_graph(source, dtype, {**limit, **options.hf_overrides})
    if options.dtype == "auto":
        allow_rounding(graph)
    layers = cache_layers(graph)
    cache_dtype = _cache_dtype(options, dtype, layers, device, registry)
    longest = _longest(options, source.config)
    max_blocks = -(-longest // options.block_size)
    page_attention(
        graph, block_size=options.block_size, max_blocks=max_blocks, cache_dtype=cache_dtype
    )
    select_rows(graph)
    fuse(graph, lambda node: _has_kernel(node, device, registry, options.kernels))
    sizes = {
        "tokens": options.max_num_batched_tokens,
        "seqs": options.max_num_seqs,
        "rows": options.max_num_seqs,
    }
    plan = decide(graph, device, registry, sizes, prefer=options.kernels)
    plan.lay_out()
    block_bytes = options.block_size * sum(c.bytes_per_token(cache_dtype) for c in layers)
    blocks = _count_blocks(plan, options, longest, block_bytes)
    resize_caches(plan.graph, blocks)
    fitting = min(longest, blocks * options.block_size)
    if fitting < longest and options.max_model_len is not None:
        raise MemoryPlanError(
            f"max_model_len={longest} needs {max_blocks} KV blocks "
            f"({_mib(max_blocks * block_bytes)}), but the cache has {blocks} "
            f"({_mib(blocks * block_bytes)}); lower max_model_len to {fitting}, or raise "
            "kv_cache_memory_bytes or gpu_memory_utilization"
        )
    limits = Limits(
        max_model_len=fitting,
        block_size=options.block_size,
        num_blocks=blocks,
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
    )
    return plan, limits


def activation_dtype(wanted: str, device: Device) -> str:
    """The activation dtype for vLLM's `dtype` argument.

    Raises:
        ArgumentError: the device does not compute in it.
    """
    offered = list(device.dtypes())
    if wanted == "auto":
        return offered[0]
    name = DTYPES.get(wanted, wanted)
    if name not in offered:
        raise ArgumentError(
            f"dtype={wanted!r} is not one that {device.name} computes in ({', '.join(offered)}); "
            'use one of them or "auto"'
        )
    return name


def _cache_dtype(
    options: LoadOptions,
    dtype: str,
    layers: list[CacheLayer],
    device: Device,
    registry: Registry,
) -> str:
    if options.kv_cache_dtype != "auto":
        name = DTYPES.get(options.kv_cache_dtype, options.kv_cache_dtype)
        if not all(_stores(layer, dtype, name, device, registry) for layer in layers):
            raise ArgumentError(
                f"kv_cache_dtype={options.kv_cache_dtype!r} is not one that {device.name}'s "
                f'attention kernels read; use "auto" or {dtype!r}'
            )
        return name
    if options.dtype != "auto":
        return dtype
    fits = all(_stores(layer, dtype, "float16", device, registry) for layer in layers)
    return "float16" if fits else dtype


def _stores(
    layer: CacheLayer, dtype: str, cache_dtype: str, device: Device, registry: Registry
) -> bool:
    """Whether the device has attention and store kernels for such a cache."""
    graph = Graph(dtype=dtype)
    for name, width in (("q", layer.head_dim), ("k", layer.head_dim), ("v", layer.v_head_dim)):
        graph.input(name, (Dim.symbol("tokens"), layer.kv_heads, width), dtype)
    q, k, v = graph.inputs.values()
    ops.attention(q, k, v, layer=0)
    try:
        page_attention(graph, block_size=16, max_blocks=1, cache_dtype=cache_dtype)
        return all(_has_kernel(node, device, registry, {}) for node in graph.nodes)
    except (ValueError, GraphError):
        return False


def _has_kernel(node: Node, device: Device, registry: Registry, prefer: Mapping[str, str]) -> bool:
    """Whether the device itself runs a node, its weights as they are."""
    constants = [p.name for p, v in node.arguments() if v.constant is not None]
    query = Query.of(node.op, node.types(), node.attrs, constants, kind_of(device))
    return registry.resolve(query, prefer).kernel is not None


def _longest(options: LoadOptions, config: Mapping[str, Any]) -> int:
    own = config.get("max_position_embeddings")
    if options.max_model_len is None:
        if own is None:
            raise ConfigError(
                "the model's configuration has no max_position_embeddings; pass max_model_len"
            )
        return int(own)
    if own is not None and options.max_model_len > int(own):
        raise ArgumentError(
            f"max_model_len={options.max_model_len} is more than the model was made for "
            f"(max_position_embeddings={own}); use at most that, or change it with hf_overrides "
            "if you know that its rotary scaling allows more"
        )
    return options.max_model_len


def _count_blocks(plan: Plan, options: LoadOptions, longest: int, block_bytes: int) -> int:
    """KV blocks that fit; raises MemoryPlanError when not even the weights do."""
    total = plan.device.describe().total_memory
    allowed = int(total * options.gpu_memory_utilization)
    fixed = plan.weight_bytes + plan.arena.nbytes
    room = allowed - fixed
    need = block_bytes
    if room < need:
        raise MemoryPlanError(
            f"{plan.device.name} may use {_mib(allowed)} (gpu_memory_utilization="
            f"{options.gpu_memory_utilization} of {_mib(total)}), but weights take "
            f"{_mib(plan.weight_bytes)} and activations {_mib(plan.arena.nbytes)}, which leaves no "
            "room for the KV cache; use a smaller model or format, lower max_num_batched_tokens "
            "or max_num_seqs, or raise gpu_memory_utilization"
        )
    if options.num_gpu_blocks_override is not None:
        wanted = options.num_gpu_blocks_override * block_bytes
    elif options.kv_cache_memory_bytes is not None:
        wanted = options.kv_cache_memory_bytes
    elif getattr(plan.device, "shares_memory", plan.device.host_visible):
        one = -(-longest // options.block_size) * block_bytes
        wanted = min(room, max(one, min(SHARED_CACHE_BYTES, one * options.max_num_seqs)))
    else:
        wanted = room
    blocks = wanted // block_bytes if block_bytes else 1
    if wanted > room or blocks < 1:
        raise MemoryPlanError(
            f"a KV cache of {_mib(wanted)} ({blocks} blocks of {_mib(block_bytes)}) was asked for; "
            f"{plan.device.name} has room for {_mib(room)} beside weights "
            f"({_mib(plan.weight_bytes)}) and activations ({_mib(plan.arena.nbytes)}) under "
            f"gpu_memory_utilization={options.gpu_memory_utilization}"
        )
    return blocks


def _mib(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):.1f} MiB"
