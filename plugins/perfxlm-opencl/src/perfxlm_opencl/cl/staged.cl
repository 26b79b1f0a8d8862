// One token's activations in local memory, CHUNK columns at a time, for all work-items of a group:
// LANES, each with rows of its own, times SPLIT slices, which share the columns. What is staged is
// multiplied by a norm's weight if there is one, and with DOT rounded as rounded.cl says.
// FORMATS is how many formats the weights have, FORMAT_n which.
#include "lanes.cl"
#include "rounded.cl"

#define ITEMS (LANES * SPLIT)
#define LANE get_local_id(0)
#define SLICE get_local_id(1)

#if DOT
#define CHUNK 4096
#define STAGED uint
#else
#define CHUNK 1024
#define STAGED float
#define RUN 32
#endif
typedef __local STAGED *Stage;
#define SCRATCH                                                                                \
    __local STAGED stage[CHUNK / 32 * RUN];                                                    \
    __local float4 scratch[ITEMS]

// Stages columns `from` and following; gives this work-item's share of their squares.
inline float stage_chunk(
    Stage stage, __global const STORED(ACT) *x, __global const STORED(ACT) *norm, int has_norm,
    int from, int columns
) {
    const int item = SLICE * LANES + LANE, end = min(CHUNK, columns - from);
    float4 squares = 0.0f;
    for (int i = 4 * item; i < end; i += 4 * ITEMS) {
        const float4 v = LOAD4(ACT, x, from + i);
        squares = mad(v, v, squares);
        if (!DOT) vstore4(scaled_at(x, norm, has_norm, from + i), 0, (__local float *)stage + i);
    }
#if DOT
    for (int r = item; 32 * r < end; r += ITEMS) {
        round_run(stage + r * RUN, x, norm, has_norm, from + 32 * r);
    }
#endif
    return sum4(squares);
}

// `sum`, and 32 weights times what is staged of them.
#if DOT
#define QUANTIZED(f)                                                                           \
    inline float run_##f(PLACE, int part, Stage v, float sum) {                                \
        float low, high, shift = 0.0f;                                                         \
        const uint8 codes = codes_##f(HERE, part, &low, &high, &shift);                        \
        return rounded_product(codes, low, high, shift, SHIFTED_##f, v, sum);                  \
    }
#else
#define QUANTIZED(f)                                                                           \
    inline float run_##f(PLACE, int part, Stage v, float sum) {                                \
        float low, high, shift = 0.0f;                                                         \
        const uint8 codes = codes_##f(HERE, part, &low, &high, &shift);                        \
        const float16 a = convert_float16(as_char16(codes.lo)) * vload16(0, v);                \
        const float16 b = convert_float16(as_char16(codes.hi)) * vload16(1, v);                \
        const float both = mad(low, sum16(a), high * sum16(b));                                \
        if (SHIFTED_##f) sum = mad(shift, sum16(vload16(0, v) + vload16(1, v)), sum);          \
        return both + sum;                                                                     \
    }
#define PLAIN(kind)                                                                            \
    inline float run_##kind(PLACE, int part, Stage v, float sum) {                             \
        for (int j = 0; j < 8; j++) sum += dot(plain_##kind(HERE, j), vload4(j, v));           \
        return sum;                                                                            \
    }
PLAIN(float)
PLAIN(half)
PLAIN(bfloat)
#endif
QUANTIZED(q4_0)
QUANTIZED(q4_1)
QUANTIZED(q8_0)
QUANTIZED(q4_k)
QUANTIZED(q6_k)

// Two rows of one format: this slice's share of both products with the chunk from column `from`.
#define PLACE_OF(row)                                                                          \
    Words units_##row, Bytes extras_##row PICTURE_OF(image_##row), const int lane_##row,       \
        const size_t block_##row
#ifdef IMAGE
#define THERE(row, b) units_##row, extras_##row, image_##row, image_##row##_at, lane_##row, b
#else
#define THERE(row, b) units_##row, extras_##row, lane_##row, b
#endif

#define PAIR(n)                                                                                \
    inline float2 pair_##n(PLACE_OF(a), PLACE_OF(b), int from, int columns, Stage stage, float2 y) { \
        const int per = JOIN(BLOCK_, FORMAT_##n) / 32, runs = min(CHUNK, columns - from) / 32; \
        for (int g = SLICE; g < runs; g += SPLIT) {                                            \
            const size_t block = (from / 32 + g) / per;                                        \
            Stage v = stage + g * RUN;                                                         \
            y.x = JOIN(run_, FORMAT_##n)(THERE(a, block_a + block), g % per, v, y.x);          \
            y.y = JOIN(run_, FORMAT_##n)(THERE(b, block_b + block), g % per, v, y.y);          \
        }                                                                                      \
        return y;                                                                              \
    }
PAIR(0)
#if FORMATS > 1
PAIR(1)
#endif
#if FORMATS > 2
PAIR(2)
#endif

// The sum over slices, for slice 0, normalized; the order is fixed.
inline float2 finished(
    float2 y, float squares, int columns, int has_norm, float eps, __local float4 *scratch
) {
    scratch[SLICE * LANES + LANE] = (float4)(y, squares, 0.0f);
    barrier(CLK_LOCAL_MEM_FENCE);
    float4 total = 0.0f;
    if (SLICE == 0) {
        for (int s = 0; s < SPLIT; s++) total += scratch[s * LANES + LANE];
        scratch[LANE] = total;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    if (!has_norm) return total.xy;
    float square = 0.0f;
    for (int i = 0; i < LANES; i++) square += scratch[i].z;
    return total.xy * (1.0f / sqrt(square / columns + eps));
}

// `products` with each chunk of the columns of x; it may use the first column, `from`.
#define FOR_CHUNKS(products)                                                                   \
    for (int from = 0; from < columns; from += CHUNK) {                                        \
        barrier(CLK_LOCAL_MEM_FENCE);                                                          \
        squares += stage_chunk(stage, x, norm, has_norm, from, columns);                       \
        barrier(CLK_LOCAL_MEM_FENCE);                                                          \
        products                                                                               \
    }
