"""The pipe between the benchmark and an engine's process: a line of JSON asks, one answers.

An engine is a class: `Engine(model, mode, threads)` loads a model for one request at a time
("single"), for long contexts ("long") or for many at once ("batch"); `version` names it and
`run(prompts, count)` answers greedily, never stopping early, and returns the seconds after which
the first and the last token of all came, or None for the first where it cannot say.
"""

import json
import os
import sys
import time
from pathlib import Path

CONTEXT = {"single": 704, "batch": 256, "long": 8320}
"""Tokens of a sequence."""
MOST_REQUESTS = 16


def serve(engine):
    """Do what stdin asks for; stdout belongs to the pipe, what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    model, mode, threads = sys.argv[1:4]
    start = time.perf_counter()
    loaded = engine(model, mode, int(threads))
    ready = {"version": loaded.version, "load_s": time.perf_counter() - start}
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        first, last = loaded.run(asked["prompts"], asked["count"])
        said = {"first": first, "last": last, "peak": peak_bytes()}
        print(json.dumps(said), file=answers, flush=True)


def peak_bytes():
    """The process's peak of resident memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")
