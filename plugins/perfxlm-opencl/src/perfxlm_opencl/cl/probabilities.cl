// From logits to the likeliest token, and to probabilities.
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
