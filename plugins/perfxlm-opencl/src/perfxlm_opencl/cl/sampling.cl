// A token drawn for each row of logits.
#include "storage.cl"
#include "groups.cl"

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

inline float weight_of(float v, float top, float heat) {
    return heat == 0.0f ? 1.0f : exp((v - top) / heat);
}

// How many of the tokens that have equal logits a prefix needs, so that its weight reaches
// `target`, or (strict) exceeds it: `base` is that of the others, `each` that of one of them.
inline int ties_for(float target, bool strict, float base, float each, int most) {
    int ties = clamp((int)((target - base) / each), 1, max(most, 1));
    while (ties > 1) {
        const float less = base + (ties - 1) * each;
        if (!(strict ? less > target : less >= target)) break;
        ties--;
    }
    while (ties < most) {
        const float sum = base + ties * each;
        if (strict ? sum > target : sum >= target) break;
        ties++;
    }
    return ties;
}

#define BITS 32
#define TOTAL 0
#define BASE (BITS + 1)
#define EQUAL (BITS + 2)

// Draws a token for each row; a work-group for each. Instead of sorting, the prefixes that the
// limits leave are found by bisection over the bits of their last logit: top-k's, in it top-p's,
// and in that the one that the drawn number falls on the end of. Each takes a sum over the row for
// its whole weight, one for each bit, one for what is above the last logit, and one that counts its
// equals. All of them are one sum in one loop: compilers for processors copy a function that has
// barriers to wherever it is called.
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
    top = group_max(top, scratch);
    const float heat = temperatures[r];
    const int k = heat == 0.0f ? 1 : top_ks[r];
    const int first = k > 0 && k < n ? 0 : 1, end = heat == 0.0f ? 1 : 3;
    Prefix in = {0, 0};
    for (int limit = first; limit < end; limit++) {
        const bool strict = limit == 2;
        const float hot = limit == 0 ? 0.0f : heat;
        Prefix found = {0, 0};
        float target = k, base = 0.0f;
        int most = in.ties;
        for (int stage = TOTAL; stage <= EQUAL; stage++) {
            uint least = found.key;
            if (TOTAL < stage && stage < BASE) least |= 1u << (BITS - stage);
            if (stage == BASE) least++;
            const uint greatest = stage == EQUAL ? least : UINT_MAX;
            float sum = 0.0f;
            for (int i = item; i < n; i += LOCAL) {
                const float v = LOAD(ACT, logits, i);
                const uint key = key_of(v);
                if (key > in.key && key >= least && key <= greatest) {
                    sum += stage == EQUAL ? 1.0f : weight_of(v, top, hot);
                }
            }
            sum = group_sum(sum, scratch);
            if (stage != EQUAL && in.ties && least <= in.key) {
                sum += in.ties * weight_of(of_key(in.key), top, hot);
            }
            if (stage == TOTAL) {
                if (limit == 1) target = fmin(top_ps[r] * sum, sum);
                if (limit == 2) target = uniforms[r] * sum;
            } else if (stage < BASE) {
                if (least <= in.key || (strict ? sum > target : sum >= target)) found.key = least;
            } else if (stage == BASE) {
                base = sum;
            } else if (found.key != in.key) {
                most = (int)sum;
            }
        }
        found.ties = ties_for(target, strict, base, weight_of(of_key(found.key), top, hot), most);
        in = found;
    }
    if (first == end) {  // greedy among one token
        in.key = key_of(top);
        in.ties = 1;
    }
    // The last token of the prefix: each work-item counts equal logits among neighbours.
    const int share = (n + LOCAL - 1) / LOCAL, begin = item * share, stop = min(begin + share, n);
    int mine = 0;
    for (int i = begin; i < stop; i++) mine += key_of(LOAD(ACT, logits, i)) == in.key;
    counts[item] = mine;
    barrier(CLK_LOCAL_MEM_FENCE);
    int left = in.ties;
    for (int j = 0; j < item; j++) left -= counts[j];
    if (left < 1 || left > mine) return;
    for (int i = begin; i < stop; i++) {
        left -= key_of(LOAD(ACT, logits, i)) == in.key;
        if (left == 0) {
            out[r] = i;
            return;
        }
    }
}
