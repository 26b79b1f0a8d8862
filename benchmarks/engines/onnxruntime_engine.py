"""ONNX Runtime GenAI on a folder that its model builder made; batches are static there."""

import json
import time

import numpy as np
import onnxruntime_genai as og
from pipe import serve


class Engine:
    def __init__(self, model, mode, threads):
        self.version = og.__version__
        config = og.Config(model)
        options = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self.model = og.Model(config)

    def run(self, prompts, count):
        length = len(prompts[0]) + count
        parameters = og.GeneratorParams(self.model)
        parameters.set_search_options(
            max_length=length, min_length=length, do_sample=False, batch_size=len(prompts)
        )
        generator = og.Generator(self.model, parameters)
        start = time.perf_counter()
        rows = np.array(prompts, np.int32)
        generator.append_tokens(rows if len(prompts) > 1 else rows[0])
        times = []
        for _ in range(count):
            generator.generate_next_token()
            times.append(time.perf_counter() - start)
        return times[0], times[-1]


if __name__ == "__main__":
    serve(Engine)
