// Weights in any format, 32 neighbours of a row at a time: `DECODE(row, g, &low, &high)` gives
// weights 32 g .. 32 g + 15 and 32 g + 16 .. 32 g + 31 of the row that begins at `row`. FORMAT is
// a format's name, or a kind where rows are plain numbers. The bytes are those of the file; every
// block has an even size, so half-precision scales are aligned. Layouts: ggml's ggml-quants.c.
#include "storage.cl"

typedef __global const uchar *Bytes;

#define DECODE(row, g, low, high) JOIN(decode_, FORMAT)(row, g, low, high)

inline float half_at(Bytes b) { return vload_half(0, (__global const half *)b); }

inline uint word_at(Bytes b) {
    return (uint)b[0] | (uint)b[1] << 8 | (uint)b[2] << 16 | (uint)b[3] << 24;
}

inline float16 floats_of(uchar16 v) { return convert_float16(v); }

inline float16 signed_of(uchar16 v, int middle) {
    return convert_float16(convert_int16(v) - middle);
}

inline void decode_float(Bytes row, int g, float16 *low, float16 *high) {
    *low = vload16(2 * g, (__global const float *)row);
    *high = vload16(2 * g + 1, (__global const float *)row);
}

inline void decode_half(Bytes row, int g, float16 *low, float16 *high) {
    *low = vload_half16(2 * g, (__global const half *)row);
    *high = vload_half16(2 * g + 1, (__global const half *)row);
}

inline void decode_bfloat(Bytes row, int g, float16 *low, float16 *high) {
    *low = load16_bfloat((__global const ushort *)row + 32 * g);
    *high = load16_bfloat((__global const ushort *)row + 32 * g + 16);
}

inline void decode_q4_0(Bytes row, int g, float16 *low, float16 *high) {
    Bytes b = row + 18 * g;
    const float d = half_at(b);
    const uchar16 q = vload16(0, b + 2);
    *low = d * signed_of(q & (uchar)15, 8);
    *high = d * signed_of(q >> (uchar)4, 8);
}

inline void decode_q4_1(Bytes row, int g, float16 *low, float16 *high) {
    Bytes b = row + 20 * g;
    const float d = half_at(b), m = half_at(b + 2);
    const uchar16 q = vload16(0, b + 4);
    *low = floats_of(q & (uchar)15) * d + m;
    *high = floats_of(q >> (uchar)4) * d + m;
}

#define BITS16 (uint16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)

inline uchar16 fifth_bits(uint word) {
    return convert_uchar16(((uint16)(word) >> BITS16 & 1) << 4);
}

inline void decode_q5_0(Bytes row, int g, float16 *low, float16 *high) {
    Bytes b = row + 22 * g;
    const float d = half_at(b);
    const uint top = word_at(b + 2);
    const uchar16 q = vload16(0, b + 6);
    *low = d * signed_of((q & (uchar)15) | fifth_bits(top), 16);
    *high = d * signed_of((q >> (uchar)4) | fifth_bits(top >> 16), 16);
}

inline void decode_q5_1(Bytes row, int g, float16 *low, float16 *high) {
    Bytes b = row + 24 * g;
    const float d = half_at(b), m = half_at(b + 2);
    const uint top = word_at(b + 4);
    const uchar16 q = vload16(0, b + 8);
    *low = floats_of((q & (uchar)15) | fifth_bits(top)) * d + m;
    *high = floats_of((q >> (uchar)4) | fifth_bits(top >> 16)) * d + m;
}

inline void decode_q8_0(Bytes row, int g, float16 *low, float16 *high) {
    Bytes b = row + 34 * g;
    const float d = half_at(b);
    *low = d * convert_float16(vload16(0, (__global const char *)(b + 2)));
    *high = d * convert_float16(vload16(1, (__global const char *)(b + 2)));
}

// Super-blocks of 256: block g / 8, group g % 8 of 32 weights.

inline void decode_q2_k(Bytes row, int g, float16 *low, float16 *high) {
    Bytes b = row + 84 * (g >> 3);
    const int part = g & 7;
    const uchar shift = 2 * (part & 3);
    const float d = half_at(b + 80), m = half_at(b + 82);
    Bytes q = b + 16 + 32 * (part >> 2);
    const uchar first = b[2 * part], second = b[2 * part + 1];
    *low = d * (float)(first & 15) * floats_of(vload16(0, q) >> shift & (uchar)3)
        - m * (float)(first >> 4);
    *high = d * (float)(second & 15) * floats_of(vload16(1, q) >> shift & (uchar)3)
        - m * (float)(second >> 4);
}

inline float q3_k_scale(Bytes b, int i) {
    const uchar low = i < 8 ? b[96 + i] & 15 : b[88 + i] >> 4;
    const uchar high = b[104 + (i & 3)] >> 2 * (i >> 2) & 3;
    return (float)((int)(low | high << 4) - 32);
}

