"""What the processor reaches when it only reads, or only computes."""

import time

import numpy as np

from perfxlm_cpu import _native

READ = 256 * 2**20
"""Bytes read from memory in turn: more than most caches hold."""
SLICE = 32 * 2**20
"""Bytes of one timing: so few that some timings pass while nobody else has the cores."""
FLOAT32_ROUND = 2 * 12
"""Operations in each lane in a round of `peak_float32`: twelve products and sums."""
INT8_ROUND = 4 * FLOAT32_ROUND
LANES = {"avx512_vnni": 16, "avx512": 16, "avx2": 8}
"""32-bit lanes of a vector; 4 elsewhere."""
REPEATS = 5


def measure_limits(pool: _native.Pool, variant: str) -> dict[str, float]:
    """Bytes/s of reading, and operations/s of float32 and of 8-bit products; the best of five."""
    lanes = LANES.get(variant, 4)
    results = np.zeros(pool.threads, np.int32)
    memory = np.ones(READ, np.uint8)
    factors = np.array([0.5, 0.25], np.float32)
    rounds = 100_000
    slices = [one for _ in range(REPEATS) for one in memory.reshape(-1, SLICE)]
    seconds = min(_best(pool, variant, "peak_read", results, one, SLICE, 0, 1) for one in slices)
    found = {"read": SLICE / seconds}
    for key, work in (("float32", FLOAT32_ROUND), ("int8", INT8_ROUND)):
        seconds = _best(pool, variant, f"peak_{key}", results, factors, 0, rounds)
        found[key] = rounds * work * lanes * pool.threads / seconds
    return found


def _best(
    pool: _native.Pool,
    variant: str,
    kernel: str,
    results: np.ndarray,
    data: np.ndarray,
    size: int,
    rounds: int,
    repeats: int = REPEATS,
) -> float:
    """Seconds of the fastest run."""
    pointers = [results.ctypes.data, data.ctypes.data]
    node = _native.Node(kernel, pointers, [(size, [])], [rounds], [], [])
    program = _native.Program(pool, variant, [node], [])
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        program.run()
        times.append(time.perf_counter() - start)
    return min(times)
