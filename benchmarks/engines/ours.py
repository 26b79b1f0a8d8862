"""perfxlm, through the engine that `LLM` runs."""

import os
import time

from pipe import CONTEXT, MOST_REQUESTS, serve


class Engine:
    def __init__(self, model, mode, threads):
        os.environ["PERFXLM_CPU_THREADS"] = str(threads)
        from perfxlm import LLM
        from perfxlm_core import __version__

        self.version = __version__
        self.llm = LLM(
            model,
            device="cpu",
            max_model_len=CONTEXT[mode],
            max_num_seqs=MOST_REQUESTS if mode == "batch" else 1,
            max_num_batched_tokens=512,
            enable_prefix_caching=False,
        )

    def run(self, prompts, count):
        from perfxlm import SamplingParams

        params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)
        asked = [{"prompt_token_ids": p} for p in prompts]
        start = time.perf_counter()
        if len(asked) > 1:
            outputs = self.llm.generate(asked, params, use_tqdm=False)
            last = time.perf_counter() - start
            assert all(len(o.outputs[0].token_ids) == count for o in outputs)
            return None, last
        times = [time.perf_counter() - start for _ in self.llm.stream(asked[0], params)]
        assert len(times) == count
        return times[0], times[-1]


if __name__ == "__main__":
    serve(Engine)
