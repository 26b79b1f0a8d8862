// Activations as they are staged in local memory: times a norm's weight if there is one.
inline float4 scaled_at(
    __global const STORED(ACT) *x, __global const STORED(ACT) *norm, int has_norm, int i
) {
    const float4 v = LOAD4(ACT, x, i);
    return has_norm ? v * LOAD4(ACT, norm, i) : v;
}

#if DOT
// Rounded to 16 bits, a scale for each run of 32: 8 bits, and what they left over to 8 bits again, so
// that products of bytes do. RUN words for a run: 8 of codes, 8 of finer ones, the finer scale, the
// sum of the run.
#include "dot.cl"

#define FINE 254
#define RUN 20

inline uint bytes_of(float4 v) { return as_uint(convert_char4_sat_rte(v)); }

// The run that begins at x[i], times the norm's weight if there is one.
inline void round_run(
    __local uint *to, __global const STORED(ACT) *x, __global const STORED(ACT) *norm,
    int has_norm, int i
) {
    float4 most = 0.0f, sum = 0.0f;
    for (int j = 0; j < 32; j += 4) {
        const float4 v = scaled_at(x, norm, has_norm, i + j);
        most = fmax(most, fabs(v));
        sum += v;
    }
    const float top = fmax(fmax(most.x, most.y), fmax(most.z, most.w)), whole = sum4(sum);
    const float scale = top > 1e-30f ? top / 127.0f : 0.0f, by = scale > 0.0f ? 1.0f / scale : 0.0f;
    for (int j = 0; j < 8; j++) {
        const float4 v = scaled_at(x, norm, has_norm, i + 4 * j), coarse = rint(v * by);
        to[j] = bytes_of(coarse);
        to[8 + j] = bytes_of((v - coarse * scale) * by * (float)FINE);
    }
    to[16] = as_uint(scale / FINE + 0.0f * whole);  // not a number where one of them is none
    to[17] = as_uint(whole);
}

// `sum`, and 32 weights times a run.
inline float rounded_product(
    uint8 codes, float low, float high, float shift, int shifted, __local const uint *v, float sum
) {
    const int a = FINE * dot_16(codes.lo, vload4(0, v)) + dot_16(codes.lo, vload4(2, v));
    const int b = FINE * dot_16(codes.hi, vload4(1, v)) + dot_16(codes.hi, vload4(3, v));
    if (shifted) sum = mad(shift, as_float(v[17]), sum);
    return mad(mad(low, (float)a, high * (float)b), as_float(v[16]), sum);
}
#endif
