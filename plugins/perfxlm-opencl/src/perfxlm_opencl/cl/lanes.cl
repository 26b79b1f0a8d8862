// Weights in tiles of LANES rows, made by kernels/packing.py: units of 16 bytes of a block, those of
// all rows of the tile side by side, so that work-items side by side read memory side by side.
// Behind all units of the weight lie the bytes that are left of each block (its half-precision
// scales), EXTRA of them, again side by side. A block has UNITS units and BLOCK weights.
//
//   WORDS 4: a row's unit is one piece, read as a uint4, or as a pixel where IMAGE is defined
//   WORDS 1: its four words lie LANES words apart; SUBGROUP == LANES reads them as blocks
//
// `codes_of` gives 32 weights as 8 words of four signed 8-bit codes each, with scales:
// weight = low * code + shift for the first 16, high * code + shift for the others.
#include "storage.cl"

typedef __global const uint *Words;
typedef __global const uchar *Bytes;

#ifdef IMAGE
#define PICTURE , __read_only image1d_buffer_t image, const int pixel
#define PICTURED , image, pixel
#else
#define PICTURE
#define PICTURED
#endif
// Where 32 weights of a row are: the weight, the row's place in its tile, the tile's block.
#define PLACE Words units, Bytes extras PICTURE, const int lane, const size_t block
#define HERE units, extras PICTURED, lane, block

#define NIBBLES 0x0F0F0F0Fu

inline Words word_of(Words units, int lane, size_t unit, int word) {
#if WORDS == 4
    return units + (unit * LANES + lane) * 4 + word;
#else
    return units + (unit * 4 + word) * LANES + lane;
#endif
}

inline uint4 unit_of(PLACE, int i) {
    const size_t unit = block * UNITS + i;
#if defined(IMAGE)
    return read_imageui(image, pixel + (int)(unit * LANES) + lane);
#elif WORDS == 4
    return vload4(unit * LANES + lane, units);
#elif defined(BLOCK_READS)
    return intel_sub_group_block_read4(units + unit * 4 * LANES);
#else
    Words p = units + unit * 4 * LANES + lane;
    return (uint4)(p[0], p[LANES], p[2 * LANES], p[3 * LANES]);
#endif
}

inline float extra_of(PLACE, int i) {
    __global const half *p = (__global const half *)(extras + (block * LANES + lane) * EXTRA);
    return vload_half(i, p);
}

inline uint8 pair_of(PLACE, int i) { return (uint8)(unit_of(HERE, i), unit_of(HERE, i + 1)); }

inline uint8 nibbles_of(PLACE) {
    const uint4 q = unit_of(HERE, 0);
    return (uint8)(q & NIBBLES, q >> 4 & NIBBLES);
}

// Subtracts `middle` from each byte; bytes below 128 in, signed bytes out.
inline uint8 centred(uint8 q, uint middle) {
    return ((q | 0x80808080u) - middle * 0x01010101u) ^ 0x80808080u;
}

inline uint8 codes_q4_0(PLACE, int part, float *low, float *high, float *shift) {
    *low = *high = extra_of(HERE, 0);
    return centred(nibbles_of(HERE), 8);
}

inline uint8 codes_q4_1(PLACE, int part, float *low, float *high, float *shift) {
    *low = *high = extra_of(HERE, 0);
    *shift = extra_of(HERE, 1);
    return nibbles_of(HERE);
}

inline uint8 codes_q8_0(PLACE, int part, float *low, float *high, float *shift) {
    *low = *high = extra_of(HERE, 0);
    return pair_of(HERE, 0);
}

inline uint8 codes_q4_k(PLACE, int part, float *low, float *high, float *shift) {
    const uint4 head = unit_of(HERE, 0);
    __global const half *d = (__global const half *)word_of(units, lane, block * UNITS, 0);
    const uint at = 8 * (part & 3);
    const uint a = head.y >> at & 255, b = head.z >> at & 255, c = head.w >> at & 255;
    const uint scale = part < 4 ? a & 63 : (c & 15) | a >> 6 << 4;
    const uint least = part < 4 ? b & 63 : c >> 4 | b >> 6 << 4;
    *low = *high = vload_half(0, d) * (float)scale;
    *shift = -vload_half(1, d) * (float)least;
    return pair_of(HERE, 1 + 2 * (part >> 1)) >> (uint)(4 * (part & 1)) & NIBBLES;
}

inline uint8 codes_q6_k(PLACE, int part, float *low, float *high, float *shift) {
    const uint nibble = 4 * (part >> 1 & 1), two = 2 * (part & 3);
    const float d = extra_of(HERE, 0);
    const uint scales = *word_of(units, lane, block * UNITS + 12, part >> 1) >> 16 * (part & 1);
    *low = d * (float)as_char4(scales).s0;
    *high = d * (float)as_char4(scales).s1;
    const uint8 q = pair_of(HERE, 4 * (part >> 2) + 2 * (part & 1)) >> nibble & NIBBLES;
    const uint8 top = pair_of(HERE, 8 + 2 * (part >> 2)) >> two & 0x03030303u;
    return centred(q | top << 4, 32);
}

#define SHIFTED_q4_1 1
#define SHIFTED_q4_k 1
#define SHIFTED JOIN(SHIFTED_, FORMAT)

// Plain numbers: weights 4 j .. 4 j + 3 of a block of 32.
#if defined(PLAIN)
inline float4 plain_of(PLACE, int j) {
    const int size = sizeof(STORED(PLAIN));
    Words p = word_of(units, lane, block * UNITS + j * size / 4, j * size % 4);
    return LOAD4(PLAIN, (__global const STORED(PLAIN) *)p, 0);
}
#else
#define codes_of JOIN(codes_, FORMAT)
#endif
