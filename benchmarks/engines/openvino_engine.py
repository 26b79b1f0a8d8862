"""OpenVINO GenAI on a folder that optimum exported."""

import time

import numpy as np
import openvino as ov
import openvino_genai as og
from pipe import MOST_REQUESTS, serve


class Times(og.StreamerBase):
    """When tokens came."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def write(self, token):
        self.seen += [time.perf_counter()] * (len(token) if isinstance(token, list) else 1)
        return og.StreamingStatus.RUNNING

    def end(self):
        pass


class Engine:
    def __init__(self, model, mode, threads):
        self.version = og.__version__
        options = {"INFERENCE_NUM_THREADS": threads}
        self.pipeline = (
            og.ContinuousBatchingPipeline(model, scheduler(), "CPU", options)
            if mode == "batch"
            else og.LLMPipeline(model, "CPU", **options)
        )

    def run(self, prompts, count):
        settings = og.GenerationConfig()
        settings.max_new_tokens = settings.min_new_tokens = count
        settings.ignore_eos, settings.do_sample = True, False
        rows = [np.array([p], np.int64) for p in prompts]
        start = time.perf_counter()
        if isinstance(self.pipeline, og.ContinuousBatchingPipeline):
            self.pipeline.generate([ov.Tensor(r) for r in rows], [settings] * len(rows))
            return None, time.perf_counter() - start
        times = Times()
        (row,) = rows
        asked = og.TokenizedInputs(ov.Tensor(row), ov.Tensor(np.ones_like(row)))
        self.pipeline.generate(asked, settings, times)
        return times.seen[0] - start, times.seen[-1] - start


def scheduler():
    """As many requests at once as are asked for."""
    found = og.SchedulerConfig()
    found.cache_size, found.max_num_seqs, found.max_num_batched_tokens = 1, MOST_REQUESTS, 2048
    found.enable_prefix_caching, found.dynamic_split_fuse = False, True
    return found


if __name__ == "__main__":
    serve(Engine)
