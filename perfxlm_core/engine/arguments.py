"""Arguments of other engines' `LLM` that this one knows of but does not act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from perfxlm_core.errors import ArgumentError

WITHOUT_EFFECT: Mapping[str, str] = {
    "enforce_eager": "there is no graph compilation to skip",
    "disable_log_stats": "nothing is logged anyway",
    "disable_custom_all_reduce": "one device is used",
    "async_scheduling": "the step has no overlap to turn off",
    "swap_space": "preempted requests are recomputed, not swapped",
    "use_tqdm_on_load": "weights are mapped, not read",
    "load_format": "the format is read off the files",
    "config_format": "the format is read off the files",
    "tokenizer_mode": "there is one tokenizer",
    "model_impl": "recipes are the only implementation",
    "max_parallel_loading_workers": "weights are mapped, not read",
    "safetensors_load_strategy": "weights are mapped, not read",
    "ignore_patterns": "only the needed files are fetched",
    "compilation_config": "the plan is compiled in one way",
    "optimization_level": "the plan is compiled in one way",
    "performance_mode": "the plan is compiled in one way",
    "cudagraph_capture_sizes": "there is nothing to capture",
    "max_cudagraph_capture_size": "there is nothing to capture",
    "attention_backend": "kernels are resolved by the plan",
    "attention_config": "kernels are resolved by the plan",
    "prefix_caching_hash_algo": "prefixes are hashed with SHA-256",
    "scheduler_reserve_full_isl": "a request starts only if its prompt fits",
    "disable_cascade_attn": "there is no cascade attention",
    "limit_mm_per_prompt": "prompts are text",
    "allowed_local_media_path": "prompts are text",
    "allowed_media_domains": "prompts are text",
    "mm_processor_kwargs": "prompts are text",
    "mm_processor_cache_gb": "prompts are text",
    "log_level": "use Python's logging",
    "shutdown_timeout": "the engine runs in this process",
}
"""Accepted with any value: they cannot change the answer. The text says why."""

ONLY_DEFAULT: Mapping[str, tuple[Any, ...]] = {
    "runner": ("auto", "generate"),
    "convert": ("auto", "none"),
    "task": ("auto", "generate"),
    "trust_remote_code": (False,),
    "tensor_parallel_size": (1,),
    "pipeline_parallel_size": (1,),
    "data_parallel_size": (1,),
    "decode_context_parallel_size": (1,),
    "prefill_context_parallel_size": (1,),
    "enable_expert_parallel": (False,),
    "distributed_executor_backend": (None, "uni"),
    "nnodes": (1,),
    "cpu_offload_gb": (0,),
    "offload_group_size": (0,),
    "offload_num_in_group": (1,),
    "offload_prefetch_step": (1,),
    "offload_params": (None, set(), frozenset()),
    "enable_return_routed_experts": (False,),
    "return_sampling_mask": (False,),
    "hf_token": (None,),
    "hf_config_path": (None,),
    "tokenizer_revision": (None,),
    "code_revision": (None,),
    "pooler_config": (None,),
    "override_pooler_config": (None,),
    "structured_outputs_config": (None,),
    "guided_decoding_backend": (None, "auto"),
    "profiler_config": (None,),
    "quantization_config": (None,),
    "logits_processors": (None, []),
    "logprobs_mode": ("raw_logprobs",),
    "spec_method": (None,),
    "spec_model": (None,),
    "spec_tokens": (None,),
    "speculative_config": (None,),
    "enable_lora": (False,),
    "max_loras": (1,),
    "max_lora_rank": (16,),
    "max_cpu_loras": (None,),
    "lora_dtype": ("auto",),
    "enable_prompt_embeds": (False,),
    "enable_mm_embeds": (False,),
    "enable_sleep_mode": (False,),
    "kv_transfer_config": (None,),
    "kv_offloading_size": (None,),
    "model_loader_extra_config": (None, {}),
    "reasoning_parser": ("",),
    "reasoning_config": (None,),
    "disable_sliding_window": (False,),
    "long_prefill_token_threshold": (0,),
    "max_num_scheduled_tokens": (None,),
    "max_num_active_seqs": (None,),
    "watermark": (0.0,),
    "watermark_config": (None,),
    "scheduler_cls": (None,),
    "worker_cls": ("auto",),
    "worker_extension_cls": ("",),
    "stream_interval": (1,),
    "override_generation_config": (None, {}),
    "rope_scaling": (None, {}),
    "rope_theta": (None,),
    "download_dir": (None,),
    "weight_transfer_config": (None,),
    "additional_config": (None, {}),
}
"""Accepted with these values only: any other would be ignored, so it is refused."""


def refuse_others(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse the keyword arguments in `given` that would change something and cannot.

    Args:
        known: The arguments that do something here, to suggest from.

    Raises:
        TypeError: nobody knows the argument.
        ArgumentError: it is known but not supported with this value.
    """
    for name, value in given.items():
        if name in WITHOUT_EFFECT:
            continue
        if name not in ONLY_DEFAULT:
            near = difflib.get_close_matches(name, [*known, *WITHOUT_EFFECT, *ONLY_DEFAULT], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"LLM() got an unexpected keyword argument {name!r}{hint}")
        if not any(value == allowed for allowed in ONLY_DEFAULT[name]):
            default = ONLY_DEFAULT[name][0]
            raise ArgumentError(
                f"{name}={value!r} is not supported by this version; leave it out "
                f"(its only value is {default!r})"
            )
