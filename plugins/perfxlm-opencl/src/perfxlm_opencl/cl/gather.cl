// Rows of tables.
#include "blocks.cl"

// One work-item for 32 numbers of a row, decoded; FORMAT is the table's, PLAIN its kind if it has
// one. The table given is rows `first` and following; tokens of other rows are another launch's.
#ifdef FORMAT
__kernel void embedding(
    OUT(ACT, out), IN(int, token_ids), IN(byte, table), const int row_bytes, const int tokens,
    const int rows, const int columns, const int first
) {
    PLACE_OUT(ACT, out);
    PLACE_IN(int, token_ids);
    PLACE_IN(byte, table);
    const int g = get_global_id(0), t = get_global_id(1);
    if (g * 32 >= columns || t >= tokens) return;
    const int wanted = token_ids[t] - first;
    if (wanted < 0 || wanted >= rows) return;
    Bytes row = table + (size_t)wanted * row_bytes;
    __global STORED(ACT) *to = out + (size_t)t * columns;
    if (32 * g + 32 <= columns) {
        float16 low, high;
        DECODE(row, g, &low, &high);
        STORE16(ACT, to, 32 * g, low);
        STORE16(ACT, to, 32 * g + 16, high);
        return;
    }
#ifdef PLAIN
    __global const STORED(PLAIN) *numbers = (__global const STORED(PLAIN) *)row;
    for (int i = 32 * g; i < columns; i++) STORE(ACT, to, i, LOAD(PLAIN, numbers, i));
#endif
}
#endif

// Rows of UNITs, whatever they hold.
#ifdef UNIT
__kernel void take_rows(
    __global UNIT *restrict out_base, const ulong out_at,
    __global const UNIT *restrict x_base, const ulong x_at,
    IN(int, wanted), const int rows, const int width
) {
    PLACE_IN(int, wanted);
    const int i = get_global_id(0), r = get_global_id(1);
    if (i >= width || r >= rows) return;
    (out_base + out_at)[(size_t)r * width + i] = (x_base + x_at)[(size_t)wanted[r] * width + i];
}
#endif
