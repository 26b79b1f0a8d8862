// Attention over the paged cache.
//
// The context is cut at every SPLIT-th position. Each piece has a softmax of its own, whose result
// (largest score, sum of weights, weighted sum of values) is merged with those of the pieces before
// it. Pieces may be computed one after the other by one work-group (SPLITS 0), or side by side and
// merged by `merge_splits` (SPLITS 1): the order, and so the result, is the same.
//
// A work-group of LOCAL work-items has one token and HEADS query heads that share a key head, so
// that each key and value is read once for all of them. It looks at KEYS keys at a time: scores
// side by side, then the running softmax, then values, each work-item for its own elements.
#include "storage.cl"

// Keys are read by one work-item each; or, where SUBGROUPS is their size, by a subgroup each, whose
// lanes read it side by side and add up.
#if SUBGROUPS
#pragma OPENCL EXTENSION cl_intel_subgroups : enable
#define AS_SUBGROUPS __attribute__((intel_reqd_sub_group_size(SUBGROUPS)))
#define FIRST_KEY get_sub_group_id()
#define NEXT_KEY (LOCAL / SUBGROUPS)
#define KEY_LANE get_sub_group_local_id()
#define KEY_LANES SUBGROUPS
#define ADDED sub_group_reduce_add
#else
#define AS_SUBGROUPS
#define FIRST_KEY item
#define NEXT_KEY LOCAL
#define KEY_LANE 0
#define KEY_LANES 1
#define ADDED
#endif

#if LOCAL > 1
#define SYNC barrier(CLK_LOCAL_MEM_FENCE)
#else
#define SYNC
#endif

#if K_VECTOR == 16
#define KEY float16
#define LOAD_KEY LOAD16
#define QUERY_AT(p) vload16(0, p)
#define KEY_SUM sum16
#elif K_VECTOR == 4
#define KEY float4
#define LOAD_KEY LOAD4
#define QUERY_AT(p) vload4(0, p)
#define KEY_SUM sum4
#else
#define KEY float
#define LOAD_KEY LOAD
#define QUERY_AT(p) (*(p))
#define KEY_SUM
#endif

#if V_VECTOR == 16
#define VALUE float16
#define LOAD_VALUE LOAD16
#define STORE_VALUE STORE16
#elif V_VECTOR == 4
#define VALUE float4
#define LOAD_VALUE LOAD4
#define STORE_VALUE STORE4
#else
#define VALUE float
#define LOAD_VALUE LOAD
#define STORE_VALUE STORE
#endif

#define UNITS (V_HEAD_DIM / V_VECTOR)
#define WIDE ((UNITS + LOCAL - 1) / LOCAL)
#define FOR_VALUES(w, i) for (int w = 0, i = get_local_id(0); w < WIDE; w++, i += LOCAL)
#define PARTIAL (V_HEAD_DIM + 2)

// By what the weights of a softmax shrink when its largest score grows.
inline float shrink(float from, float to) { return from == to ? 1.0f : exp(from - to); }

// The sequence that a token belongs to: the last that begins there or before.
inline int sequence_of(int t, __global const int *query_starts, int seqs) {
    int s = 0, above = seqs;
    while (above - s > 1) {
        const int middle = (s + above) / 2;
        if (query_starts[middle] <= t) s = middle;
        else above = middle;
    }
    return s;
}

