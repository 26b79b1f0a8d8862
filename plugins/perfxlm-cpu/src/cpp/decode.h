// Weights of every format as floats: one block after another.
//
// Arithmetic follows the definition of each format, see perfxlm_core/ops/block_codecs.py.
#pragma once

#include "kernel.h"
#include "simd.h"

namespace perfxlm::PERFXLM_VARIANT {

inline float half_at(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  return half_to_float(h);
}

inline void decode_q4_0(const uint8_t* b, float* w) {
  const float d = half_at(b);
  for (int i = 0; i < 16; ++i) {
    w[i] = d * ((b[2 + i] & 15) - 8);
    w[i + 16] = d * ((b[2 + i] >> 4) - 8);
  }
}

inline void decode_q4_1(const uint8_t* b, float* w) {
  const float d = half_at(b), m = half_at(b + 2);
  for (int i = 0; i < 16; ++i) {
    w[i] = d * (b[4 + i] & 15) + m;
    w[i + 16] = d * (b[4 + i] >> 4) + m;
  }
}

// The fifth bits of 32 codes, one byte each, as 0 or 16.
inline void fifth_bits(const uint8_t* b, uint8_t* high) {
  for (int i = 0; i < 32; ++i) high[i] = (uint8_t)((b[i / 8] >> (i % 8) & 1) << 4);
}

inline void decode_q5_0(const uint8_t* b, float* w) {
  const float d = half_at(b);
  uint8_t high[32];
  fifth_bits(b + 2, high);
  for (int i = 0; i < 16; ++i) {
    w[i] = d * (((b[6 + i] & 15) | high[i]) - 16);
    w[i + 16] = d * (((b[6 + i] >> 4) | high[i + 16]) - 16);
  }
}

inline void decode_q5_1(const uint8_t* b, float* w) {
  const float d = half_at(b), m = half_at(b + 2);
  uint8_t high[32];
  fifth_bits(b + 4, high);
  for (int i = 0; i < 16; ++i) {
    w[i] = d * ((b[8 + i] & 15) | high[i]) + m;
    w[i + 16] = d * ((b[8 + i] >> 4) | high[i + 16]) + m;
  }
}

inline void decode_q8_0(const uint8_t* b, float* w) {
  const float d = half_at(b);
  for (int i = 0; i < 32; ++i) w[i] = d * (int8_t)b[2 + i];
}

inline void decode_q2_k(const uint8_t* b, float* w) {
  const float d = half_at(b + 80), dmin = half_at(b + 82);
  for (int g = 0; g < 16; ++g) {
    const uint8_t* codes = b + 16 + g / 8 * 32 + g % 2 * 16;
    const int shift = g % 8 / 2 * 2;
    const float scale = d * (b[g] & 15), minimum = dmin * (b[g] >> 4);
    for (int i = 0; i < 16; ++i) w[16 * g + i] = scale * (codes[i] >> shift & 3) - minimum;
  }
}

inline void decode_q3_k(const uint8_t* b, float* w) {
  const float d = half_at(b + 108);
  const uint8_t* packed = b + 96;
  for (int g = 0; g < 16; ++g) {
    const uint8_t* codes = b + 32 + g / 8 * 32 + g % 2 * 16;
    const uint8_t* high = b + g % 2 * 16;
    const int shift = g % 8 / 2 * 2, bit = g / 2;
    const int low4 = g < 8 ? packed[g] & 15 : packed[g - 8] >> 4;
    const int high2 = packed[8 + g % 4] >> (g / 4 * 2) & 3;
    const float scale = d * ((low4 | high2 << 4) - 32);
    for (int i = 0; i < 16; ++i) {
      w[16 * g + i] = scale * (((codes[i] >> shift & 3) | (high[i] >> bit & 1) << 2) - 4);
    }
  }
}

// Scale and minimum, 6 bits each, of group `g` of eight.
inline void six_bit_pair(const uint8_t* packed, int g, int* scale, int* minimum) {
  if (g < 4) {
    *scale = packed[g] & 63;
    *minimum = packed[g + 4] & 63;
  } else {
    *scale = (packed[g + 4] & 15) | packed[g - 4] >> 6 << 4;
    *minimum = packed[g + 4] >> 4 | packed[g] >> 6 << 4;
  }
}

inline void decode_q4_k(const uint8_t* b, float* w) {
  const float d = half_at(b), dmin = half_at(b + 2);
  for (int g = 0; g < 8; ++g) {
    int s, m;
    six_bit_pair(b + 4, g, &s, &m);
    const float scale = d * s, minimum = dmin * m;
    const uint8_t* codes = b + 16 + g / 2 * 32;
    const int shift = g % 2 * 4;
    for (int i = 0; i < 32; ++i) w[32 * g + i] = scale * (codes[i] >> shift & 15) - minimum;
  }
}

inline void decode_q5_k(const uint8_t* b, float* w) {
  const float d = half_at(b), dmin = half_at(b + 2);
  for (int g = 0; g < 8; ++g) {
    int s, m;
    six_bit_pair(b + 4, g, &s, &m);
    const float scale = d * s, minimum = dmin * m;
    const uint8_t *codes = b + 48 + g / 2 * 32, *high = b + 16;
    const int shift = g % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int code = (codes[i] >> shift & 15) | (high[i] >> g & 1) << 4;
      w[32 * g + i] = scale * code - minimum;
    }
  }
}

