// Sums of products of 32 weights and one token's activations: `PRODUCT(row, g, a, b, both, sum)`
// adds weights 32 g .. 32 g + 31 of a row times a (the first 16) and b (the others); both = a + b.
// Formats with one scale for 32 weights multiply by it last, once.
#include "blocks.cl"

#define FACTORED_q4_0 1
#define FACTORED_q4_1 1
#define FACTORED_q4_k 1
#define FACTORED_q8_0 1

inline float16 codes(int16 q, float16 a, float16 b) {
    return mad(convert_float16(q & 15), a, convert_float16(q >> 4) * b);
}

inline float16 add_q4_0(Bytes row, int g, float16 a, float16 b, float16 both, float16 sum) {
    Bytes p = row + 18 * g;
    const int16 q = convert_int16(vload16(0, p + 2));
    return mad((float16)half_at(p), mad((float16)-8.0f, both, codes(q, a, b)), sum);
}

inline float16 add_q4_1(Bytes row, int g, float16 a, float16 b, float16 both, float16 sum) {
    Bytes p = row + 20 * g;
    const int16 q = convert_int16(vload16(0, p + 4));
    return mad((float16)half_at(p), codes(q, a, b), mad((float16)half_at(p + 2), both, sum));
}

inline float16 add_q4_k(Bytes row, int g, float16 a, float16 b, float16 both, float16 sum) {
    Bytes p = row + 144 * (g >> 3);
    const int part = g & 7, shift = 4 * (part & 1);
    const uchar2 s = six_bits(p + 4, part);
    Bytes at = p + 16 + 32 * (part >> 1);
    const float16 low = convert_float16(convert_int16(vload16(0, at)) >> shift & 15);
    const float16 high = convert_float16(convert_int16(vload16(1, at)) >> shift & 15);
    sum = mad((float16)(half_at(p) * s.x), mad(low, a, high * b), sum);
    return mad((float16)(-half_at(p + 2) * s.y), both, sum);
}

inline float16 add_q8_0(Bytes row, int g, float16 a, float16 b, float16 both, float16 sum) {
    Bytes p = row + 34 * g;
    __global const char *q = (__global const char *)(p + 2);
    const float16 low = convert_float16(vload16(0, q)), high = convert_float16(vload16(1, q));
    return mad((float16)half_at(p), mad(low, a, high * b), sum);
}

inline float16 add_decoded(Bytes row, int g, float16 a, float16 b, float16 both, float16 sum) {
    float16 low, high;
    DECODE(row, g, &low, &high);
    return mad(low, a, mad(high, b, sum));
}

#if JOIN(FACTORED_, FORMAT)
#define PRODUCT(row, g, a, b, both, sum) JOIN(add_, FORMAT)(row, g, a, b, both, sum)
#else
#define PRODUCT add_decoded
#endif
