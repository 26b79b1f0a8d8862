// From logits to tokens and probabilities.
#include "storage.cl"
#include "groups.cl"

// The index of the largest element of each row, the lowest of equal ones; a work-group for each.
__kernel void greedy(OUT(int, out), IN(ACT, logits), const int n) {
    PLACE_OUT(int, out);
    PLACE_IN(ACT, logits) + get_group_id(0) * (size_t)n;
    const int item = get_local_id(0);
    __local float values[LOCAL];
    __local int places[LOCAL];
    float best = -INFINITY;
    int place = INT_MAX;
    for (int i = item; i < n; i += LOCAL) {
        const float v = LOAD(ACT, logits, i);
        if (v > best || place == INT_MAX) {
            best = v;
            place = i;
        }
    }
    values[item] = best;
    places[item] = place;
    barrier(CLK_LOCAL_MEM_FENCE);
    if (item == 0) {
        for (int j = 1; j < LOCAL; j++) {
            const bool first = places[j] != INT_MAX
                && (values[j] > best || (values[j] == best && places[j] < place));
            if (first) {
                best = values[j];
                place = places[j];
            }
        }
        out[get_group_id(0)] = place;
    }
}

__kernel void log_probabilities(OUT(ACT, out), IN(ACT, logits), IN(int, token_ids), const int n) {
    PLACE_OUT(ACT, out);
    PLACE_IN(ACT, logits) + get_group_id(0) * (size_t)n;
    PLACE_IN(int, token_ids);
    __local float scratch[LOCAL];
    float largest = -INFINITY, sum = 0.0f;
    for (int i = get_local_id(0); i < n; i += LOCAL) largest = fmax(largest, LOAD(ACT, logits, i));
    largest = group_max(largest, scratch);
    for (int i = get_local_id(0); i < n; i += LOCAL) sum += exp(LOAD(ACT, logits, i) - largest);
    sum = group_sum(sum, scratch);
    if (get_local_id(0) == 0) {
        const float chosen = LOAD(ACT, logits, token_ids[get_group_id(0)]);
        STORE(ACT, out, get_group_id(0), chosen - (log(sum) + largest));
    }
}

// Softmax along the middle one of three axes [outer, n, inner]; a work-group for each outer and
// inner. `logarithm` gives its logarithm.
__kernel void softmax(
    OUT(ACT, out), IN(ACT, x), const int n, const int inner, const int logarithm
) {
    const size_t at = get_group_id(1) * (size_t)n * inner + get_group_id(0);
    PLACE_OUT(ACT, out) + at;
    PLACE_IN(ACT, x) + at;
    __local float scratch[LOCAL];
    float largest = -INFINITY, sum = 0.0f;
    for (int i = get_local_id(0); i < n; i += LOCAL) {
        largest = fmax(largest, LOAD(ACT, x, (size_t)i * inner));
    }
    largest = group_max(largest, scratch);
    for (int i = get_local_id(0); i < n; i += LOCAL) {
        sum += exp(LOAD(ACT, x, (size_t)i * inner) - largest);
    }
    sum = group_sum(sum, scratch);
    const float shift = log(sum);
    for (int i = get_local_id(0); i < n; i += LOCAL) {
        const float v = LOAD(ACT, x, (size_t)i * inner) - largest;
        STORE(ACT, out, (size_t)i * inner, logarithm ? v - shift : exp(v) / sum);
    }
}

