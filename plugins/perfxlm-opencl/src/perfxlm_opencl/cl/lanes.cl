// Weights in tiles of LANES rows, made by kernels/packing.py: units of 16 bytes of a block, those of
// all rows of the tile side by side, so that work-items side by side read memory side by side.
// Behind all units of the weight lie the bytes that are left of each block (its half-precision
// scales), again side by side. UNITS_, EXTRA_ and BLOCK_ are a format's: units of a block, bytes
// that are left, weights.
//
//   WORDS 4: a row's unit is one piece, read as a uint4, or as a pixel where IMAGE is defined
//   WORDS 1: its four words lie LANES words apart; BLOCK_READS reads them as a subgroup of LANES
//
// `codes_` gives 32 weights as 8 words of four signed 8-bit codes each, with scales:
// weight = low * code + shift for the first 16, high * code + shift for the others.
// Plain numbers lie in blocks of 32, their words always together.
#include "storage.cl"

typedef __global const uint *Words;
typedef __global const uchar *Bytes;

#define UNITS_q4_0 1
#define EXTRA_q4_0 2
#define BLOCK_q4_0 32
#define UNITS_q4_1 1
#define EXTRA_q4_1 4
#define BLOCK_q4_1 32
#define UNITS_q8_0 2
#define EXTRA_q8_0 2
#define BLOCK_q8_0 32
#define UNITS_q4_k 9
#define EXTRA_q4_k 0
#define BLOCK_q4_k 256
#define UNITS_q6_k 13
#define EXTRA_q6_k 2
#define BLOCK_q6_k 256
#define BLOCK_float 32
#define BLOCK_half 32
#define BLOCK_bfloat 32

#define SHIFTED_q4_0 0
#define SHIFTED_q4_1 1
#define SHIFTED_q8_0 0
#define SHIFTED_q4_k 1
#define SHIFTED_q6_k 0
#define SHIFTED_float 0
#define SHIFTED_half 0
#define SHIFTED_bfloat 0

#ifdef IMAGE
#define PICTURE_OF(name) , __read_only image1d_buffer_t name, const int name##_at
#define PICTURE PICTURE_OF(image)
#define PICTURED , image, image_at
#else
#define PICTURE_OF(name)
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

inline uint4 unit_of(PLACE, int each, int i) {
    const size_t unit = block * each + i;
#if defined(IMAGE)
    return read_imageui(image, image_at + (int)(unit * LANES) + lane);
#elif WORDS == 4
    return vload4(unit * LANES + lane, units);
#elif defined(BLOCK_READS)
    return intel_sub_group_block_read4(units + unit * 4 * LANES);
#else
    Words p = units + unit * 4 * LANES + lane;
    return (uint4)(p[0], p[LANES], p[2 * LANES], p[3 * LANES]);
#endif
}

inline float extra_of(PLACE, int each, int i) {
    __global const half *p = (__global const half *)(extras + (block * LANES + lane) * each);
    return vload_half(i, p);
}

#define UNIT_OF(f, i) unit_of(HERE, UNITS_##f, i)
#define PAIR_OF(f, i) (uint8)(UNIT_OF(f, i), UNIT_OF(f, (i) + 1))
#define EXTRA_OF(f, i) extra_of(HERE, EXTRA_##f, i)

inline uint8 nibbles_of(uint4 q) { return (uint8)(q & NIBBLES, q >> 4 & NIBBLES); }

// Subtracts `middle` from each byte; bytes below 128 in, signed bytes out.
inline uint8 centred(uint8 q, uint middle) {
    return ((q | 0x80808080u) - middle * 0x01010101u) ^ 0x80808080u;
}

inline uint8 codes_q4_0(PLACE, int part, float *low, float *high, float *shift) {
    *low = *high = EXTRA_OF(q4_0, 0);
    return centred(nibbles_of(UNIT_OF(q4_0, 0)), 8);
}

inline uint8 codes_q4_1(PLACE, int part, float *low, float *high, float *shift) {
    *low = *high = EXTRA_OF(q4_1, 0);
    *shift = EXTRA_OF(q4_1, 1);
    return nibbles_of(UNIT_OF(q4_1, 0));
}

inline uint8 codes_q8_0(PLACE, int part, float *low, float *high, float *shift) {
    *low = *high = EXTRA_OF(q8_0, 0);
    return PAIR_OF(q8_0, 0);
}

inline uint8 codes_q4_k(PLACE, int part, float *low, float *high, float *shift) {
    const uint4 head = UNIT_OF(q4_k, 0);
    __global const half *d = (__global const half *)word_of(units, lane, block * UNITS_q4_k, 0);
    const uint at = 8 * (part & 3);
    const uint a = head.y >> at & 255, b = head.z >> at & 255, c = head.w >> at & 255;
    const uint scale = part < 4 ? a & 63 : (c & 15) | a >> 6 << 4;
    const uint least = part < 4 ? b & 63 : c >> 4 | b >> 6 << 4;
    *low = *high = vload_half(0, d) * (float)scale;
    *shift = -vload_half(1, d) * (float)least;
    return PAIR_OF(q4_k, 1 + 2 * (part >> 1)) >> (uint)(4 * (part & 1)) & NIBBLES;
}

inline uint8 codes_q6_k(PLACE, int part, float *low, float *high, float *shift) {
    const uint nibble = 4 * (part >> 1 & 1), two = 2 * (part & 3);
    const float d = EXTRA_OF(q6_k, 0);
    const uint scales = *word_of(units, lane, block * UNITS_q6_k + 12, part >> 1) >> 16 * (part & 1);
    *low = d * (float)as_char4(scales).s0;
    *high = d * (float)as_char4(scales).s1;
    const uint8 q = PAIR_OF(q6_k, 4 * (part >> 2) + 2 * (part & 1)) >> nibble & NIBBLES;
    const uint8 top = PAIR_OF(q6_k, 8 + 2 * (part >> 2)) >> two & 0x03030303u;
    return centred(q | top << 4, 32);
}

// Plain numbers: weights 4 j .. 4 j + 3 of a block of 32.
#define PLAIN_OF(kind)                                                                          \
    inline float4 plain_##kind(PLACE, int j) {                                                  \
        const size_t size = sizeof(STORED_##kind);                                              \
        const size_t word = ((block * 2 * size + j * size / 4) * LANES + lane) * 4 + j * size % 4; \
        return LOAD4(kind, (__global const STORED_##kind *)(units + word), 0);                   \
    }

PLAIN_OF(float)
PLAIN_OF(half)
PLAIN_OF(bfloat)

// Where a program has weights of one format.
#ifdef FORMAT
#define BLOCK JOIN(BLOCK_, FORMAT)
#define SHIFTED JOIN(SHIFTED_, FORMAT)
#define codes_of JOIN(codes_, FORMAT)
#define plain_of JOIN(plain_, FORMAT)
#endif

#ifdef BLOCK_READS
#pragma OPENCL EXTENSION cl_intel_subgroups : enable
#define AS_SUBGROUPS __attribute__((intel_reqd_sub_group_size(LANES)))
#else
#define AS_SUBGROUPS
#endif
