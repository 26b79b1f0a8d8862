"""What perfxlm-cpu is held to, and how far the results of a run are from it."""

from statistics import median

OURS = "perfxlm"
DECODE = {"smollm2": 0.60, "1b-q4_0": 0.85, "1b-q8_0": 0.85, "1b-bf16": 0.85}
"""Share of the read bandwidth at a context of 128."""
PREFILL = {"smollm2": 0.35, "1b-q4_0": 0.50, "1b-q8_0": 0.50}
"""Share of the peak of 8-bit products for a prompt of 512."""
AHEAD = {"decode": 1.5, "prefill": 1.7}
BATCH = {"smollm2": 2.0, "1b-q4_0": 2.2}
START = {"smollm2": 0.7, "1b-q4_0": 1.5}
"""Times the best peer, and seconds to the first token."""
LONG, PEAK_MB, PYTHON = 0.60, 80, 0.03
SINGLE_CONTEXT = 704
NOT_BUILT = ("prefill with W8A8 weights", "a key/value cache of int8 (contexts have float16)")
"""Targets that nothing here can reach yet."""


def share(work, tokens_per_s, size, limits):
    """Part of the limit that binds: reading for decoding, arithmetic for prompts; else None."""
    if work == "decode":
        return tokens_per_s * size["bytes_per_token"] / limits["read"]
    if work == "prefill":
        return tokens_per_s * size["operations_per_token"] / limits["int8"]
    return None


def judged(result):
    """Each target that the run has numbers for."""
    models = result["models"].items()
    found = [one for name, found in models for one in of_model(name, found, result)]
    return [*found, *({"target": t, "found": "not built", "holds": False} for t in NOT_BUILT)]


def of_model(name, found, result):
    """The targets of one model."""
    speeds = {w: {e: median(v) for e, v in es.items()} for w, es in found["tokens_per_s"].items()}
    for work, wanted in (("decode", DECODE), ("prefill", PREFILL)):
        if work in speeds and name in wanted:
            part = share(work, speeds[work][OURS], found["size"], result["limits"])
            yield target(f"{name} {work}, share of the limit", part, wanted[name])
            yield from ahead(f"{name} {work}", speeds[work], AHEAD[work])
    for work in ("batch8", "batch16"):
        if work in speeds and name in BATCH:
            yield from ahead(f"{name} {work}", speeds[work], BATCH[name])
    if "long" in speeds and "decode" in speeds and name == "1b-q4_0":
        kept = speeds["long"][OURS] / speeds["decode"][OURS]
        yield target(f"{name} at 8192, share of the speed at 128", kept, LONG)
        yield from ahead(f"{name} at 8192", speeds["long"], 1.0)
    yield from of_process(name, found)


def of_process(name, found):
    """Start, memory and Python's share."""
    starts = {e: median(v) for e, v in found.get("first_token_s", {}).items()}
    if starts and name in START:
        yield at_most(f"{name} seconds to the first token", starts[OURS], START[name])
        others = [s for e, s in starts.items() if e != OURS]
        if others:
            wanted = min(others) / 2
            yield at_most(f"{name} seconds to the first token beside peers", starts[OURS], wanted)
    peaks = found["peak_rss_bytes"]
    if name == "1b-q4_0" and peaks:
        cache = SINGLE_CONTEXT * 16 * 2 * 8 * 64 * 2  # layers, keys and values, heads, float16
        wanted = (found["size"]["file_bytes"] + cache) / 1e6 + PEAK_MB
        yield at_most(f"{name} peak memory, MB", peaks[OURS] / 1e6, wanted)
    if "python_share" in found and name.startswith("1b"):
        yield at_most(f"{name} Python's share of a decode step", found["python_share"], PYTHON)


def ahead(what, speeds, factor):
    """A target beside the best peer, if one ran."""
    others = [v for e, v in speeds.items() if e != OURS]
    if others:
        yield target(f"{what}, times the best peer", speeds[OURS] / max(others), factor)


def target(what, found, wanted):
    """At least so much."""
    return {"target": f"{what}, at least {wanted:.3g}", "found": f"{found:.3g}",
            "holds": found >= wanted}  # fmt: skip


def at_most(what, found, wanted):
    """At most so much."""
    return {"target": f"{what}, at most {wanted:.3g}", "found": f"{found:.3g}",
            "holds": found <= wanted}  # fmt: skip


def verdict(targets):
    """One line."""
    missed = [t["target"].split(", at ")[0] for t in targets if not t["holds"]]
    held = len(targets) - len(missed)
    return "; ".join([f"{held} of {len(targets)} targets hold", *(f"missed {m}" for m in missed)])
