// Queries, keys and values of a token: products, norms of heads, rotation, the writing of the cache.
// How weights are read is in fused.cl for rows as they lie in their file, in fused_lanes.cl for tiles.
//
// `parts` work-groups for each head: of queries, then of keys, then of values. A unit of queries and
// keys is a pair that is turned, or an element that passes; one of values is a pair out of both
// halves. UNITS_AT_ONCE units are computed side by side; the owner of a unit finishes it.
#define HAS(bit) (has >> (bit) & 1)
#define Q_BIAS 0
#define K_BIAS 1
#define V_BIAS 2
#define Q_NORM 3
#define K_NORM 4

#ifndef ADD_PRODUCTS
#define ADD_PRODUCTS                                                                           \
    if (is_value) sums = PRODUCTS(v_weight, V_FORMAT, one, two);                               \
    else if (is_key) sums = PRODUCTS(k_weight, K_FORMAT, one, two);                            \
    else sums = PRODUCTS(q_weight, Q_FORMAT, one, two)
#endif

inline float2 biased(float2 y, __global const STORED(ACT) *bias, int has, int a, int b) {
    return has ? y + (float2)(LOAD(ACT, bias, a), LOAD(ACT, bias, b)) : y;
}

// Element of a head that is the first or the second of a unit of queries and keys; the same one
// twice where a unit is one element.
inline int place(int unit, int second, int angles, int interleaved) {
    if (unit >= angles) return angles + unit;
    return interleaved ? 2 * unit + second : unit + second * angles;
}

inline float2 turned(
    float2 y, int unit, int angles, __global const float *cosines, __global const float *sines
) {
    if (unit >= angles) return y;
    const float c = cosines[unit], s = sines[unit];
    return (float2)(y.x * c - y.y * s, y.y * c + y.x * s);
}

// The kind of a cache is known when the kernel runs: 0 float, 1 half, 2 bfloat.
inline void store_cached(__global uchar *to, int kind, size_t i, float v) {
    if (kind == 0) store_float((__global float *)to + i, v);
    else if (kind == 1) store_half((__global half *)to + i, v);
    else store_bfloat((__global ushort *)to + i, v);
}

KERNEL void qkv_rotary_store(
    OUT(ACT, q), IN(ACT, x), WEIGHT(q_weight), WEIGHT(k_weight), WEIGHT(v_weight),
    IN(float, cosines), IN(float, sines), OUT(byte, k_cache), OUT(byte, v_cache),
    IN(int, slots), IN(ACT, norm), IN(ACT, q_bias), IN(ACT, k_bias), IN(ACT, v_bias),
    IN(ACT, q_norm), IN(ACT, k_norm), const int heads, const int kv_heads, const int head_dim,
    const int v_head_dim, const int angles, const int columns, const int parts, const int has,
    const int has_norm, const int cache_kind, const int interleaved, const float eps,
    const float head_eps
) {
    const int t = get_global_id(2), group = get_group_id(GROUP_AXIS);
    PLACE_OUT(ACT, q) + (size_t)t * heads * head_dim;
    PLACE_IN(ACT, x) + (size_t)t * columns;
    PLACE_WEIGHT(q_weight);
    PLACE_WEIGHT(k_weight);
    PLACE_WEIGHT(v_weight);
    PLACE_IN(float, cosines) + (size_t)t * angles;
    PLACE_IN(float, sines) + (size_t)t * angles;
    PLACE_OUT(byte, k_cache);
    PLACE_OUT(byte, v_cache);
    PLACE_IN(int, slots);
    PLACE_IN(ACT, norm);
    PLACE_IN(ACT, q_bias);
    PLACE_IN(ACT, k_bias);
    PLACE_IN(ACT, v_bias);
    PLACE_IN(ACT, q_norm);
    PLACE_IN(ACT, k_norm);
    SCRATCH;
    const int slot = slots[t], width = head_dim - angles;
#if HEAD_NORM
    __local float2 values[WIDTH];
    __local float head_squares[UNITS_AT_ONCE];
    float sum = 0.0f;
#endif
    const int begin = group % parts * UNITS_AT_ONCE, head = group / parts;
    const bool is_value = head >= heads + kv_heads, is_key = !is_value && head >= heads;
    const int v_half = (v_head_dim + 1) / 2, units = is_value ? v_half : width;
    const int base = is_value ? (head - heads - kv_heads) * v_head_dim
                              : (is_key ? head - heads : head) * head_dim;
    const size_t row = (size_t)max(slot, 0) * kv_heads;  // of the caches
    // No barrier stands in a branch, or behind a return: runtimes differ in what they make of that.
    for (int first = begin; first < units; first += UNITS_AT_ONCE * parts) {
        const int unit = first + UNIT_LANE, u = min(unit, units - 1);
        const int one = base + (is_value ? u : place(u, 0, angles, interleaved));
        const int two = base
            + (is_value ? min(u + v_half, v_head_dim - 1) : place(u, 1, angles, interleaved));
        START_SUMS;
        EACH_CHUNK(ADD_PRODUCTS;)
        float2 y = FINISHED;
        if (!IS_OWNER || unit >= units) continue;
        if (is_value) {
            if (slot < 0) continue;
            y = biased(y, v_bias, HAS(V_BIAS), one, two);
            store_cached(v_cache, cache_kind, row * v_head_dim + one, y.x);
            if (u + v_half >= v_head_dim) continue;
            store_cached(v_cache, cache_kind, row * v_head_dim + two, y.y);
            continue;
        }
        y = is_key ? biased(y, k_bias, HAS(K_BIAS), one, two)
                   : biased(y, q_bias, HAS(Q_BIAS), one, two);
#if HEAD_NORM
        values[unit] = y;
        sum += unit < angles ? y.x * y.x + y.y * y.y : y.x * y.x;
    }
    if (IS_OWNER) head_squares[UNIT_LANE] = sum;
    SYNC;
    float total = 0.0f;
    for (int i = 0; i < UNITS_AT_ONCE; i++) total += head_squares[i];
    const float scale = 1.0f / sqrt(total / head_dim + head_eps);
    if (!IS_OWNER || is_value) return;
    for (int unit = begin + UNIT_LANE; unit < width; unit += UNITS_AT_ONCE * parts) {
        const int first = place(unit, 0, angles, interleaved);
        const int second = place(unit, 1, angles, interleaved);
        const int one = base + first, two = base + second;
        float2 y = values[unit];
        if (is_key && HAS(K_NORM)) {
            y *= scale * (float2)(LOAD(ACT, k_norm, first), LOAD(ACT, k_norm, second));
        } else if (!is_key && HAS(Q_NORM)) {
            y *= scale * (float2)(LOAD(ACT, q_norm, first), LOAD(ACT, q_norm, second));
        }
#endif
        y = turned(y, unit, angles, cosines, sines);
        if (!is_key) {
            STORE(ACT, q, one, y.x);
            if (unit < angles) STORE(ACT, q, two, y.y);
        } else if (slot >= 0) {
            store_cached(k_cache, cache_kind, row * head_dim + one, y.x);
            if (unit >= angles) continue;
            store_cached(k_cache, cache_kind, row * head_dim + two, y.y);
        }
    }
}
