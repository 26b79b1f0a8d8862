// Weights repacked into tiles; see linear_int8.h.
#pragma once

#include "decode.h"
#include "layout.h"

namespace perfxlm::PERFXLM_VARIANT {

// 32 weights of a row on their way into a tile: codes, and the one or two float16 that scale them.
struct Unpacked {
  uint8_t codes[32];
  uint16_t first, second;
};

inline Unpacked unpack_q8_0(const uint8_t* block) {
  Unpacked u{};
  std::memcpy(&u.first, block, 2);
  std::memcpy(u.codes, block + 2, 32);
  return u;
}

// Group `g` of eight of a q4_k block.
inline Unpacked unpack_q4_k(const uint8_t* block, int g) {
  Unpacked u{};
  int scale, minimum;
  six_bit_pair(block + 4, g, &scale, &minimum);
  u.first = float_to_half(half_at(block) * (float)scale);
  u.second = float_to_half(-(half_at(block + 2) * (float)minimum));
  const uint8_t* codes = block + 16 + g / 2 * 32;
  for (int i = 0; i < 32; ++i) u.codes[i] = codes[i] >> (g % 2 * 4) & 15;
  return u;
}

// Groups `2 * g` and `2 * g + 1` of sixteen of a q6_k block.
inline Unpacked unpack_q6_k(const uint8_t* block, int g) {
  Unpacked u{};
  const float d = half_at(block + 208);
  u.first = float_to_half(d * (float)(int8_t)block[192 + 2 * g]);
  u.second = float_to_half(d * (float)(int8_t)block[193 + 2 * g]);
  const int half = g / 4, part = g % 4;  // 128 weights to a half, in four parts of 32
  const uint8_t *low = block + 64 * half + part % 2 * 32, *high = block + 128 + 32 * half;
  for (int i = 0; i < 32; ++i) {
    u.codes[i] = (uint8_t)((low[i] >> (part / 2 * 4) & 15) | (high[i] >> (2 * part) & 3) << 4);
  }
  return u;
}

// Whether a float16 is a number: what is beyond 65504 is not.
inline bool is_finite(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

inline void pack_block(int kind, const Unpacked& u, int row, uint8_t* target) {
  uint8_t* scales = target + tile_block_bytes(kind) - 32;
  if (kind == kTileQ4_1 || kind == kTileQ6) {
    std::memcpy(scales + 2 * row, &u.second, 2);
    scales -= 32;
  }
  std::memcpy(scales + 2 * row, &u.first, 2);
  uint32_t words[8];  // four columns each
  std::memcpy(words, u.codes, 32);
  const auto put = [=](int at, uint32_t word) { std::memcpy(target + at + 4 * row, &word, 4); };
  if (kind == kTileQ8_0) {
    for (int g = 0; g < 8; ++g) put(64 * g, words[g]);
    return;
  }
  for (int g = 0; g < 4; ++g) {
    put(64 * g, (words[2 * g] & 0x0f0f0f0f) | (words[2 * g + 1] & 0x0f0f0f0f) << 4);
  }
  if (kind != kTileQ6) return;
  for (int p = 0; p < 2; ++p) {
    uint32_t bits = 0;
    for (int i = 0; i < 4; ++i) bits |= (words[4 * p + i] >> 4 & 0x03030303) << (2 * i);
    put(256 + 64 * p, bits);
  }
}

// The codes of a q4_0 or q4_1 block, column i beside column i + 16, as `pack_block` lays them out.
inline void pack_nibbles(const uint8_t* codes, int row, uint8_t* target) {
  constexpr uint32_t low = 0x0f0f0f0f;
  uint32_t words[4];
  std::memcpy(words, codes, 16);
  const auto put = [=](int g, uint32_t word) { std::memcpy(target + 64 * g + 4 * row, &word, 4); };
  for (int g = 0; g < 2; ++g) {
    const uint32_t a = words[2 * g], b = words[2 * g + 1];
    put(g, (a & low) | (b & low) << 4);
    put(2 + g, (a >> 4 & low) | (b & ~low));
  }
}

// Block `b` of 32 columns of a row. False if a float16 cannot hold its scale or minimum.
inline bool pack_columns(int format, const uint8_t* row_data, int64_t b, int row, uint8_t* target) {
  const BlockFormat known = block_format(format);
  const int per_block = known.block / 32, g = (int)(b % per_block);
  const uint8_t* block = row_data + b / per_block * known.bytes;
  if (format == kQ4_0 || format == kQ4_1) {
    const int scales = format == kQ4_0 ? 1 : 2;
    pack_nibbles(block + 2 * scales, row, target);
    bool finite = true;
    for (int i = 0; i < scales; ++i) {
      uint16_t half;
      std::memcpy(&half, block + 2 * i, 2);
      std::memcpy(target + 256 + 32 * i + 2 * row, &half, 2);
      finite &= is_finite(half);
    }
    return finite;
  }
  const Unpacked u = format == kQ4K   ? unpack_q4_k(block, g)
                     : format == kQ6K ? unpack_q6_k(block, g)
                                      : unpack_q8_0(block);
  pack_block(tile_kind(format), u, row, target);
  return is_finite(u.first) && is_finite(u.second);
}

// Tiles [first, last) of a weight [rows, columns], written front to back. False if a float16 cannot
// hold a scale or minimum.
inline bool pack(int format, const uint8_t* source, uint8_t* target, int64_t rows, int64_t columns,
                 int64_t first, int64_t last) {
  const int64_t blocks = columns / 32, bytes = tile_block_bytes(tile_kind(format));
  const int64_t stride = row_bytes(format, columns);
  bool finite = true;
  for (int64_t tile = first; tile < last; ++tile) {
    uint8_t* out = target + tile * blocks * bytes;
    const int64_t live = rows - tile * kTileRows < kTileRows ? rows - tile * kTileRows : kTileRows;
    if (live < kTileRows) std::memset(out, 0, (size_t)(blocks * bytes));
    for (int64_t b = 0; b < blocks; ++b, out += bytes) {
      for (int64_t row = 0; row < live; ++row) {
        const uint8_t* from = source + (tile * kTileRows + row) * stride;
        finite &= pack_columns(format, from, b, (int)row, out);
      }
    }
  }
  return finite;
}

}  // namespace perfxlm::PERFXLM_VARIANT