inline void decode_q6_k(const uint8_t* b, float* w) {
  const float d = half_at(b + 208);
  for (int g = 0; g < 16; ++g) {
    const int half = g / 8, part = g % 8;  // 128 weights to a half, in four parts of 32
    const uint8_t* low = b + 64 * half + part % 4 * 16;
    const uint8_t* high = b + 128 + 32 * half + part % 2 * 16;
    const int shift = part / 4 * 4, pair = part / 2 * 2;
    const float scale = d * (int8_t)b[192 + g];
    for (int i = 0; i < 16; ++i) {
      w[16 * g + i] = scale * (((low[i] >> shift & 15) | (high[i] >> pair & 3) << 4) - 32);
    }
  }
}

constexpr int8_t nibble_table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};

inline void decode_iq4_nl(const uint8_t* b, float* w) {
  const float d = half_at(b);
  for (int i = 0; i < 16; ++i) {
    w[i] = d * nibble_table[b[2 + i] & 15];
    w[i + 16] = d * nibble_table[b[2 + i] >> 4];
  }
}

inline void decode_iq4_xs(const uint8_t* b, float* w) {
  const float d = half_at(b);
  const int high = b[2] | b[3] << 8;
  for (int g = 0; g < 8; ++g) {
    const int scale = (b[4 + g / 2] >> (g % 2 * 4) & 15) | (high >> (2 * g) & 3) << 4;
    const float ds = d * (scale - 32);
    const uint8_t* codes = b + 8 + 16 * g;
    for (int i = 0; i < 16; ++i) {
      w[32 * g + i] = ds * nibble_table[codes[i] & 15];
      w[32 * g + i + 16] = ds * nibble_table[codes[i] >> 4];
    }
  }
}

struct BlockFormat {
  int block;  // weights
  int bytes;
  void (*decode)(const uint8_t*, float*);  // null for plain dtypes
};

inline BlockFormat block_format(int format) {
  switch (format) {
    case kFloat32: return {1, 4, nullptr};
    case kFloat16: return {1, 2, nullptr};
    case kBFloat16: return {1, 2, nullptr};
    case kQ4_0: return {32, 18, decode_q4_0};
    case kQ4_1: return {32, 20, decode_q4_1};
    case kQ5_0: return {32, 22, decode_q5_0};
    case kQ5_1: return {32, 24, decode_q5_1};
    case kQ8_0: return {32, 34, decode_q8_0};
    case kQ2K: return {256, 84, decode_q2_k};
    case kQ3K: return {256, 110, decode_q3_k};
    case kQ4K: return {256, 144, decode_q4_k};
    case kQ5K: return {256, 176, decode_q5_k};
    case kQ6K: return {256, 210, decode_q6_k};
    case kIQ4NL: return {32, 18, decode_iq4_nl};
    default: return {256, 136, decode_iq4_xs};
  }
}

inline int64_t row_bytes(int format, int64_t columns) {
  const BlockFormat f = block_format(format);
  return columns / f.block * f.bytes;
}

// Weights `[first, first + n)` of a row; both are multiples of the format's block.
inline void decode(int format, const uint8_t* row, int64_t first, int64_t n, float* out) {
  const BlockFormat f = block_format(format);
  const uint8_t* p = row + first / f.block * f.bytes;
  if (format == kFloat32) {
    std::memcpy(out, p, 4 * n);
  } else if (format == kFloat16) {
    widen<Float16>((const uint16_t*)p, out, n);
  } else if (format == kBFloat16) {
    widen<BFloat16>((const uint16_t*)p, out, n);
  } else {
    for (int64_t i = 0; i < n; i += f.block, p += f.bytes) f.decode(p, out + i);
  }
}

}  // namespace perfxlm::PERFXLM_VARIANT
