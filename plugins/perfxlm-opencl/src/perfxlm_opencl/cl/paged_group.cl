// Attention for graphics processors: a work-group of LOCAL work-items has a tile.
//
// Vectors go across the rows of a tile. A work-item multiplies a key with all queries, which lie in
// local memory, one vector for each element; then PARTS of the keys of each row become weights;
// then a work-item has value elements of its own, and adds them up for all rows. Keys and values
// are read from global memory once, where they are needed.
#include "pages.cl"
#include "softmax.cl"

#define VECTOR JOIN(float, ROWS)
#define READ(p) JOIN(vload, ROWS)(0, p)
#define WRITE(v, p) JOIN(vstore, ROWS)(v, 0, p)
#define WIDE ((DIM + LOCAL - 1) / LOCAL)
#define SYNC barrier(CLK_LOCAL_MEM_FENCE)
// Loops that are not worth unrolling: that takes some compilers seconds.
#define AS_WRITTEN _Pragma("nounroll")

// A row's sums of four parts. Some compilers add up a loop's terms in an order of their own.
#define SUM4(p) ((PART(p) + PART(p + 1)) + (PART(p + 2) + PART(p + 3)))
#if PARTS != 16
#error "the sum of a row has 16 parts"
#endif
#define PART(p) part[(p) * ROWS + r]

// A key's product with each query, which are [size, ROWS].
inline VECTOR products(__global const STORED(CACHE) *k, __local const float *query, int size) {
    VECTOR dot = 0.0f;
    int i = 0;
    AS_WRITTEN for (; i + 4 <= size; i += 4, query += 4 * ROWS) {
        const float4 part = LOAD4(CACHE, k, i);
        dot = MULTIPLY_ADD((VECTOR)part.x, READ(query), dot);
        dot = MULTIPLY_ADD((VECTOR)part.y, READ(query + ROWS), dot);
        dot = MULTIPLY_ADD((VECTOR)part.z, READ(query + 2 * ROWS), dot);
        dot = MULTIPLY_ADD((VECTOR)part.w, READ(query + 3 * ROWS), dot);
    }
    AS_WRITTEN for (; i < size; i++, query += ROWS) {
        dot = MULTIPLY_ADD((VECTOR)LOAD(CACHE, k, i), READ(query), dot);
    }
    return dot;
}

