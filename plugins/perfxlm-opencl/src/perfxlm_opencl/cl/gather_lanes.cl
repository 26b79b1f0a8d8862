// Rows of a table in tiles of LANES rows. One work-item for 32 numbers of a row. The table given is
// rows `first` and following; tokens of other rows are another launch's.
#include "lanes.cl"

__kernel void embedding_lanes(
    OUT(ACT, out), IN(int, token_ids), IN(int, table), const int extra_units,
    const int tokens, const int rows, const int columns, const int first
) {
    PLACE_OUT(ACT, out);
    PLACE_IN(int, token_ids);
    Words units = (Words)table_base + table_at;
    Bytes extras = (Bytes)(units + 4 * (size_t)extra_units);
    const int g = get_global_id(0), t = get_global_id(1);
    if (g * 32 >= columns || t >= tokens) return;
    const int row = token_ids[t] - first;
    if (row < 0 || row >= rows) return;
    const int lane = row % LANES;
    const size_t block = (size_t)(row / LANES) * (columns / BLOCK) + g / (BLOCK / 32);
    __global STORED(ACT) *to = out + (size_t)t * columns + 32 * g;
#ifdef PLAIN
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float4 v = plain_of(HERE, j);
        STORE(ACT, to, 4 * j, v.x);
        STORE(ACT, to, 4 * j + 1, v.y);
        STORE(ACT, to, 4 * j + 2, v.z);
        STORE(ACT, to, 4 * j + 3, v.w);
    }
#else
    float low, high, shift = 0.0f;
    const uint8 codes = codes_of(HERE, g % (BLOCK / 32), &low, &high, &shift);
    const char16 first_codes = as_char16(codes.lo), others = as_char16(codes.hi);
    STORE16(ACT, to, 0, convert_float16(first_codes) * low + shift);
    STORE16(ACT, to, 16, convert_float16(others) * high + shift);
#endif
}
