"""What `LLM` has besides generation: control of its engine, and refusals that say why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any, NoReturn

from perfxlm_core.errors import ArgumentError

if TYPE_CHECKING:
    from perfxlm_core.engine.llm_engine import LLMEngine
    from perfxlm_core.engine.metrics import Metric
    from perfxlm_core.engine.outputs import RequestOutput
    from perfxlm_core.engine.params import SamplingParams
    from perfxlm_core.engine.runner import Tokenizer

_POOLING = "the model generates text; models that {} are not supported"
_WEIGHTS = "weights come from the checkpoint alone; they cannot be replaced while the model runs"


class LLMBase:
    """The engine of an `LLM`, from outside the step."""

    llm_engine: LLMEngine
    _lock: RLock

    def _deliver(self, outputs: Sequence[RequestOutput]) -> None:
        """Hand outputs to those who wait for them."""
        raise NotImplementedError  # LLMRequests does it

    # -- the engine ---------------------------------------------------------------------------

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
            ArgumentError: the model was loaded without one.
        """
        return self.llm_engine.get_tokenizer()

    def get_default_sampling_params(self) -> SamplingParams:
        """What the model's authors recommend, else `SamplingParams()`."""
        return self.llm_engine.admission.default_params()

    def get_world_size(self, include_dp: bool = True) -> int:
        """1: one process runs the model."""
        return 1

    def get_metrics(self) -> list[Metric]:
        """What the engine counted since the start, and its state now."""
        with self._lock:
            return self.llm_engine.get_metrics()

    def reset_prefix_cache(
        self, reset_running_requests: bool = False, reset_connector: bool = False
    ) -> bool:
        """Forget every cached prefix; False, with nothing done, while requests run.

        Args:
            reset_running_requests: Compute running requests again, so that nothing hinders it.
            reset_connector: There is no connector.
        """
        with self._lock:
            if reset_running_requests:
                self.llm_engine.scheduler.preempt_all()
            return self.llm_engine.reset_prefix_cache()

    def reset_mm_cache(self) -> None:
        """Nothing: prompts are text, and no media are cached."""

    def sleep(self, level: int = 1, mode: str = "abort") -> None:
        """Give the model's memory back, weights and KV cache, until `wake_up`.

        Levels 1 and 2 are one, because weights are in their files; level 0 only stops the steps.

        Args:
            mode: What becomes of requests that run: "abort", "wait" or "keep".

        Raises:
            ArgumentError: the level or the mode is none.
        """
        with self._lock:
            self._deliver(self.llm_engine.sleep(level, mode))

    def wake_up(self, tags: Sequence[str] | None = None) -> bool:
        """Load again what `sleep` gave back; everything at once, whatever the tags."""
        with self._lock:
            return self.llm_engine.wake_up(tags)

    def start_profile(
        self,
        profile_prefix: str | None = None,
        *,
        delay_iterations: int | None = None,
        max_iterations: int | None = None,
        profiler_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Time every operator of every step, until `stop_profile`.

        Raises:
            ArgumentError: it runs already, or an argument other than the prefix is given.
        """
        if delay_iterations or max_iterations or profiler_kwargs:
            raise ArgumentError(
                "start_profile takes profile_prefix alone: every step is recorded until stop"
            )
        with self._lock:
            self.llm_engine.start_profile(profile_prefix)

    def stop_profile(self) -> None:
        """Write the trace, for Perfetto, into `profiler_config`'s `torch_profiler_dir`, or here.

        Raises:
            ArgumentError: nothing was started.
        """
        with self._lock:
            self.llm_engine.stop_profile()

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
        with self._lock:
            return self.llm_engine.collective_rpc(method, timeout, args, kwargs)

    # -- refusals -----------------------------------------------------------------------------

    def apply_model(self, func: Callable[..., Any]) -> NoReturn:
        """Refused: there is no torch module to apply a function to."""
        raise ArgumentError(
            "apply_model is not supported: the model is a graph of operators, not a torch module; "
            "perfxlm_core.graph shows it"
        )

    def encode(self, prompts: object, *_: object, **__: object) -> NoReturn:
        """Refused: the model generates text."""
        raise ArgumentError(f"encode: {_POOLING.format('give embeddings')}")

    def embed(self, prompts: object, *_: object, **__: object) -> NoReturn:
        """Refused: the model generates text."""
        raise ArgumentError(f"embed: {_POOLING.format('give embeddings')}")

    def classify(self, prompts: object, *_: object, **__: object) -> NoReturn:
        """Refused: the model generates text."""
        raise ArgumentError(f"classify: {_POOLING.format('classify')}")

    def score(self, data_1: object, data_2: object, *_: object, **__: object) -> NoReturn:
        """Refused: the model generates text."""
        raise ArgumentError(f"score: {_POOLING.format('score pairs')}")

    def reward(self, prompts: object, *_: object, **__: object) -> NoReturn:
        """Refused: the model generates text."""
        raise ArgumentError(f"reward: {_POOLING.format('give rewards')}")

    def set_tokenizer(self, tokenizer: object) -> NoReturn:
        """Refused: requests that run depend on the one there is."""
        raise ArgumentError("set_tokenizer is not supported; pass tokenizer= to LLM")

    def init_weight_transfer_engine(self, request: object) -> NoReturn:
        """Refused: weights stay those of the checkpoint."""
        raise ArgumentError(f"init_weight_transfer_engine: {_WEIGHTS}")

    def start_weight_update(self) -> NoReturn:
        """Refused: weights stay those of the checkpoint."""
        raise ArgumentError(f"start_weight_update: {_WEIGHTS}")

    def update_weights(self, request: object) -> NoReturn:
        """Refused: weights stay those of the checkpoint."""
        raise ArgumentError(f"update_weights: {_WEIGHTS}")

    def finish_weight_update(self, weight_version: object = None) -> NoReturn:
        """Refused: weights stay those of the checkpoint."""
        raise ArgumentError(f"finish_weight_update: {_WEIGHTS}")
