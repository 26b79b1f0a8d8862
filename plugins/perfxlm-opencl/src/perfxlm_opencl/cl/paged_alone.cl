// Attention for processors: a work-item has a whole tile, and no barriers.
//
// Keys and values are copied KEYS at a time to memory of its own, as floats, and stay in the cache
// closest to the core while all rows of the tile use them. Rows of up to DIM floats are kept at a
// length that vectors divide, filled up with zeros. What is computed for a row does not depend on
// the other rows of the tile.
#include "pages.cl"
#include "softmax.cl"

#define WHOLE(n) (((n) + 15) / 16 * 16)
#define COLUMNS (PIECE + 16)  // scores are written four at a time

inline float max16(float16 v) {
    const float8 a = fmax(v.lo, v.hi);
    const float4 b = fmax(a.lo, a.hi);
    return fmax(fmax(b.x, b.y), fmax(b.z, b.w));
}

// The sums of four vectors, each in the order of sum16.
inline float4 sums16(float16 a, float16 b, float16 c, float16 d) {
    const float8 e = a.lo + a.hi, f = b.lo + b.hi, g = c.lo + c.hi, h = d.lo + d.hi;
    const float4 i = e.lo + e.hi, j = f.lo + f.hi, k = g.lo + g.hi, l = h.lo + h.hi;
    return ((float4)(i.x, j.x, k.x, l.x) + (float4)(i.y, j.y, k.y, l.y))
        + ((float4)(i.z, j.z, k.z, l.z) + (float4)(i.w, j.w, k.w, l.w));
}

