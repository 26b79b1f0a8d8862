// Composite operators for a step of few tokens: linear layers with what stands around them in one
// launch, weights in their files' layout.
//
// A unit is a pair of rows whose results are needed together. LANES work-items share a unit, each
// with every LANES-th run of 32 columns; ITEMS times UNITS units make a work-group, which is
// LANES x ITEMS.
// FORMATS is how many formats the weights have; FORMAT_n, PRODUCT_n and PLAIN_n describe them.
#include "activations.cl"
#include "products.cl"

#define AHEAD(nbytes) ((nbytes) <= 16384 ? (nbytes) : 0)
#if AHEAD
#define KERNEL __kernel __attribute__((vec_type_hint(float16)))
#else
#define KERNEL __kernel
#endif
#define LANE get_local_id(0)
#define ITEM get_local_id(1)

// Sum over the lanes of a unit, for all of them; the order is fixed.
#if LANES > 1
#define LANE_SCRATCH __local float4 lane_scratch[LANES * ITEMS]
inline float4 lane_sum(float4 v, __local float4 *scratch) {
    scratch += ITEM * LANES;
    scratch[LANE] = v;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int half_way = LANES / 2; half_way > 0; half_way /= 2) {
        if (LANE < half_way) scratch[LANE] += scratch[LANE + half_way];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    const float4 total = scratch[0];
    barrier(CLK_LOCAL_MEM_FENCE);
    return total;
}
#else
#define LANE_SCRATCH __local float4 lane_scratch[1]
inline float4 lane_sum(float4 v, __local float4 *scratch) { return v; }
#endif

