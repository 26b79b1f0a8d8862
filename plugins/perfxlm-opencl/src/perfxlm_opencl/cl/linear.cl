// out[t, o] = sum_i x[t, i] * weight[o, i] + bias[o], the weight in its file's own layout.
// A work-item computes ROWS outputs for TOKENS tokens, 16 columns at a time: each 32 weights are
// decoded once for all tokens, each 32 activations are read once for all rows. The weight given
// is rows `first` and following of a matrix of `width` rows.
#include "products.cl"

__kernel void linear(
    OUT(RESULT, out), IN(ACT, x), IN(byte, weight), IN(OTHER, bias), const int tokens,
    const int rows, const int columns, const int row_bytes, const int first, const int width, const int has_bias
) {
    PLACE_OUT(RESULT, out);
    PLACE_IN(ACT, x);
    PLACE_IN(byte, weight);
    PLACE_IN(OTHER, bias);
    const int o = get_global_id(0) * ROWS, t0 = get_global_id(1) * TOKENS;
    if (o >= rows) return;
    Bytes row[ROWS];
    __global const STORED(ACT) *in[TOKENS];
    float16 sums[TOKENS * ROWS];
    float rest[TOKENS * ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) row[r] = weight + (size_t)min(o + r, rows - 1) * row_bytes;
#pragma unroll
    for (int t = 0; t < TOKENS; t++) in[t] = x + (size_t)min(t0 + t, tokens - 1) * columns;
#pragma unroll
    for (int i = 0; i < TOKENS * ROWS; i++) {
        sums[i] = 0.0f;
        rest[i] = 0.0f;
    }
    const int groups = columns / 32;
#if AHEAD
    // Rows are too short for a processor to guess what comes next: the rows of the next work-item.
    const int step = ROWS * row_bytes <= AHEAD ? ROWS * row_bytes / max(groups, 1) : 0;
#endif
    for (int g = 0; g < groups; g++) {
#if AHEAD
        for (int i = 0; i < step; i += 64) prefetch(row[0] + ROWS * row_bytes + g * step + i, 64);
#endif
#if TOKENS == 1
        const float16 a = LOAD16(ACT, in[0], 32 * g), b = LOAD16(ACT, in[0], 32 * g + 16);
        const float16 both = a + b;
#pragma unroll
        for (int r = 0; r < ROWS; r++) sums[r] = PRODUCT(row[r], g, a, b, both, sums[r]);
#else
        float16 low[ROWS], high[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) DECODE(row[r], g, &low[r], &high[r]);
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            const float16 a = LOAD16(ACT, in[t], 32 * g), b = LOAD16(ACT, in[t], 32 * g + 16);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                sums[t * ROWS + r] = mad(low[r], a, mad(high[r], b, sums[t * ROWS + r]));
            }
        }
#endif
    }
#ifdef PLAIN
    for (int i = 32 * groups; i < columns; i++) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const float w = LOAD(PLAIN, (__global const STORED(PLAIN) *)row[r], i);
#pragma unroll
            for (int t = 0; t < TOKENS; t++) rest[t * ROWS + r] += w * LOAD(ACT, in[t], i);
        }
    }
#endif
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (o + r >= rows) break;
        const float shift = has_bias ? LOAD(OTHER, bias, first + o + r) : 0.0f;
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            if (t0 + t >= tokens) break;
            const float sum = sum16(sums[t * ROWS + r]) + rest[t * ROWS + r];
            STORE(RESULT, out, (size_t)(t0 + t) * width + first + o + r, sum + shift);
        }
    }
}
