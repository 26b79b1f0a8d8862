// Pieces of one token and head into one, in order; a work-item for each element.
#include "storage.cl"
#include "softmax.cl"

__kernel void merge_pieces(
    OUT(ACT, out), IN(float, partials), IN(int, seq_lens), IN(int, query_starts), IN(ACT, sinks),
    const int seqs, const int heads, const int size, const int window, const int has_sinks,
    const int pieces
) {
    PLACE_OUT(ACT, out);
    PLACE_IN(float, partials);
    PLACE_IN(int, seq_lens);
    PLACE_IN(int, query_starts);
    PLACE_IN(ACT, sinks);
    const int head = get_group_id(0), t = get_group_id(1);
    int s = 0;
    while (s + 1 < seqs && query_starts[s + 1] <= t) s++;
    const int last = seq_lens[s] - query_starts[s + 1] + t;
    const int begin = window ? max(0, last + 1 - window) : 0;
    const size_t place = (size_t)t * heads + head;
    for (int i = get_local_id(0); i < size; i += LOCAL) {
        float sum = 0.0f, top = -INFINITY, total = 0.0f, less = 1.0f;
        for (int piece = begin / PIECE; piece <= last / PIECE; piece++) {
            __global const float *one = partials + (place * pieces + piece) * (size + 2);
            const float highest = fmax(top, one[size]);
            const float a = shrink(top, highest), b = shrink(one[size], highest);
            top = highest;
            total = total * a + one[size + 1] * b;
            sum = sum * a + one[i] * b;
        }
        if (has_sinks) {
            const float sink = LOAD(ACT, sinks, head), highest = fmax(top, sink);
            less = shrink(top, highest);
            total = total * less + exp(sink - highest);
        }
        STORE(ACT, out, place * size + i, sum * less / total);
    }
}