__kernel AS_SUBGROUPS void paged_attention(
#if SPLITS
    OUT(float, out),
#else
    OUT(ACT, out),
#endif
    IN(ACT, q), IN(CACHE, k_cache), IN(CACHE, v_cache), IN(int, block_tables), IN(int, seq_lens),
    IN(int, query_starts), IN(ACT, sinks), const int seqs, const int max_blocks, const int heads,
    const int kv_heads, const int block_size, const int window, const float scale,
    const float cap, const int has_sinks, const int pieces
) {
#if SPLITS
    PLACE_OUT(float, out);
#else
    PLACE_OUT(ACT, out);
#endif
    PLACE_IN(ACT, q);
    PLACE_IN(CACHE, k_cache);
    PLACE_IN(CACHE, v_cache);
    PLACE_IN(int, block_tables);
    PLACE_IN(int, seq_lens);
    PLACE_IN(int, query_starts);
    PLACE_IN(ACT, sinks);
    __local float query[HEADS * HEAD_DIM];
    __local float scores[HEADS * KEYS];
    const int head = get_group_id(0) * HEADS, t = get_group_id(1), item = get_local_id(0);
    const int kv_head = head / (heads / kv_heads);
    const int s = sequence_of(t, query_starts, seqs);
    const int last = seq_lens[s] - query_starts[s + 1] + t;  // this token's own position
    const int begin = window ? max(0, last + 1 - window) : 0;
    __global const int *blocks = block_tables + (size_t)s * max_blocks;
    const size_t place = (size_t)t * heads + head;
#if SPLITS
    const int first = get_group_id(2), behind = first + 1;
    if (first < begin / SPLIT || first > last / SPLIT) return;
#else
    const int first = begin / SPLIT, behind = last / SPLIT + 1;
    float all_top[HEADS], all_total[HEADS];
    VALUE all[HEADS * WIDE];
#endif
    for (int i = item; i < HEADS * HEAD_DIM; i += LOCAL) {
        query[i] = LOAD(ACT, q, place * HEAD_DIM + i);
    }
    SYNC;
    for (int piece = first; piece < behind; piece++) {
        const int from = max(begin, piece * SPLIT), to = min(last + 1, (piece + 1) * SPLIT);
        float top[HEADS], total[HEADS];
        VALUE sums[HEADS * WIDE];
        for (int h = 0; h < HEADS; h++) {
            top[h] = -INFINITY;
            total[h] = 0.0f;
        }
        for (int i = 0; i < HEADS * WIDE; i++) sums[i] = 0.0f;
        for (int tile = from; tile < to; tile += KEYS) {
            const int keys = min(KEYS, to - tile);
            for (int j = FIRST_KEY; j < keys; j += NEXT_KEY) {
                const int key = tile + j;
                const size_t row = (size_t)blocks[key / block_size] * block_size
                    + key % block_size;
                __global const STORED(CACHE) *k = k_cache + (row * kv_heads + kv_head) * HEAD_DIM;
                KEY dot[HEADS];
                for (int h = 0; h < HEADS; h++) dot[h] = 0.0f;
                for (int i = KEY_LANE * K_VECTOR; i < HEAD_DIM; i += KEY_LANES * K_VECTOR) {
                    const KEY part = LOAD_KEY(CACHE, k, i);
                    for (int h = 0; h < HEADS; h++) {
                        dot[h] = mad(part, QUERY_AT(query + h * HEAD_DIM + i), dot[h]);
                    }
                }
                for (int h = 0; h < HEADS; h++) {
                    float score = scale * ADDED(KEY_SUM(dot[h]));
                    if (cap > 0.0f) score = cap * tanh(score / cap);
                    if (KEY_LANE == 0) scores[h * KEYS + j] = score;
                }
            }
            SYNC;
            for (int h = 0; h < HEADS; h++) {
                float highest = top[h];
                for (int j = 0; j < keys; j++) highest = fmax(highest, scores[h * KEYS + j]);
                const float less = shrink(top[h], highest);
                top[h] = highest;
                total[h] *= less;
                for (int w = 0; w < WIDE; w++) sums[h * WIDE + w] *= less;
            }
            SYNC;
            for (int i = item; i < HEADS * keys; i += LOCAL) {
                const int h = i / keys, at = h * KEYS + i % keys;
                scores[at] = exp(scores[at] - top[h]);
            }
            SYNC;
            for (int j = 0; j < keys; j++) {
                const int key = tile + j;
                const size_t row = (size_t)blocks[key / block_size] * block_size
                    + key % block_size;
                __global const STORED(CACHE) *v = v_cache
                    + (row * kv_heads + kv_head) * V_HEAD_DIM;
                for (int h = 0; h < HEADS; h++) total[h] += scores[h * KEYS + j];
                FOR_VALUES(w, i) {
                    if (i >= UNITS) break;
                    const VALUE part = LOAD_VALUE(CACHE, v, i * V_VECTOR);
                    for (int h = 0; h < HEADS; h++) {
                        const VALUE weight = scores[h * KEYS + j];
                        sums[h * WIDE + w] = mad(weight, part, sums[h * WIDE + w]);
                    }
                }
            }
            SYNC;
        }
        for (int h = 0; h < HEADS; h++) {
#if SPLITS
            __global float *result = out + ((place + h) * pieces + piece) * PARTIAL;
            if (item == 0) {
                result[V_HEAD_DIM] = top[h];
                result[V_HEAD_DIM + 1] = total[h];
            }
            FOR_VALUES(w, i) {
                if (i < UNITS) STORE_VALUE(float, result, i * V_VECTOR, sums[h * WIDE + w]);
            }
#else
            if (piece == first) {
                all_top[h] = top[h];
                all_total[h] = total[h];
                for (int w = 0; w < WIDE; w++) all[h * WIDE + w] = sums[h * WIDE + w];
                continue;
            }
            const float highest = fmax(all_top[h], top[h]);
            const float a = shrink(all_top[h], highest), b = shrink(top[h], highest);
            all_top[h] = highest;
            all_total[h] = all_total[h] * a + total[h] * b;
            for (int w = 0; w < WIDE; w++) {
                all[h * WIDE + w] = all[h * WIDE + w] * a + sums[h * WIDE + w] * b;
            }
#endif
        }
    }
#if !SPLITS
    for (int h = 0; h < HEADS; h++) {
        float total = all_total[h], less = 1.0f;
        if (has_sinks) {
            const float sink = LOAD(ACT, sinks, head + h), highest = fmax(all_top[h], sink);
            less = shrink(all_top[h], highest);
            total = total * less + exp(sink - highest);
        }
        FOR_VALUES(w, i) {
            if (i >= UNITS) break;
            const VALUE v = all[h * WIDE + w] * less / total;
            STORE_VALUE(ACT, out, (place + h) * V_HEAD_DIM + i * V_VECTOR, v);
        }
    }
#endif
}

