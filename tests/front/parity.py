"""docs/vllm-parity.md, made from the names that programs use of vLLM and from our code.

`vllm_names.json` lists what vLLM 0.33's own examples and documentation, and 16 packages of third
parties, import, call, pass and read, and in how many files. What becomes of each is found out here
by looking at our modules, signatures and tables; only why a name is absent is written by hand.
`python -m tests.front.parity` writes the page.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from dataclasses import dataclass
from pathlib import Path

from perfxlm import LLM, EngineArgs, LLMEngine, SamplingParams
from perfxlm.logprobs import Logprob
from perfxlm.lora.request import LoRARequest
from perfxlm.outputs import CompletionOutput, RequestOutput
from perfxlm.pooling_params import PoolingParams
from perfxlm.sampling_params import BeamSearchParams, StructuredOutputsParams
from perfxlm.v1.engine.async_llm import AsyncLLM
from perfxlm_core.engine.argument_table import FIXED
from perfxlm_core.engine.arguments import ARGUMENTS, Effect
from perfxlm_core.engine.dropped_keywords import DROPPED
from perfxlm_core.engine.params import _UNSUPPORTED

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/vllm-parity.md"
SUPPORTED, IDLE, REFUSED, ABSENT = "supported", "without effect", "refused", "absent"
POOLING = "no model here pools"
ABSENT_BECAUSE = {
    "vllm.distributed": "one process runs the model, and its weights are the checkpoint's",
    "vllm.assets": "prompts are text: there are no sample images or sounds",
    "vllm.multimodal": "prompts are text",
    "vllm.lora": "adapters cannot be loaded",
    "vllm.reasoning": "`perfxlm serve --reasoning-parser` lists the parsers there are",
    "vllm.model_executor.models.utils": "weights are named by recipes",
    "vllm.core": "vLLM has dropped it",
    "vllm.sequence": "vLLM has dropped it",
    "release_kv_cache_memory": "`sleep` gives weights and KV cache back together",
    "data_parallel_rank": "one process runs the model",
    "multi_modal_data": "prompts are text",
}
OTHER_DEFAULTS = {
    ("kw:EngineArgs", "model"): "the embedded default model is served",
    ("kw:AsyncEngineArgs", "model"): "the embedded default model is served",
    ("kw:chat()", "chat_template_content_format"): "",
}
OUTPUTS = (RequestOutput, CompletionOutput, Logprob, LLM)
METHODS = (LLM, LLMEngine, AsyncLLM)
CLASSES = {
    "kw:PoolingParams": PoolingParams,
    "kw:StructuredOutputsParams": StructuredOutputsParams,
    "kw:LoRARequest": LoRARequest,
    "kw:BeamSearchParams": BeamSearchParams,
}
UNKNOWN = object()


@dataclass
class Row:
    """A name, what became of it, and why."""

    kind: str
    name: str
    used: tuple[int, int, int]
    state: str
    note: str = ""


def rows():
    """Every name of the data."""
    return [row(given) for given in json.loads((HERE / "vllm_names.json").read_text())]


def row(given):
    """What became of one."""
    kind, name = given["kind"], given["name"]
    state, note, default = looked_up(kind, name)
    if state == ABSENT:
        note = next((why for key, why in ABSENT_BECAUSE.items() if name.startswith(key)), "")
    if "default" in given and default is not UNKNOWN and not same(default, given["default"]):
        because = OTHER_DEFAULTS.get((kind, name), "")
        note = f"default {default!r}, vLLM's {given['default']!r}: {because}"
    used = (given["examples"], given["docs"], given["third_party"])
    return Row(kind, name, used, state, note)


def same(ours, theirs):
    """Whether two defaults mean the same: nothing, None, empty."""
    return ours == theirs or (not ours and not theirs)


def looked_up(kind, name):
    """State, note and our default of a name."""
    if kind == "import":
        return imported(name)
    if kind == "call":
        homes = ("perfxlm", "perfxlm.sampling_params", "perfxlm.lora.request")
        found = any(hasattr(importlib.import_module(home), name) for home in homes)
        return (SUPPORTED if found else ABSENT), "", UNKNOWN
    if kind == "method":
        return method(name)
    if kind == "attr":
        return attribute(name)
    if kind in ("kw:LLM", "kw:EngineArgs", "kw:AsyncEngineArgs"):
        return argument(name)
    if kind == "kw:SamplingParams":
        return sampling(name)
    if kind == "kw:TokensPrompt":
        return (SUPPORTED if name != "multi_modal_data" else ABSENT), "", UNKNOWN
    if kind in CLASSES:
        return field(CLASSES[kind], name)
    return keyword(kind.removeprefix("kw:").removesuffix("()"), name)


def imported(name):
    module, _, attr = name.replace("vllm", "perfxlm", 1).partition(":")
    try:
        found = importlib.import_module(module)
        value = member(found, attr) if attr else found
    except (ImportError, AttributeError):
        return ABSENT, "", UNKNOWN
    if isinstance(value, type) and hasattr(value, "refused"):
        return REFUSED, value.refused, UNKNOWN
    note = POOLING if attr.startswith("Pooling") else ""
    return (REFUSED if note else SUPPORTED), note, UNKNOWN


def member(module, name):
    """What a module has by that name, which may be a module of its own."""
    if hasattr(module, name):
        return getattr(module, name)
    return importlib.import_module(f"{module.__name__}.{name}")


def method(name):
    found = next((getattr(c, name) for c in METHODS if hasattr(c, name)), None)
    if found is None:
        return ABSENT, "", UNKNOWN
    refuses = inspect.signature(found).return_annotation == "NoReturn"
    return (REFUSED, inspect.getdoc(found).partition(": ")[2], UNKNOWN) if refuses else (
        SUPPORTED, "", UNKNOWN)  # fmt: skip


def attribute(name):
    known = {
        n for c in OUTPUTS for base in c.__mro__ for n in vars(base).get("__annotations__", {})
    }
    if name in known:
        return SUPPORTED, "always None" if name == "lora_request" else "", UNKNOWN
    pools = name in ("data", "embedding", "score", "probs")
    return (REFUSED, POOLING, UNKNOWN) if pools else (ABSENT, "", UNKNOWN)


def argument(name):
    found = ARGUMENTS.get(name)
    if found is None:
        return ABSENT, "", UNKNOWN
    states = {Effect.ENGINE: SUPPORTED, Effect.SERVER: SUPPORTED, Effect.NONE: IDLE}
    values = ", ".join(f"`{v!r}`" for v in found.allowed)
    note = f"{found.reason}; only {values}" if found.effect is Effect.FIXED else found.reason
    return states.get(found.effect, REFUSED), note, found.default


def sampling(name):
    if name in DROPPED:
        return (
            SUPPORTED,
            "vLLM has dropped it; values that mean something here are translated",
            UNKNOWN,
        )
    if name in _UNSUPPORTED:
        return REFUSED, f"only `{_UNSUPPORTED[name]!r}`", _UNSUPPORTED[name]
    state, note, default = field(SamplingParams, name)
    return (IDLE, "nothing here reads them", default) if name == "extra_args" else (
        state, note, default)  # fmt: skip


def field(cls, name):
    found = {f.name: f for f in dataclasses.fields(cls)}.get(name)
    if found is None:
        return ABSENT, "", UNKNOWN
    default = UNKNOWN if found.default is dataclasses.MISSING else found.default
    if cls is PoolingParams:
        return REFUSED, POOLING, default
    if cls is LoRARequest:
        return REFUSED, "adapters cannot be loaded; refused where it is used", default
    return SUPPORTED, "", default


def keyword(name, parameter):
    functions = [getattr(c, name) for c in METHODS if hasattr(c, name)]
    if any(inspect.signature(f).return_annotation == "NoReturn" for f in functions):
        return REFUSED, POOLING, UNKNOWN
    for function in functions:
        found = inspect.signature(function).parameters.get(parameter)
        if found is not None:
            refused = parameter == "lora_request"
            default = UNKNOWN if found.default is inspect.Parameter.empty else found.default
            return (REFUSED, "adapters cannot be loaded", default) if refused else (
                SUPPORTED, "", default)  # fmt: skip
    return ABSENT, "", UNKNOWN


def page():
    """The whole of docs/vllm-parity.md."""
    found = rows()
    lines = [HEAD.rstrip(), "", *summary(found)]
    for kind in dict.fromkeys(r.kind for r in found):
        lines += [
            "",
            f"## {TITLES.get(kind, kind)}",
            "",
            "| name | used | here | |",
            "|---|---|---|---|",
        ]
        for r in (r for r in found if r.kind == kind):
            used = " + ".join(map(str, r.used))
            note = r.note.replace("|", "\\|")
            lines.append(f"| `{r.name}` | {used} | {r.state} | {note} |".replace(" |  |", " | |"))
    return "\n".join([*lines, "", *arguments_page(), ""])


def summary(found):
    """How many of each state, of all names and of those that vLLM's own examples use."""
    lines = [f"| of | names | {' | '.join((SUPPORTED, IDLE, REFUSED, ABSENT))} |", "|---" * 6 + "|"]
    for title, chosen in groups(found).items():
        counts = [sum(r.state == s for r in chosen) for s in (SUPPORTED, IDLE, REFUSED, ABSENT)]
        lines.append(f"| {title} | {len(chosen)} | {' | '.join(map(str, counts))} |")
    return lines