__kernel __attribute__((reqd_work_group_size(LOCAL, 1, 1))) void paged_attention(
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
    __local float query[DIM * ROWS], score[PIECE * ROWS];
    __local float most[PARTS * ROWS], part[PARTS * ROWS];
    __local float top[ROWS], total[ROWS], kept[ROWS], added[ROWS];
    const int kv_head = get_group_id(0), item = get_local_id(0);
    const Tile tile = tile_of(get_group_id(1), query_starts, seq_lens, seqs, heads / kv_heads);
    __global const int *blocks = block_tables + (size_t)tile.sequence * max_blocks;
    // A group without rows or keys goes on with none: some compilers copy all that comes behind a
    // barrier that may not be reached.
    const int begin = first_key(last_key(tile, 0), window);
    const int end = last_key(tile, tile.rows - 1) + 1, mine = get_group_id(2);
    const bool seen = tile.rows > 0 && (!apart || (mine >= begin / PIECE && mine * PIECE < end));
    const int first = apart ? mine : begin / PIECE, rows = seen ? tile.rows : 0;
    const int behind = !seen ? first : apart ? mine + 1 : (end - 1) / PIECE + 1;
    AS_WRITTEN for (int i = item; i < ROWS * size; i += LOCAL) {
        const int r = i / size, at = i % size;
        const size_t from = r < rows ? place_of(tile, r, kv_head, heads) * size + at : 0;
        query[at * ROWS + r] = r < rows ? LOAD(ACT, q, from) : 0.0f;
    }
    AS_WRITTEN for (int r = item; r < ROWS; r += LOCAL) {
        top[r] = -INFINITY;
        total[r] = 0.0f;
    }
    SYNC;
    VECTOR all[WIDE];
    for (int w = 0; w < WIDE; w++) all[w] = 0.0f;
    int piece = first;
    do {
        const int base = piece * PIECE, low = max(begin, base) - base;
        const int high = seen ? min(end - base, PIECE) : 0;
        AS_WRITTEN for (int j = low + item; j < high; j += LOCAL) {
            const size_t slot = slot_of(blocks, base + j, block_size);
            __global const STORED(CACHE) *k = k_cache + (slot * kv_heads + kv_head) * size;
            WRITE(scale * products(k, query, size), score + j * ROWS);
        }
        SYNC;
        AS_WRITTEN for (int x = item; x < PARTS * ROWS; x += LOCAL) {
            const int r = x % ROWS, last = last_key(tile, min(r, rows - 1));
            const int from = first_key(last, window) - base, to = last + 1 - base;
            float highest = -INFINITY;
            AS_WRITTEN for (int j = x / ROWS; j < PIECE; j += PARTS) {
                float one = j >= from && j < to ? score[j * ROWS + r] : -INFINITY;
                if (cap > 0.0f && j >= from && j < to) one = cap * tanh(one / cap);
                score[j * ROWS + r] = one;
                highest = fmax(highest, one);
            }
            most[x] = highest;
        }
        SYNC;
        AS_WRITTEN for (int x = item; x < PARTS * ROWS; x += LOCAL) {
            const int r = x % ROWS, p = x / ROWS;
            float highest = -INFINITY, sum = 0.0f;
            AS_WRITTEN for (int i = r; i < PARTS * ROWS; i += ROWS) highest = fmax(highest, most[i]);
            const float less = known(highest);
            AS_WRITTEN for (int j = p; j < PIECE; j += PARTS) {
                const float weight = exp(score[j * ROWS + r] - less);
                score[j * ROWS + r] = weight;
                sum += weight;
            }
            part[x] = sum;
            if (p == 0) {
                const float before = top[r];
                top[r] = fmax(before, highest);
                kept[r] = shrink(before, top[r]);
                added[r] = shrink(highest, top[r]);
            }
        }
        SYNC;
        AS_WRITTEN for (int r = item; r < ROWS; r += LOCAL) {
            const float sum = (SUM4(0) + SUM4(4)) + (SUM4(8) + SUM4(12));
            total[r] = total[r] * kept[r] + sum * added[r];
        }
        for (int w = 0; w < WIDE; w++) {
            const int e = item + w * LOCAL;
            if (e >= v_size) break;
            VECTOR sums = 0.0f;
            for (int j = low; j < high; j++) {
                const size_t slot = slot_of(blocks, base + j, block_size);
                const float v = LOAD(CACHE, v_cache, (slot * kv_heads + kv_head) * v_size + e);
                sums = MULTIPLY_ADD((VECTOR)v, READ(score + j * ROWS), sums);
            }
            all[w] = all[w] * READ(kept) + sums * READ(added);
        }
        SYNC;
    } while (++piece < behind);
    AS_WRITTEN for (int r = item; r < ROWS; r += LOCAL) {
        kept[r] = 1.0f;
        if (has_sinks && !apart) {
            const int head = kv_head * tile.group + (tile.first + r) % tile.group;
            const float sink = LOAD(ACT, sinks, head), highest = fmax(top[r], sink);
            kept[r] = shrink(top[r], highest);
            total[r] = total[r] * kept[r] + exp(sink - highest);
        }
    }
    SYNC;
    AS_WRITTEN for (int w = 0; w < WIDE; w++) {
        const int e = item + w * LOCAL;
        if (e >= v_size) break;
        float mine[ROWS];
        WRITE(all[w], mine);
        AS_WRITTEN for (int r = 0; r < rows; r++) {
            const size_t place = place_of(tile, r, kv_head, heads);
            if (apart) {
                __global float *result = partials + (place * pieces + first) * (v_size + 2);
                result[e] = mine[r];
                if (e == 0) result[v_size] = top[r];
                if (e == 0) result[v_size + 1] = total[r];
            } else {
                STORE(ACT, out, place * v_size + e, mine[r] * kept[r] / total[r]);
            }
        }
    }
}