// Numbers in the order of floats; both zeros are one.
inline uint key_of(float v) {
    const uint bits = as_uint(v == 0.0f ? 0.0f : v);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

inline float of_key(uint key) {
    return as_float(key & 0x80000000u ? key & 0x7FFFFFFFu : ~key);
}

// The first tokens in order of falling logit, lower ids first among equals: all whose key is above
// `key`, and `ties` of those that have it.
typedef struct {
    uint key;
    int ties;
} Prefix;

typedef struct {
    __global const STORED(ACT) *logits;
    int n;
    float top, heat;  // heat 0: every token weighs 1
} Row;

inline float weight_of(const Row *row, float v) {
    return row->heat == 0.0f ? 1.0f : exp((v - row->top) / row->heat);
}

// Weight of the tokens of a prefix whose key is at least `least`.
inline float mass(const Row *row, Prefix in, uint least, __local float *scratch) {
    float sum = 0.0f;
    for (int i = get_local_id(0); i < row->n; i += LOCAL) {
        const float v = LOAD(ACT, row->logits, i);
        const uint key = key_of(v);
        if (key >= least && key > in.key) sum += weight_of(row, v);
    }
    sum = group_sum(sum, scratch);
    return in.ties && least <= in.key ? sum + in.ties * weight_of(row, of_key(in.key)) : sum;
}

// The shortest prefix of a prefix whose weight reaches `target`, or (strict) exceeds it.
inline Prefix shortest(
    const Row *row, Prefix in, float target, int strict, __local float *scratch
) {
    Prefix found = {0, 0};
    for (int bit = 31; bit >= 0; bit--) {
        const uint key = found.key | 1u << bit;
        if (key > in.key) {
            const float sum = mass(row, in, key, scratch);
            if (!(strict ? sum > target : sum >= target)) continue;
        }
        found.key = key;
    }
    const float base = mass(row, in, found.key + 1, scratch);
    const float each = weight_of(row, of_key(found.key));
    int most = in.ties;
    if (found.key != in.key) {
        float equal = 0.0f;
        for (int i = get_local_id(0); i < row->n; i += LOCAL) {
            if (key_of(LOAD(ACT, row->logits, i)) == found.key) equal += 1.0f;
        }
        most = (int)group_sum(equal, scratch);
    }
    found.ties = clamp((int)((target - base) / each), 1, max(most, 1));
    while (found.ties > 1) {
        const float less = base + (found.ties - 1) * each;
        if (!(strict ? less > target : less >= target)) break;
        found.ties--;
    }
    while (found.ties < most) {
        const float sum = base + found.ties * each;
        if (strict ? sum > target : sum >= target) break;
        found.ties++;
    }
    return found;
}

// Draws a token for each row; a work-group for each. Instead of sorting, the prefixes that the
// limits leave are found by bisection over the bits of their last logit.
__kernel void sample_top_k_top_p(
    OUT(int, out), IN(ACT, logits), IN(float, temperatures), IN(int, top_ks), IN(float, top_ps),
    IN(float, uniforms), const int n
) {
    const int r = get_group_id(0), item = get_local_id(0);
    PLACE_OUT(int, out);
    PLACE_IN(ACT, logits) + r * (size_t)n;
    PLACE_IN(float, temperatures);
    PLACE_IN(int, top_ks);
    PLACE_IN(float, top_ps);
    PLACE_IN(float, uniforms);
    __local float scratch[LOCAL];
    __local int counts[LOCAL];
    float top = -INFINITY;
    for (int i = item; i < n; i += LOCAL) top = fmax(top, LOAD(ACT, logits, i));
    Row row = {logits, n, group_max(top, scratch), 0.0f};
    const float heat = temperatures[r];
    const int k = heat == 0.0f ? 1 : top_ks[r];
    Prefix kept = {0, 0};
    if (k > 0 && k < n) kept = shortest(&row, kept, k, 0, scratch);
    if (heat != 0.0f) {
        row.heat = heat;
        float total = mass(&row, kept, 0, scratch);
        kept = shortest(&row, kept, fmin(top_ps[r] * total, total), 0, scratch);
        total = mass(&row, kept, 0, scratch);
        kept = shortest(&row, kept, uniforms[r] * total, 1, scratch);
    } else if (n == 1) {
        kept.key = key_of(row.top);
        kept.ties = 1;
    }
    // The last token of the prefix: each work-item counts equal logits among neighbours.
    const int share = (n + LOCAL - 1) / LOCAL, begin = item * share, end = min(begin + share, n);
    int mine = 0;
    for (int i = begin; i < end; i++) mine += key_of(LOAD(ACT, logits, i)) == kept.key;
    counts[item] = mine;
    barrier(CLK_LOCAL_MEM_FENCE);
    int left = kept.ties;
    for (int j = 0; j < item; j++) left -= counts[j];
    if (left < 1 || left > mine) return;
    for (int i = begin; i < end; i++) {
        left -= key_of(LOAD(ACT, logits, i)) == kept.key;
        if (left == 0) {
            out[r] = i;
            return;
        }
    }
}