// Copies keys or values, as floats.
#define COPY(kind, to, from, size)                                                  \
    {                                                                               \
        int at = 0;                                                                 \
        for (; at + 16 <= (size); at += 16) {                                       \
            vstore16(LOAD16(kind, from, at), 0, (to) + at);                         \
        }                                                                           \
        if (at < (size)) {                                                          \
            vstore16(0.0f, 0, (to) + at);                                           \
            for (; at < (size); at++) (to)[at] = LOAD(kind, from, at);              \
        }                                                                           \
    }

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void paged_attention(
    OUT(ACT, out), OUT(float, partials), IN(ACT, q), IN(CACHE, k_cache), IN(CACHE, v_cache),
    IN(int, block_tables), IN(int, seq_lens), IN(int, query_starts), IN(ACT, sinks),
    const int seqs, const int max_blocks, const int heads, const int kv_heads,
    const int block_size, const int size, const int v_size, const int window, const float scale,
    const float cap, const int has_sinks, const int pieces, const int apart
) {
    PLACE_OUT(ACT, out);
    PLACE_OUT(float, partials);
    PLACE_IN(ACT, q);
    PLACE_IN(CACHE, k_cache);
    PLACE_IN(CACHE, v_cache);
    PLACE_IN(int, block_tables);
    PLACE_IN(int, seq_lens);
    PLACE_IN(int, query_starts);
    PLACE_IN(ACT, sinks);
    float query[ROWS * DIM], score[ROWS * COLUMNS], sums[ROWS * DIM], all[ROWS * DIM];
    float copy[KEYS * DIM], top[ROWS], total[ROWS], all_top[ROWS], all_total[ROWS];
    const int kv_head = get_group_id(0);
    const Tile tile = tile_of(get_group_id(1), query_starts, seq_lens, seqs, heads / kv_heads);
    if (tile.rows <= 0) return;
    __global const int *blocks = block_tables + (size_t)tile.sequence * max_blocks;
    const int rows = tile.rows, wide = WHOLE(size), v_wide = WHOLE(v_size);
    const int begin = first_key(last_key(tile, 0), window), end = last_key(tile, rows - 1) + 1;
    int first = begin / PIECE, behind = (end - 1) / PIECE + 1;
    if (apart) {
        const int mine = get_group_id(2);
        if (mine < first || mine >= behind) return;
        first = mine;
        behind = mine + 1;
    }
    for (int r = 0; r < rows; r++) {
        __global const STORED(ACT) *from = q + place_of(tile, r, kv_head, heads) * size;
        COPY(ACT, query + r * wide, from, size);
        all_top[r] = -INFINITY;
        all_total[r] = 0.0f;
        for (int i = 0; i < v_wide; i += 16) vstore16(0.0f, 0, all + r * v_wide + i);
    }
    for (int piece = first; piece < behind; piece++) {
        const int base = piece * PIECE, from = max(begin, base), to = min(end, base + PIECE);
        for (int key = from; key < to; key += KEYS) {
            const int keys = min(KEYS, to - key);
            for (int j = 0; j < keys; j++) {
                const size_t slot = slot_of(blocks, key + j, block_size);
                __global const STORED(CACHE) *k = k_cache + (slot * kv_heads + kv_head) * size;
                COPY(CACHE, copy + j * wide, k, size);
            }
            for (int r = 0; r < rows; r++) {
                for (int j = 0; j < keys; j += 4) {
                    const float *k = copy + j * wide;
                    float16 a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f;
                    for (int i = 0; i < wide; i += 16) {
                        const float16 part = vload16(0, query + r * wide + i);
                        a = mad(part, vload16(0, k + i), a);
                        b = mad(part, vload16(0, k + wide + i), b);
                        c = mad(part, vload16(0, k + 2 * wide + i), c);
                        d = mad(part, vload16(0, k + 3 * wide + i), d);
                    }
                    float4 some = scale * sums16(a, b, c, d);
                    if (cap > 0.0f) some = cap * tanh(some / cap);
                    vstore4(some, 0, score + r * COLUMNS + key - base + j);
                }
            }
        }
        const int columns = WHOLE(to - base);
        for (int r = 0; r < rows; r++) {
            float *mine = score + r * COLUMNS;
            const int last = last_key(tile, r);
            const int low = first_key(last, window) - base, high = last + 1 - base;
            for (int j = 0; j < min(low, columns); j++) mine[j] = -INFINITY;
            for (int j = max(high, 0); j < columns; j++) mine[j] = -INFINITY;
            float16 most = -INFINITY, sum = 0.0f;
            for (int j = 0; j < columns; j += 16) most = fmax(most, vload16(0, mine + j));
            top[r] = max16(most);
            const float16 less = known(top[r]);
            for (int j = 0; j < columns; j += 16) {
                const float16 weights = exp(vload16(0, mine + j) - less);
                vstore16(weights, 0, mine + j);
                sum += weights;
            }
            total[r] = sum16(sum);
            for (int i = 0; i < v_wide; i += 16) vstore16(0.0f, 0, sums + r * v_wide + i);
        }
        for (int key = from; key < to; key += KEYS) {
            const int keys = min(KEYS, to - key);
            for (int j = 0; j < keys; j++) {
                const size_t slot = slot_of(blocks, key + j, block_size);
                __global const STORED(CACHE) *v = v_cache + (slot * kv_heads + kv_head) * v_size;
                COPY(CACHE, copy + j * v_wide, v, v_size);
            }
            for (int r = 0; r < rows; r++) {
                const int last = last_key(tile, r);
                const int low = max(0, first_key(last, window) - key);
                const int high = min(keys, last + 1 - key);
                const float *weights = score + r * COLUMNS + key - base;
                int e = 0;
                for (; e + 64 <= v_wide; e += 64) {
                    float *sum = sums + r * v_wide + e;
                    float16 a = vload16(0, sum), b = vload16(1, sum);
                    float16 c = vload16(2, sum), d = vload16(3, sum);
                    for (int j = low; j < high; j++) {
                        const float *v = copy + j * v_wide + e;
                        const float16 weight = weights[j];
                        a = mad(weight, vload16(0, v), a);
                        b = mad(weight, vload16(1, v), b);
                        c = mad(weight, vload16(2, v), c);
                        d = mad(weight, vload16(3, v), d);
                    }
                    vstore16(a, 0, sum);
                    vstore16(b, 1, sum);
                    vstore16(c, 2, sum);
                    vstore16(d, 3, sum);
                }
                for (; e < v_wide; e += 16) {
                    float *sum = sums + r * v_wide + e;
                    float16 a = vload16(0, sum);
                    for (int j = low; j < high; j++) {
                        const float16 weight = weights[j];
                        a = mad(weight, vload16(0, copy + j * v_wide + e), a);
                    }
                    vstore16(a, 0, sum);
                }
            }
        }
        if (apart) {
            for (int r = 0; r < rows; r++) {
                const size_t place = place_of(tile, r, kv_head, heads) * pieces + piece;
                __global float *result = partials + place * (v_size + 2);
                for (int i = 0; i < v_size; i++) result[i] = sums[r * v_wide + i];
                result[v_size] = top[r];
                result[v_size + 1] = total[r];
            }
            return;
        }
        for (int r = 0; r < rows; r++) {
            const float highest = fmax(all_top[r], top[r]);
            const float a = shrink(all_top[r], highest), b = shrink(top[r], highest);
            all_top[r] = highest;
            all_total[r] = all_total[r] * a + total[r] * b;
            for (int i = r * v_wide; i < (r + 1) * v_wide; i += 16) {
                vstore16(vload16(0, all + i) * a + vload16(0, sums + i) * b, 0, all + i);
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        const size_t place = place_of(tile, r, kv_head, heads);
        float sum = all_total[r], less = 1.0f;
        if (has_sinks) {
            const float sink = LOAD(ACT, sinks, place % heads), highest = fmax(all_top[r], sink);
            less = shrink(all_top[r], highest);
            sum = sum * less + exp(sink - highest);
        }
        __global STORED(ACT) *result = out + place * v_size;
        const float *mine = all + r * v_wide;
        int i = 0;
        for (; i + 16 <= v_size; i += 16) {
            STORE16(ACT, result, i, vload16(0, mine + i) * less / sum);
        }
        for (; i < v_size; i++) STORE(ACT, result, i, mine[i] * less / sum);
    }
}
