// As linear_lanes.cl, for many tokens, with activations rounded (see rounded.cl) and integer products.
// A work-item computes one row for TOKENS tokens; SPLIT tiles side by side share what is staged.
#include "lanes.cl"
#include "rounded.cl"

#define ITEMS (LANES * SPLIT)
#define RUNS 16  // of each token, staged at once

__kernel AS_SUBGROUPS __attribute__((reqd_work_group_size(LANES, SPLIT, 1))) void linear_dot(
    OUT(RESULT, out), IN(ACT, x), IN(int, weight) PICTURE, const int extra_units, IN(OTHER, bias),
    IN(OTHER, residual), const int tokens, const int rows, const int columns, const int first,
    const int width, const int has_bias, const int has_residual
) {
    PLACE_OUT(RESULT, out);
    PLACE_IN(ACT, x);
    PLACE_IN(OTHER, bias);
    PLACE_IN(OTHER, residual);
    Words units = (Words)weight_base + weight_at;
    Bytes extras = (Bytes)(units + 4 * (size_t)extra_units);
    __local uint stage[TOKENS * RUNS * RUN];
    const int lane = get_local_id(0), item = get_local_id(1) * LANES + lane;
    const int tile = get_group_id(0) * SPLIT + get_local_id(1), o = tile * LANES + lane;
    const int t0 = get_group_id(1) * TOKENS, per = BLOCK / 32;
    const size_t begin = (size_t)min(tile, (rows - 1) / LANES) * (columns / BLOCK);
    float sums[TOKENS];
#pragma unroll
    for (int t = 0; t < TOKENS; t++) sums[t] = 0.0f;
    for (int from = 0; from < columns / 32; from += RUNS) {
        const int runs = min(RUNS, columns / 32 - from);
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int i = item; i < TOKENS * runs; i += ITEMS) {
            const size_t t = min(t0 + i / runs, tokens - 1);
            const int r = i % runs;
            round_run(stage + (i / runs * RUNS + r) * RUN, x + t * columns, x, 0, 32 * (from + r));
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int g = 0; g < runs; g++) {
            const size_t block = begin + (from + g) / per;
            float low, high, shift = 0.0f;
            const uint8 codes = codes_of(HERE, (from + g) % per, &low, &high, &shift);
#pragma unroll
            for (int t = 0; t < TOKENS; t++) {
                __local const uint *v = stage + (t * RUNS + g) * RUN;
                sums[t] = rounded_product(codes, low, high, shift, SHIFTED, v, sums[t]);
            }
        }
    }
    if (o >= rows) return;
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        if (t0 + t >= tokens) break;
        const size_t at = (size_t)(t0 + t) * width + first + o;
        float more = has_bias ? LOAD(OTHER, bias, first + o) : 0.0f;
        if (has_residual) more += LOAD(OTHER, residual, at);
        STORE(RESULT, out, at, sums[t] + more);
    }
}