// Pieces of one token and head into one, in order; a work-item for each element.
__kernel void merge_splits(
    OUT(ACT, out), IN(float, partials), IN(int, seq_lens), IN(int, query_starts), IN(ACT, sinks),
    const int seqs, const int heads, const int window, const int has_sinks, const int pieces
) {
    PLACE_OUT(ACT, out);
    PLACE_IN(float, partials);
    PLACE_IN(int, seq_lens);
    PLACE_IN(int, query_starts);
    PLACE_IN(ACT, sinks);
    const int head = get_group_id(0), t = get_group_id(1);
    const int s = sequence_of(t, query_starts, seqs);
    const int last = seq_lens[s] - query_starts[s + 1] + t;
    const int begin = window ? max(0, last + 1 - window) : 0;
    const int first = begin / SPLIT, behind = last / SPLIT + 1;
    const size_t place = (size_t)t * heads + head;
    __global const float *part = partials + place * pieces * PARTIAL;
    for (int i = get_local_id(0); i < V_HEAD_DIM; i += LOCAL) {
        __global const float *one = part + first * PARTIAL;
        float sum = one[i], top = one[V_HEAD_DIM], total = one[V_HEAD_DIM + 1], less = 1.0f;
        for (int piece = first + 1; piece < behind; piece++) {
            one = part + piece * PARTIAL;
            const float highest = fmax(top, one[V_HEAD_DIM]);
            const float a = shrink(top, highest), b = shrink(one[V_HEAD_DIM], highest);
            top = highest;
            total = total * a + one[V_HEAD_DIM + 1] * b;
            sum = sum * a + one[i] * b;
        }
        if (has_sinks) {
            const float sink = LOAD(ACT, sinks, head), highest = fmax(top, sink);
            less = shrink(top, highest);
            total = total * less + exp(sink - highest);
        }
        STORE(ACT, out, place * V_HEAD_DIM + i, sum * less / total);
    }
}