inline void decode_q3_k(Bytes row, int g, float16 *low, float16 *high) {
    Bytes b = row + 110 * (g >> 3);
    const int part = g & 7;
    const uchar shift = 2 * (part & 3), bit = part;
    const float d = half_at(b + 108);
    Bytes q = b + 32 + 32 * (part >> 2);
    const uchar16 first = (vload16(0, q) >> shift & (uchar)3)
        | (vload16(0, b) >> bit & (uchar)1) << (uchar)2;
    const uchar16 second = (vload16(1, q) >> shift & (uchar)3)
        | (vload16(1, b) >> bit & (uchar)1) << (uchar)2;
    *low = d * q3_k_scale(b, 2 * part) * signed_of(first, 4);
    *high = d * q3_k_scale(b, 2 * part + 1) * signed_of(second, 4);
}

// Scale and minimum of a group, six bits each, out of twelve bytes.
inline uchar2 six_bits(Bytes s, int part) {
    if (part < 4) return (uchar2)(s[part] & 63, s[part + 4] & 63);
    return (uchar2)(
        (s[part + 4] & 15) | (s[part - 4] >> 6) << 4, (s[part + 4] >> 4) | (s[part] >> 6) << 4
    );
}

inline void decode_q4_k(Bytes row, int g, float16 *low, float16 *high) {
    Bytes b = row + 144 * (g >> 3);
    const int part = g & 7;
    const uchar shift = 4 * (part & 1);
    const uchar2 s = six_bits(b + 4, part);
    const float d = half_at(b) * s.x, m = half_at(b + 2) * s.y;
    Bytes q = b + 16 + 32 * (part >> 1);
    *low = d * floats_of(vload16(0, q) >> shift & (uchar)15) - m;
    *high = d * floats_of(vload16(1, q) >> shift & (uchar)15) - m;
}

inline void decode_q5_k(Bytes row, int g, float16 *low, float16 *high) {
    Bytes b = row + 176 * (g >> 3);
    const int part = g & 7;
    const uchar shift = 4 * (part & 1), bit = part;
    const uchar2 s = six_bits(b + 4, part);
    const float d = half_at(b) * s.x, m = half_at(b + 2) * s.y;
    Bytes q = b + 48 + 32 * (part >> 1);
    const uchar16 first = (vload16(0, q) >> shift & (uchar)15)
        | (vload16(0, b + 16) >> bit & (uchar)1) << (uchar)4;
    const uchar16 second = (vload16(1, q) >> shift & (uchar)15)
        | (vload16(1, b + 16) >> bit & (uchar)1) << (uchar)4;
    *low = d * floats_of(first) - m;
    *high = d * floats_of(second) - m;
}

inline void decode_q6_k(Bytes row, int g, float16 *low, float16 *high) {
    Bytes b = row + 210 * (g >> 3);
    const int part = g & 7;
    const uchar nibble = 4 * (part >> 1 & 1), shift = 2 * (part & 3);
    const float d = half_at(b + 208);
    Bytes q = b + 64 * (part >> 2) + 32 * (part & 1);
    Bytes top = b + 128 + 32 * (part >> 2);
    __global const char *scales = (__global const char *)(b + 192);
    const uchar16 first = (vload16(0, q) >> nibble & (uchar)15)
        | (vload16(0, top) >> shift & (uchar)3) << (uchar)4;
    const uchar16 second = (vload16(1, q) >> nibble & (uchar)15)
        | (vload16(1, top) >> shift & (uchar)3) << (uchar)4;
    *low = d * (float)scales[2 * part] * signed_of(first, 32);
    *high = d * (float)scales[2 * part + 1] * signed_of(second, 32);
}

__constant char NIBBLES[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113
};

inline float16 from_table(uchar16 q) {
    return convert_float16((char16)(
        NIBBLES[q.s0], NIBBLES[q.s1], NIBBLES[q.s2], NIBBLES[q.s3], NIBBLES[q.s4], NIBBLES[q.s5],
        NIBBLES[q.s6], NIBBLES[q.s7], NIBBLES[q.s8], NIBBLES[q.s9], NIBBLES[q.sa], NIBBLES[q.sb],
        NIBBLES[q.sc], NIBBLES[q.sd], NIBBLES[q.se], NIBBLES[q.sf]
    ));
}

inline void decode_iq4_nl(Bytes row, int g, float16 *low, float16 *high) {
    Bytes b = row + 18 * g;
    const float d = half_at(b);
    const uchar16 q = vload16(0, b + 2);
    *low = d * from_table(q & (uchar)15);
    *high = d * from_table(q >> (uchar)4);
}

inline void decode_iq4_xs(Bytes row, int g, float16 *low, float16 *high) {
    Bytes b = row + 136 * (g >> 3);
    const int part = g & 7;
    const int bottom = b[4 + (part >> 1)] >> 4 * (part & 1) & 15;
    const int top = b[2 + (part >> 2)] >> 2 * (part & 3) & 3;
    const float d = half_at(b) * (float)((bottom | top << 4) - 32);
    const uchar16 q = vload16(0, b + 8 + 16 * part);
    *low = d * from_table(q & (uchar)15);
    *high = d * from_table(q >> (uchar)4);
}
