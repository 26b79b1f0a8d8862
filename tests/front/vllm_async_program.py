"""A program as users have it: vLLM's asynchronous engine, and nothing of perfxlm's."""

import asyncio
import json
import sys

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.engine.async_llm_engine import AsyncLLMEngine
from vllm.sampling_params import RequestOutputKind
from vllm.utils import random_uuid
from vllm.v1.engine.async_llm import AsyncLLM


async def answer(engine, prompt):
    params = SamplingParams(temperature=0, max_tokens=6, output_kind=RequestOutputKind.DELTA)
    text = ""
    async for output in engine.generate(prompt, params, request_id=random_uuid()):
        text += output.outputs[0].text
    return text


async def main():
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model=sys.argv[1], max_model_len=256))
    try:
        prompts = ["The capital of France is", "The capital of Japan is"]
        texts = await asyncio.gather(*(answer(engine, p) for p in prompts))
    finally:
        engine.shutdown()
    print(json.dumps({"texts": texts, "same": AsyncLLMEngine is AsyncLLM}))


asyncio.run(main())
