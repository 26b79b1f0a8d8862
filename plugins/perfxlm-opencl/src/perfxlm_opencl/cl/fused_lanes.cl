// Composite operators for a step of one token, weights in tiles: linear layers with what stands around
// them in one launch. A work-item has a pair of rows whose results are needed together.
#include "activations.cl"
#include "staged.cl"

#define KERNEL __kernel AS_SUBGROUPS __attribute__((reqd_work_group_size(LANES, SPLIT, 1)))
#define WEIGHT(name) IN(int, name) PICTURE_OF(name##_image), const int name##_extra
#define PLACE_WEIGHT(name)                                                                     \
    Words name = (Words)name##_base + name##_at;                                               \
    Bytes name##_extras = (Bytes)(name + 4 * (size_t)name##_extra)
#ifdef IMAGE
#define WHOLE(name) name, name##_extras, name##_image, name##_image_at
#else
#define WHOLE(name) name, name##_extras
#endif
#define BLOCKS(n) (columns / JOIN(BLOCK_, JOIN(FORMAT_, n)))
#define ROW_OF(name, n, row) WHOLE(name), (row) % LANES, (size_t)((row) / LANES) * BLOCKS(n)

#ifdef LINEAR
// Rows of two neighbouring tiles; the last one twice where their number is odd.
KERNEL void linear_staged(
    OUT(RESULT, out), IN(ACT, x), WEIGHT(weight), IN(OTHER, bias), IN(OTHER, residual), const int tokens,
    const int rows, const int columns, const int first, const int width, const int has_bias,
    const int has_residual
) {
    PLACE_OUT(RESULT, out) + first;
    PLACE_IN(ACT, x);
    PLACE_WEIGHT(weight);
    PLACE_IN(OTHER, bias) + first;
    PLACE_IN(OTHER, residual) + first;
    SCRATCH;
    __global const STORED(ACT) *norm = x;
    const int has_norm = 0, begin = get_group_id(0) * 2 * LANES + LANE;
    const int filled = (rows + LANES - 1) / LANES * LANES;
    const int one = begin, two = min(begin + LANES, filled - LANES + (int)LANE);
    float squares = 0.0f;
    float2 y = 0.0f;
    FOR_CHUNKS({
        y = pair_0(ROW_OF(weight, 0, one), ROW_OF(weight, 0, two), from, columns, stage, y);
    })
    y = finished(y, squares, columns, has_norm, 0.0f, scratch);
    if (SLICE != 0) return;
    if (one < rows) {
        float v = y.x + (has_bias ? LOAD(OTHER, bias, one) : 0.0f);
        if (has_residual) v += LOAD(OTHER, residual, one);
        STORE(RESULT, out, one, v);
    }
    if (two != one && two < rows) {
        float v = y.y + (has_bias ? LOAD(OTHER, bias, two) : 0.0f);
        if (has_residual) v += LOAD(OTHER, residual, two);
        STORE(RESULT, out, two, v);
    }
}
#endif

#ifdef GATED_LINEAR
// Gate and up have one format: a pair is row o of each.
KERNEL void gated_lanes(
    OUT(ACT, out), IN(ACT, x), WEIGHT(gate), WEIGHT(up), IN(ACT, norm), IN(ACT, gate_bias),
    IN(ACT, up_bias), const int rows, const int columns, const int has_norm, const int has_gate_bias,
    const int has_up_bias, const int gate_kind, const float eps
) {
    PLACE_OUT(ACT, out);
    PLACE_IN(ACT, x);
    PLACE_WEIGHT(gate);
    PLACE_WEIGHT(up);
    PLACE_IN(ACT, norm);
    PLACE_IN(ACT, gate_bias);
    PLACE_IN(ACT, up_bias);
    SCRATCH;
    const int o = get_group_id(0) * LANES + LANE;
    float squares = 0.0f;
    float2 y = 0.0f;
    FOR_CHUNKS({ y = pair_0(ROW_OF(gate, 0, o), ROW_OF(up, 0, o), from, columns, stage, y); })
    y = finished(y, squares, columns, has_norm, eps, scratch);
    if (SLICE != 0 || o >= rows) return;
    if (has_gate_bias) y.x += LOAD(ACT, gate_bias, o);
    if (has_up_bias) y.y += LOAD(ACT, up_bias, o);
    STORE(ACT, out, o, activated(gate_kind, y.x) * y.y);
}
#endif

#ifdef QKV
#define GROUP_AXIS 0
#define UNIT_LANE LANE
#define UNITS_AT_ONCE LANES
#define IS_OWNER (SLICE == 0)
#define SYNC barrier(CLK_LOCAL_MEM_FENCE)
#define START_SUMS                                                                             \
    float squares = 0.0f;                                                                      \
    float2 sums = 0.0f
#define EACH_CHUNK FOR_CHUNKS
#define PRODUCTS(name, n, one, two)                                                            \
    JOIN(pair_, n)(ROW_OF(name, n, one), ROW_OF(name, n, two), from, columns, stage, sums)
#if FORMATS == 1 && !defined(IMAGE)
#define ADD_PRODUCTS                                                                           \
    sums = pair_0(                                                                             \
        is_value ? v_weight : is_key ? k_weight : q_weight,                                    \
        is_value ? v_weight_extras : is_key ? k_weight_extras : q_weight_extras, one % LANES,  \
        (size_t)(one / LANES) * BLOCKS(0),                                                     \
        is_value ? v_weight : is_key ? k_weight : q_weight,                                    \
        is_value ? v_weight_extras : is_key ? k_weight_extras : q_weight_extras, two % LANES,  \
        (size_t)(two / LANES) * BLOCKS(0), from, columns, stage, sums                          \
    )
#endif
#define FINISHED finished(sums, squares, columns, has_norm, eps, scratch)
#include "qkv.cl"
#endif
