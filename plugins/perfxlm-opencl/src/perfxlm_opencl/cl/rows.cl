// One work-group for each row of `n` elements, LOCAL work-items: normalizations.
#include "storage.cl"
#include "groups.cl"

#define SCRATCH __local float scratch[LOCAL]
#define FOR_VECTORS(i, n) for (int i = get_local_id(0) * 16; i + 16 <= (n); i += LOCAL * 16)
#define FOR_REST(i, n) for (int i = ((n) & ~15) + get_local_id(0); i < (n); i += LOCAL)

__kernel void rms_norm(
    OUT(RESULT, out), IN(ACT, x), IN(OTHER, weight), const int n, const float eps
) {
    PLACE_OUT(RESULT, out) + get_group_id(0) * (size_t)n;
    PLACE_IN(ACT, x) + get_group_id(0) * (size_t)n;
    PLACE_IN(OTHER, weight);
    SCRATCH;
    float16 squares = 0.0f;
    float rest = 0.0f;
    FOR_VECTORS(i, n) {
        const float16 v = LOAD16(ACT, x, i);
        squares += v * v;
    }
    FOR_REST(i, n) {
        const float v = LOAD(ACT, x, i);
        rest += v * v;
    }
    const float total = group_sum(sum16(squares) + rest, scratch);
    const float scale = 1.0f / sqrt(total / n + eps);
    FOR_VECTORS(i, n) {
        STORE16(RESULT, out, i, LOAD16(ACT, x, i) * scale * LOAD16(OTHER, weight, i));
    }
    FOR_REST(i, n) STORE(RESULT, out, i, LOAD(ACT, x, i) * scale * LOAD(OTHER, weight, i));
}

__kernel void layer_norm(
    OUT(ACT, out), IN(ACT, x), IN(ACT, weight), IN(ACT, bias), const int n, const float eps,
    const int has_bias
) {
    PLACE_OUT(ACT, out) + get_group_id(0) * (size_t)n;
    PLACE_IN(ACT, x) + get_group_id(0) * (size_t)n;
    PLACE_IN(ACT, weight);
    PLACE_IN(ACT, bias);
    SCRATCH;
    float sum = 0.0f, squares = 0.0f;
    for (int i = get_local_id(0); i < n; i += LOCAL) sum += LOAD(ACT, x, i);
    const float mean = group_sum(sum, scratch) / n;
    for (int i = get_local_id(0); i < n; i += LOCAL) {
        const float centred = LOAD(ACT, x, i) - mean;
        squares += centred * centred;
    }
    const float scale = 1.0f / sqrt(group_sum(squares, scratch) / n + eps);
    for (int i = get_local_id(0); i < n; i += LOCAL) {
        const float shift = has_bias ? LOAD(ACT, bias, i) : 0.0f;
        STORE(ACT, out, i, (LOAD(ACT, x, i) - mean) * scale * LOAD(ACT, weight, i) + shift);
    }
}
