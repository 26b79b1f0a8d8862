"""A program as users have it: it imports `vllm`, and nothing of perfxlm's."""

import importlib.metadata
import json
import sys
from importlib.util import find_spec

import vllm
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import StructuredOutputsParams
from vllm.version import __version__ as version


def main():
    llm = LLM(sys.argv[1], max_model_len=256, enforce_eager=True, tensor_parallel_size=1)
    params = SamplingParams(
        temperature=0, max_tokens=8, structured_outputs=StructuredOutputsParams(choice=["Paris"])
    )
    [output] = llm.generate(["The capital of France is "], params, use_tqdm=False)
    found = {
        "text": output.outputs[0].text,
        "is_output": isinstance(output, RequestOutput),
        "versions": [vllm.__version__, version, importlib.metadata.version("vllm")],
        "tuple": list(vllm.__version_tuple__),
        "same": sys.modules["vllm.outputs"] is sys.modules["perfxlm.outputs"],
        "spec": sys.modules["perfxlm.outputs"].__spec__.name,
        "found": find_spec("vllm") is not None,
        "missing": find_spec("vllm.nothing_here") is None,
        "lora": LoRARequest("a", 1, "/nowhere").name,
        "argv": sys.argv[1:],
        "name": __name__,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
