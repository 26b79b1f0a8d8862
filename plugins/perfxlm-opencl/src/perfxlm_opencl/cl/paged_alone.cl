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

// Copies a row, as floats.
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

inline void copy_rows(
    float *to, __global const STORED(CACHE) *cache, __global const int *blocks, int key, int keys,
    int block_size, int kv_heads, int kv_head, int size
) {
    for (int j = 0; j < keys; j++) {
        const size_t row = slot_of(blocks, key + j, block_size) * kv_heads + kv_head;
        COPY(CACHE, to + j * WHOLE(size), cache + row * size, size);
    }
}

// Scores of a query and some keys, four at a time.
inline void multiply(
    float *score, const float *query, const float *k, int keys, int wide, float scale, float cap
) {
    for (int j = 0; j < keys; j += 4, k += 4 * wide) {
        float16 a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f;
        for (int i = 0; i < wide; i += 16) {
            const float16 part = vload16(0, query + i);
            a = MULTIPLY_ADD(part, vload16(0, k + i), a);
            b = MULTIPLY_ADD(part, vload16(0, k + wide + i), b);
            c = MULTIPLY_ADD(part, vload16(0, k + 2 * wide + i), c);
            d = MULTIPLY_ADD(part, vload16(0, k + 3 * wide + i), d);
        }
        float4 some = scale * sums16(a, b, c, d);
        if (cap > 0.0f) some = cap * tanh(some / cap);
        vstore4(some, 0, score + j);
    }
}

// Scores into weights, none for keys out of sight; gives the largest score.
inline float weigh(float *score, int seen, int unseen, int columns, float *total) {
    for (int j = 0; j < min(seen, columns); j++) score[j] = -INFINITY;
    for (int j = max(unseen, 0); j < columns; j++) score[j] = -INFINITY;
    float16 most = -INFINITY, sum = 0.0f;
    for (int j = 0; j < columns; j += 16) most = fmax(most, vload16(0, score + j));
    const float top = max16(most);
    const float16 less = known(top);
    for (int j = 0; j < columns; j += 16) {
        const float16 weights = exp(vload16(0, score + j) - less);
        vstore16(weights, 0, score + j);
        sum += weights;
    }
    *total = sum16(sum);
    return top;
}

// Adds up values from one key to another; 64 elements in registers while there are so many.
inline void add_values(
    float *sum, const float *weights, const float *values, int from, int to, int wide
) {
    int e = 0;
    for (; e + 64 <= wide; e += 64) {
        float16 a = vload16(0, sum + e), b = vload16(1, sum + e);
        float16 c = vload16(2, sum + e), d = vload16(3, sum + e);
        for (int j = from; j < to; j++) {
            const float *v = values + j * wide + e;
            const float16 weight = weights[j];
            a = MULTIPLY_ADD(weight, vload16(0, v), a);
            b = MULTIPLY_ADD(weight, vload16(1, v), b);
            c = MULTIPLY_ADD(weight, vload16(2, v), c);
            d = MULTIPLY_ADD(weight, vload16(3, v), d);
        }
        vstore16(a, 0, sum + e);
        vstore16(b, 1, sum + e);
        vstore16(c, 2, sum + e);
        vstore16(d, 3, sum + e);
    }
    for (; e < wide; e += 16) {
        float16 a = vload16(0, sum + e);
        for (int j = from; j < to; j++) {
            a = MULTIPLY_ADD((float16)weights[j], vload16(0, values + j * wide + e), a);
        }
        vstore16(a, 0, sum + e);
    }
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
            copy_rows(copy, k_cache, blocks, key, keys, block_size, kv_heads, kv_head, size);
            for (int r = 0; r < rows; r++) {
                float *mine = score + r * COLUMNS + key - base;
                multiply(mine, query + r * wide, copy, keys, wide, scale, cap);
            }
        }
        for (int r = 0; r < rows; r++) {
            const int last = last_key(tile, r), seen = first_key(last, window) - base;
            const int unseen = last + 1 - base, columns = WHOLE(to - base);
            top[r] = weigh(score + r * COLUMNS, seen, unseen, columns, total + r);
            for (int i = 0; i < v_wide; i += 16) vstore16(0.0f, 0, sums + r * v_wide + i);
        }
        for (int key = from; key < to; key += KEYS) {
            const int keys = min(KEYS, to - key);
            copy_rows(copy, v_cache, blocks, key, keys, block_size, kv_heads, kv_head, v_size);
            for (int r = 0; r < rows; r++) {
                const int last = last_key(tile, r), seen = max(0, first_key(last, window) - key);
                const float *weights = score + r * COLUMNS + key - base;
                add_values(
                    sums + r * v_wide, weights, copy, seen, min(keys, last + 1 - key), v_wide
                );
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