def groups(found):
    """Names by who uses them."""
    return {
        "vLLM's examples": [r for r in found if r.used[0]],
        "vLLM's examples and documentation": [r for r in found if r.used[0] or r.used[1]],
        "those and third parties": found,
    }


def arguments_page():
    """Every argument of the engine, used or not."""
    lines = ["## Every argument of the engine", ""]
    for title, effect in (("Supported", Effect.ENGINE), ("Read by the server", Effect.SERVER)):
        names = ", ".join(f"`{a.name}`" for a in ARGUMENTS.values() if a.effect is effect)
        lines.append(f"* {title}: {names}.")
    reasons = dict.fromkeys(a.reason for a in ARGUMENTS.values() if a.effect is Effect.NONE)
    for reason in reasons:
        names = ", ".join(
            f"`{a.name}`"
            for a in ARGUMENTS.values()
            if a.effect is Effect.NONE and a.reason == reason
        )
        lines.append(f"* Without effect, because {reason}: {names}.")
    for reason, group in FIXED.items():
        lines.append(f"* Refused but for the default, because {reason}: "
                     f"{', '.join(f'`{n}`' for n in group)}.")  # fmt: skip
    assert len(EngineArgs.names()) == len(ARGUMENTS) - 1
    return lines


TITLES = {
    "import": "Imported",
    "call": "Constructed",
    "method": "Methods called on `LLM` and engines",
    "attr": "Attributes read from outputs",
    **{
        f"kw:{n}": f"Keyword arguments of `{n}`"
        for n in "LLM EngineArgs AsyncEngineArgs SamplingParams PoolingParams "
        "StructuredOutputsParams TokensPrompt LoRARequest BeamSearchParams generate() chat() "
        "encode() embed() classify() score()".split()
    },
}
HEAD = """\
# Parity with vLLM

Made by `python -m tests.front.parity`, which a test repeats; do not edit. The names are those that
vLLM 0.33's own examples and documentation, and 16 packages of third parties, use; the three numbers
say in how many files of each.

* **supported**: it does what vLLM's does.
* **without effect**: accepted with any value, because none could change an answer; a log line says
  so.
* **refused**: the name exists; using it for what cannot be had is an error that says why. Values
  that ask for nothing are accepted.
* **absent**: there is no such name.

Where what is supported differs:

* Every output is that of one process on one device; sizes of parallelism change nothing.
* `sleep` gives weights, activations and KV cache back, at level 1 as at level 2, because weights
  are in their files; `wake_up` loads everything again, whatever the tags.
* `collective_rpc` calls the engine in this process: a name is a method of `LLMEngine`, a function
  gets the `LLMEngine` as its first argument.
* `start_profile` times every operator; the trace is written for Perfetto, not for TensorBoard.
* `EngineArgs.create_engine_config` gives one flat configuration; its sections are itself.
* Outputs with a constraint end where it does: `ignore_eos` is refused beside `structured_outputs`.
* `get_tokenizer` gives a tokenizer of ours, with the methods of transformers' that programs call;
  it makes no tensors.
"""


if __name__ == "__main__":
    PAGE.write_text(page())
    print(*summary(rows()), sep="\n")
