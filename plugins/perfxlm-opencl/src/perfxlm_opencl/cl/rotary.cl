// Rotary position embedding.
#include "storage.cl"

// One work-item for each angle.
__kernel void rotary_table(
    OUT(float, cosines), OUT(float, sines), IN(int, positions), IN(float, frequencies),
    const int tokens, const int angles, const float factor
) {
    PLACE_OUT(float, cosines);
    PLACE_OUT(float, sines);
    PLACE_IN(int, positions);
    PLACE_IN(float, frequencies);
    const int i = get_global_id(0), t = get_global_id(1);
    if (i >= angles || t >= tokens) return;
    const float angle = (float)positions[t] * frequencies[i];
    cosines[(size_t)t * angles + i] = cos(angle) * factor;
    sines[(size_t)t * angles + i] = sin(angle) * factor;
}

// One work-item for each pair of elements, or element that passes unchanged.
__kernel void rotary_embedding(
    OUT(RESULT, out), IN(ACT, x), IN(float, cosines), IN(float, sines), const int tokens,
    const int heads, const int head_dim, const int angles, const int interleaved
) {
    PLACE_OUT(RESULT, out);
    PLACE_IN(ACT, x);
    PLACE_IN(float, cosines);
    PLACE_IN(float, sines);
    const int width = head_dim - angles;  // pairs and what is behind them
    const int at = get_global_id(0), t = get_global_id(1);
    if (at >= heads * width || t >= tokens) return;
    const int i = at % width;
    const size_t head = ((size_t)t * heads + at / width) * head_dim;
    if (i >= angles) {
        STORE(RESULT, out, head + angles + i, LOAD(ACT, x, head + angles + i));
        return;
    }
    const size_t a = head + (interleaved ? 2 * i : i);
    const size_t b = interleaved ? a + 1 : a + angles;
    const float first = LOAD(ACT, x, a), second = LOAD(ACT, x, b);
    const float c = cosines[(size_t)t * angles + i], s = sines[(size_t)t * angles + i];
    STORE(RESULT, out, a, first * c - second * s);
    STORE(RESULT, out, b, second * c + first * s);
}
