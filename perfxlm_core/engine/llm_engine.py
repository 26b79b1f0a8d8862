"""`LLMEngine`: the engine under vLLM's name, with what vLLM's has besides the step."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from perfxlm_core.engine.config import EngineConfig
from perfxlm_core.engine.engine import Engine
from perfxlm_core.engine.metrics import EngineMetrics, Metric
from perfxlm_core.engine.profiling import Profiling
from perfxlm_core.errors import ArgumentError, PerfxlmError

if TYPE_CHECKING:
    from pathlib import Path

    from perfxlm_core.engine.engine_args import EngineArgs
    from perfxlm_core.engine.outputs import RequestOutput
    from perfxlm_core.engine.params import SamplingParams
    from perfxlm_core.engine.prompts import PromptType
    from perfxlm_core.engine.runner import Runner, Tokenizer

MODES = ("abort", "wait", "keep")


def check_sleep(level: int, mode: str) -> None:
    """Refuse what `sleep` cannot do, before anything is given back.

    Raises:
        ArgumentError: the level or the mode is none.
    """
    if level not in (0, 1, 2):
        raise ArgumentError(f"level must be 0, 1 or 2, got {level!r}", parameter="level")
    if mode not in MODES:
        expected = ", ".join(MODES)
        raise ArgumentError(f"mode must be one of {expected}, got {mode!r}", parameter="mode")


class LLMEngine(Engine):
    """An engine that one thread steps.

    Attributes:
        vllm_config: The engine's settings, `max_model_len` being what it came to.
        reload: Loads the model again after `sleep`; None where the runner was given.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer | None,
        config: EngineConfig | None = None,
        generation_config: Mapping[str, Any] | None = None,
    ) -> None:
        config = EngineConfig() if config is None else config
        super().__init__(runner, tokenizer, config, generation_config)
        self.vllm_config = dataclasses.replace(config, max_model_len=self.max_model_len)
        self.reload: Callable[[], Runner] | None = None
        self._asleep = False
        self._metrics = EngineMetrics(config.model)
        self._profiling: Profiling | None = None

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs, *_: object, **__: object) -> LLMEngine:
        """Load the model that the arguments name; where the engine is used makes no difference."""
        return cls.from_vllm_config(engine_args.to_config())

    @classmethod
    def from_vllm_config(cls, vllm_config: EngineConfig, *_: object, **__: object) -> LLMEngine:
        """Load the model that the settings name."""
        from perfxlm_core.engine.build import build_engine

        return build_engine(vllm_config)

    @property
    def model_config(self) -> EngineConfig:
        """The settings; there is one flat object, not one for each of vLLM's sections."""
        return self.vllm_config

    # -- requests -----------------------------------------------------------------------------

    def add_request(
        self,
        request_id: str,
        prompt: PromptType,
        params: SamplingParams | None = None,
        arrival_time: float | None = None,
        lora_request: object = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        trace_headers: Mapping[str, str] | None = None,
        priority: int = 0,
    ) -> str:
        """Queue a request, as `Engine.add_request` does; trace headers go nowhere."""
        if lora_request is not None:
            raise ArgumentError("lora_request is not supported; leave it out")
        return super().add_request(
            request_id,
            prompt,
            params,
            arrival_time,
            tokenization_kwargs=tokenization_kwargs,
            priority=priority,
        )

    def step(self) -> list[RequestOutput]:
        """Compute the next tokens of a batch of requests, as `Engine.step` does.

        Raises:
            PerfxlmError: the engine sleeps, or an earlier step was interrupted half-way.
        """
        if self._asleep:
            raise PerfxlmError("the engine sleeps; call wake_up first")
        outputs = super().step()
        for output in outputs:
            if output.finished:
                self._metrics.note(output, time.monotonic())
        return outputs

    # -- sleep --------------------------------------------------------------------------------

    def sleep(self, level: int = 1, mode: str = "abort") -> list[RequestOutput]:
        """Give the memory back: weights, activations and KV cache; the last outputs of requests.

        Weights are in their files, so levels 1 and 2 are one: `wake_up` loads them again. Level 0
        keeps everything and only stops the steps.

        Args:
            mode: "abort" ends all requests, "wait" finishes them first, "keep" computes them again
                after `wake_up`.

        Raises:
            ArgumentError: the level or the mode is none.
        """
        check_sleep(level, mode)
        outputs = self._quiet(mode)
        if level > 0:
            self.scheduler.preempt_all()
            self.blocks.pool.forget_all()
            self._profiling = None
            if self.reload is not None:
                del self.runner  # and with it the memory; nothing runs before `wake_up`
        self._asleep = True
        return outputs

    def _quiet(self, mode: str) -> list[RequestOutput]:
        outputs: list[RequestOutput] = []
        if mode == "abort":
            return self.abort_request(list(self._submissions))
        while mode == "wait" and self.has_unfinished_requests():
            outputs += self.step()
        return outputs

    def wake_up(self, tags: Sequence[str] | None = None) -> bool:
        """Load again what `sleep` gave back; everything at once, whatever the tags."""
        if not hasattr(self, "runner") and self.reload is not None:
            self.runner = self.reload()
        self._asleep = False
        return True

    def is_sleeping(self) -> bool:
        """Whether `sleep` was called, and `wake_up` not since."""
        return self._asleep

    # -- measurements -------------------------------------------------------------------------

    def get_metrics(self) -> list[Metric]:
        """What was counted since the start, and the state now."""
        return self._metrics.all(self.stats())

    def start_profile(self, profile_prefix: str | None = None) -> None:
        """Time every operator of every step from now on.

        Raises:
            ArgumentError: it runs already, or the model cannot be profiled.
        """
        if self._profiling is None:
            self._profiling = Profiling(self.runner, self.vllm_config.profiler_config)
        self._profiling.start(profile_prefix)

    def stop_profile(self) -> Path:
        """Write what was timed, as a trace for Perfetto, into `torch_profiler_dir`; where.

        Raises:
            ArgumentError: nothing was started.
        """
        if self._profiling is None:
            raise ArgumentError("the profiler does not run; call start_profile first")
        return self._profiling.stop()

    def do_log_stats(self) -> None:
        """Nothing: no statistics are logged."""

    def collective_rpc(
        self,
        method: str | Callable[..., Any],
        timeout: float | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        """Call a method of the engine, or a function on it, in this process; a list of one result.

        Raises:
            ArgumentError: the engine has no such method.
        """
        function = method if callable(method) else getattr(self, method, None)
        if function is None:
            raise ArgumentError(f"the engine has no method {method!r}", parameter="method")
        first = (self,) if callable(method) else ()
        return [function(*first, *args, **(kwargs or {}))]