#define DECODED(n)                                                                             \
    inline float16 decoded_##n(                                                                \
        Bytes row, int g, float16 a, float16 b, float16 both, float16 sum                      \
    ) {                                                                                        \
        float16 low, high;                                                                     \
        JOIN(decode_, FORMAT_##n)(row, g, &low, &high);                                        \
        return mad(low, a, mad(high, b, sum));                                                 \
    }

// COUNT pairs of rows times x: this lane's share of the products, and of the sum of the squares of
// x. With HAS_NORM, x is multiplied by the norm's weight.
#define PAIRS(n, name, COUNT)                                                                  \
    inline void name(                                                                          \
        Bytes *first, Bytes *second, __global const STORED(ACT) *x,                            \
        __global const STORED(ACT) *norm, int columns, int ahead, float4 *sums                 \
    ) {                                                                                        \
        float16 one[COUNT], two[COUNT], squares = 0.0f;                                        \
        float4 rest[COUNT];                                                                    \
        for (int u = 0; u < COUNT; u++) one[u] = two[u] = 0.0f;                                \
        for (int u = 0; u < COUNT; u++) rest[u] = 0.0f;                                        \
        const int groups = columns / 32, step = ahead / max(groups, 1);                        \
        for (int g = LANE; g < groups; g += LANES) {                                           \
            FETCH(first[0], second[0], ahead, g * step, step);                                 \
            float16 a = LOAD16(ACT, x, 32 * g), b = LOAD16(ACT, x, 32 * g + 16);               \
            if (HAS_NORM) {                                                                    \
                squares = mad(a, a, mad(b, b, squares));                                       \
                a *= LOAD16(ACT, norm, 32 * g);                                                \
                b *= LOAD16(ACT, norm, 32 * g + 16);                                           \
            }                                                                                  \
            const float16 both = a + b;                                                        \
            for (int u = 0; u < COUNT; u++) {                                                  \
                one[u] = PRODUCT_##n(first[u], g, a, b, both, one[u]);                         \
                two[u] = PRODUCT_##n(second[u], g, a, b, both, two[u]);                        \
            }                                                                                  \
        }                                                                                      \
        for (int i = (columns & ~31) + LANE; IS_PLAIN_##n && i < columns; i += LANES) {        \
            float v = LOAD(ACT, x, i);                                                         \
            const float square = v * v;                                                        \
            if (HAS_NORM) v *= LOAD(ACT, norm, i);                                             \
            for (int u = 0; u < COUNT; u++) {                                                  \
                __global const STORED(PLAIN_##n) *p, *q;                                       \
                p = (__global const STORED(PLAIN_##n) *)first[u];                              \
                q = (__global const STORED(PLAIN_##n) *)second[u];                             \
                rest[u].x = mad(LOAD(PLAIN_##n, p, i), v, rest[u].x);                          \
                rest[u].y = mad(LOAD(PLAIN_##n, q, i), v, rest[u].y);                          \
                rest[u].z += square;                                                           \
            }                                                                                  \
        }                                                                                      \
        for (int u = 0; u < COUNT; u++) {                                                      \
            const float4 whole = (float4)(sum16(one[u]), sum16(two[u]), sum16(squares), 0.0f); \
            sums[u] = rest[u] + whole;                                                         \
        }                                                                                      \
    }

#define PAIR(n)                                                                                \
    PAIRS(n, pairs_##n, UNITS)                                                                 \
    PAIRS(n, single_##n, 1)                                                                    \
    inline float4 pair_##n(                                                                    \
        Bytes first, Bytes second, __global const STORED(ACT) *x,                              \
        __global const STORED(ACT) *norm, int columns                                          \
    ) {                                                                                        \
        Bytes one[1] = {first}, two[1] = {second};                                             \
        float4 sums[1];                                                                        \
        single_##n(one, two, x, norm, columns, 0, sums);                                       \
        return sums[0];                                                                        \
    }

// Rows are too short for a processor to guess what comes next: `ahead` bytes behind both rows.
#if IS_CPU
#define FETCH(one, two, ahead, from, step)                                                     \
    for (int i = 0; i < step; i += 64) {                                                       \
        prefetch(one + ahead + from + i, 64);                                                  \
        if (APART) prefetch(two + ahead + from + i, 64);                                       \
    }
#else
#define FETCH(one, two, ahead, from, step)
#endif

DECODED(0)
PAIR(0)
#if FORMATS > 1
DECODED(1)
PAIR(1)
#endif
#if FORMATS > 2
DECODED(2)
PAIR(2)
#endif

// Both products, whole and normalized.
inline float2 finished(float4 sums, int columns, float eps, __local float4 *scratch) {
    const float4 v = lane_sum(sums, scratch);
    return HAS_NORM ? v.xy * (1.0f / sqrt(v.z / columns + eps)) : v.xy;
}

#ifdef LINEAR_ADD
KERNEL void linear_add(
    OUT(ACT, out), IN(ACT, x), IN(byte, weight), IN(ACT, residual), IN(ACT, bias),
    const int rows, const int columns, const int row_bytes, const int has_bias
) {
    const size_t t = get_global_id(2);
    PLACE_OUT(ACT, out) + t * rows;
    PLACE_IN(ACT, x) + t * columns;
    PLACE_IN(byte, weight);
    PLACE_IN(ACT, residual) + t * rows;
    PLACE_IN(ACT, bias);
    LANE_SCRATCH;
    const int begin = 2 * UNITS * get_global_id(1);
    Bytes first[UNITS], second[UNITS];
    float4 sums[UNITS];
    for (int u = 0; u < UNITS; u++) {
        first[u] = weight + (size_t)min(begin + 2 * u, rows - 1) * row_bytes;
        second[u] = weight + (size_t)min(begin + 2 * u + 1, rows - 1) * row_bytes;
    }
    pairs_0(first, second, x, x, columns, AHEAD(2 * UNITS * row_bytes), sums);
    for (int u = 0; u < UNITS; u++) {
        const int o = begin + 2 * u;
        const float2 y = finished(sums[u], columns, 0.0f, lane_scratch);
        if (LANE != 0 || o >= rows) continue;
        const float a = has_bias ? y.x + LOAD(ACT, bias, o) : y.x;
        STORE(ACT, out, o, a + LOAD(ACT, residual, o));
        if (o + 1 == rows) continue;
        const float b = has_bias ? y.y + LOAD(ACT, bias, o + 1) : y.y;
        STORE(ACT, out, o + 1, b + LOAD(ACT, residual, o + 1));
    }
}
#endif

#ifdef GATED_LINEAR
// Gate and up have one format: a unit is row o of each.
KERNEL void gated_linear(
    OUT(ACT, out), IN(ACT, x), IN(byte, gate), IN(byte, up), IN(ACT, norm), IN(ACT, gate_bias),
    IN(ACT, up_bias), const int rows, const int columns, const int row_bytes,
    const int has_gate_bias, const int has_up_bias, const int gate_kind, const float eps
) {
    const size_t t = get_global_id(2);
    PLACE_OUT(ACT, out) + t * rows;
    PLACE_IN(ACT, x) + t * columns;
    PLACE_IN(byte, gate);
    PLACE_IN(byte, up);
    PLACE_IN(ACT, norm);
    PLACE_IN(ACT, gate_bias);
    PLACE_IN(ACT, up_bias);
    LANE_SCRATCH;
    const int begin = UNITS * get_global_id(1);
    Bytes first[UNITS], second[UNITS];
    float4 sums[UNITS];
    for (int u = 0; u < UNITS; u++) {
        const size_t at = (size_t)min(begin + u, rows - 1) * row_bytes;
        first[u] = gate + at;
        second[u] = up + at;
    }
    pairs_0(first, second, x, norm, columns, AHEAD(UNITS * row_bytes), sums);
    for (int u = 0; u < UNITS; u++) {
        const int o = begin + u;
        float2 y = finished(sums[u], columns, eps, lane_scratch);
        if (LANE != 0 || o >= rows) continue;
        if (has_gate_bias) y.x += LOAD(ACT, gate_bias, o);
        if (has_up_bias) y.y += LOAD(ACT, up_bias, o);
        STORE(ACT, out, o, activated(gate_kind, y.x) * y.y);
    }
}
#endif

#ifdef QKV
#define WEIGHT(name) IN(byte, name), const int name##_bytes
#define PLACE_WEIGHT(name) PLACE_IN(byte, name)
#define SCRATCH LANE_SCRATCH
#define GROUP_AXIS 1
#define UNIT_LANE ITEM
#define UNITS_AT_ONCE ITEMS
#define IS_OWNER (LANE == 0)
#define START_SUMS float4 sums
#define EACH_CHUNK(products) products
#define PRODUCTS(name, n, one, two)                                                            \
    JOIN(pair_, n)(                                                                            \
        name + (size_t)(one) * name##_bytes, name + (size_t)(two) * name##_bytes, x, norm,     \
        columns                                                                                \
    )
#if LANES * ITEMS > 1
#define SYNC barrier(CLK_LOCAL_MEM_FENCE)
#else
#define SYNC
#endif
#define FINISHED finished(sums, columns, eps, lane_scratch)
#include "qkv.cl"
#endif
