// out[t, o] = sum_i x[t, i] * weight[o, i] + bias[o] + residual[t, o], the weight in tiles of LANES
// rows; bias and residual may be left out.
// A work-item computes outputs of ROWS tiles for TOKENS tokens, in its own lane; SPLIT of them
// share the columns, and add up in a fixed order. Activations are the same for all lanes: they are
// read by all, or each lane of a subgroup reads some and they are passed around.
#include "lanes.cl"

#define SUMS (TOKENS * ROWS)

__kernel AS_SUBGROUPS __attribute__((reqd_work_group_size(LANES, SPLIT, 1))) void linear_lanes(
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
    const int lane = get_local_id(0), slice = get_local_id(1), t0 = get_group_id(1) * TOKENS;
    const int tile = get_group_id(0) * ROWS, last = (rows - 1) / LANES;
    const int blocks = columns / BLOCK, groups = columns / 32;
    float sums[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; i++) sums[i] = 0.0f;
    for (int g = slice; g < groups; g += SPLIT) {
#ifndef PLAIN
        uint8 codes[ROWS];
        float low[ROWS], high[ROWS], shift[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const size_t block = (size_t)min(tile + r, last) * blocks + g / (BLOCK / 32);
            codes[r] = codes_of(HERE, g % (BLOCK / 32), &low[r], &high[r], &shift[r]);
        }
        float parts[SUMS], whole[TOKENS];
#pragma unroll
        for (int i = 0; i < SUMS; i++) parts[i] = 0.0f;
#pragma unroll
        for (int t = 0; t < TOKENS; t++) whole[t] = 0.0f;
#endif
#ifdef BLOCK_READS
        float mine[TOKENS][2];
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            const size_t from = (size_t)min(t0 + t, tokens - 1) * columns + 32 * g + lane;
            mine[t][0] = LOAD(ACT, x, from);
            mine[t][1] = LOAD(ACT, x, from + 16);
        }
#endif
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float4 w[ROWS];
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
#ifdef PLAIN
                const size_t block = (size_t)min(tile + r, last) * blocks + g;
                w[r] = plain_of(HERE, j);
#else
                const uint word[8] = {
                    codes[r].s0, codes[r].s1, codes[r].s2, codes[r].s3,
                    codes[r].s4, codes[r].s5, codes[r].s6, codes[r].s7
                };
                w[r] = convert_float4(as_char4(word[j]));
#endif
            }
#pragma unroll
            for (int t = 0; t < TOKENS; t++) {
#ifdef BLOCK_READS
                const float own = mine[t][j / 4];
                const float4 v = (float4)(
                    sub_group_broadcast(own, 4 * (j % 4)), sub_group_broadcast(own, 4 * (j % 4) + 1),
                    sub_group_broadcast(own, 4 * (j % 4) + 2),
                    sub_group_broadcast(own, 4 * (j % 4) + 3)
                );
#else
                const size_t from = (size_t)min(t0 + t, tokens - 1) * columns + 32 * g + 4 * j;
                const float4 v = LOAD4(ACT, x, from);
#endif
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
#ifdef PLAIN
                    sums[t * ROWS + r] += dot(w[r], v);
#else
                    parts[t * ROWS + r] += dot(w[r], v);
#endif
                }
#if !defined(PLAIN) && SHIFTED
                whole[t] += sum4(v);
#endif
            }
#ifndef PLAIN
            if (j % 4 == 3) {
#pragma unroll
                for (int i = 0; i < SUMS; i++) {
                    sums[i] = mad(j == 3 ? low[i % ROWS] : high[i % ROWS], parts[i], sums[i]);
                    parts[i] = 0.0f;
                }
            }
#endif
        }
#if !defined(PLAIN) && SHIFTED
#pragma unroll
        for (int i = 0; i < SUMS; i++) sums[i] = mad(shift[i % ROWS], whole[i / ROWS], sums[i]);
#endif
    }
#if SPLIT > 1
    __local float others[SPLIT - 1][SUMS][LANES];
    if (slice > 0) {
#pragma unroll
        for (int i = 0; i < SUMS; i++) others[slice - 1][i][lane] = sums[i];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    if (slice > 0) return;
#pragma unroll
    for (int i = 0; i < SUMS; i++) {
        for (int s = 0; s < SPLIT - 1; s++) sums[i] += others[s][i][lane];
    }
#endif
#pragma unroll
    for (int i = 0; i < SUMS; i++) {
        const int o = (tile + i % ROWS) * LANES + lane, t = t0 + i / ROWS;
        if (o < rows && t < tokens) {
            const size_t at = (size_t)t * width + first + o;
            float more = has_bias ? LOAD(OTHER, bias, first + o) : 0.0f;
            if (has_residual) more += LOAD(OTHER, residual, at);
            STORE(RESULT, out, at, sums[i] + more);
        }
    }
}
