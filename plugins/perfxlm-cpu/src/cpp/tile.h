// Products of a tile of packed weights with rounded activations; see linear_int8.h.
#pragma once

#include "layout.h"
#include "rows.h"

namespace perfxlm::PERFXLM_VARIANT {

// Activations of T tokens, 32 columns.
template <int T>
struct Block {
  int8_t codes[T][32];
  float scales[T];
  union {
    float sums[T];       // q4_1: scale * sum of the codes, which the minimum multiplies
    int32_t offsets[T];  // others: what the integer sum starts with, so that codes may be unsigned
  };
  int32_t uppers[T];  // q6: the same for columns 16 to 31
  int32_t again;  // whether the next block is of the same columns
};
static_assert(2 * sizeof(Block<1>) == kColumnBytes, "linear_int8_workspace counts on it");
static_assert(sizeof(Block<8>) <= 8 * sizeof(Block<1>));

#if defined(__AVX512VNNI__)
constexpr int kByteOffset = 128;  // signed weight codes are made unsigned by adding this
#else
constexpr int kByteOffset = 0;
#endif

// acc[i] += the four products of unsigned bytes of w[i] (at most 63 unless VNNI) and signed of a[i].
inline I dot_nibbles(I acc, I w, I a) {
#if defined(__AVX512VNNI__)
  return (I)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, (__m512i)a);
#elif defined(__AVX512F__)
  const __m512i pairs = _mm512_maddubs_epi16((__m512i)w, (__m512i)a);
  return acc + (I)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#elif defined(__AVX2__)
  const __m256i pairs = _mm256_maddubs_epi16((__m256i)w, (__m256i)a);
  return acc + (I)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(__ARM_FEATURE_DOTPROD)
  return (I)vdotq_s32((int32x4_t)acc, (int8x16_t)w, (int8x16_t)a);
#elif defined(__SSE2__)
  const auto even = [](I v) { return _mm_srai_epi16(_mm_slli_epi16((__m128i)v, 8), 8); };
  const auto odd = [](I v) { return _mm_srai_epi16((__m128i)v, 8); };
  acc += (I)_mm_madd_epi16(even(w), even(a));
  return acc + (I)_mm_madd_epi16(odd(w), odd(a));
#else
  for (int j = 0; j < 32; j += 8) acc += (w << (24 - j) >> 24) * (a << (24 - j) >> 24);
  return acc;
#endif
}

// The same for signed bytes w[i]; with VNNI they come out as if 128 had been added to each.
inline I dot_bytes(I acc, I w, I a) {
#if defined(__AVX512VNNI__)
  return dot_nibbles(acc, w ^ (int32_t)0x80808080, a);
#elif defined(__AVX512F__)
  const __m512i b = (__m512i)a, v = (__m512i)w;
  const __m512i turned = _mm512_mask_sub_epi8(b, _mm512_movepi8_mask(v), __m512i{}, b);
  return dot_nibbles(acc, (I)_mm512_abs_epi8(v), (I)turned);
#else
  return dot_nibbles(acc, w, a);
#endif
}

inline I same_bytes(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return all(four);
}

inline void prefetch(const uint8_t* p, int bytes) {
  for (int i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
}

}  // namespace perfxlm::PERFXLM_VARIANT

#if defined(__AVX2__) && !defined(__AVX512F__)
#include "tile_avx2.h"
#else
namespace perfxlm::PERFXLM_VARIANT {

constexpr int kVectors = 1;  // of rows, done at once

// Rows `[lane, lane + W)` of one tile with T tokens; out[t] is one vector.
template <int Kind, int T>
inline void multiply_tile(const uint8_t* tile, int lane, const Block<T>* x, int64_t blocks,
                          F (*out)[kVectors]) {
  constexpr int bytes = tile_block_bytes(Kind);
  constexpr int scales = Kind == kTileQ8_0 ? 512 : Kind == kTileQ6 ? 384 : 256;
  F total[T]{};
  for (int64_t b = 0; b < blocks; ++x) {
    prefetch(tile + 3072, bytes);
    I acc[T];
    for (int t = 0; t < T; ++t) acc[t] = Kind == kTileQ4_1 ? I{} : all(x->offsets[t]);
    if constexpr (Kind == kTileQ8_0) {
#pragma GCC unroll 8
      for (int g = 0; g < 8; ++g) {
        const I w = load_as<I>(tile + 64 * g + 4 * lane);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) acc[t] = dot_bytes(acc[t], w, same_bytes(&x->codes[t][4 * g]));
      }
    } else {
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) {
        const U pair = load_as<U>(tile + 64 * g + 4 * lane);
        I low = (I)(pair & 0x0f0f0f0f), high = (I)(pair >> 4 & 0x0f0f0f0f);
        if constexpr (Kind == kTileQ6) {
          const U bits = load_as<U>(tile + 256 + 64 * (g / 2) + 4 * lane) >> (4 * (g % 2));
          low |= (I)((bits & 0x03030303) << 4);
          high |= (I)((bits & 0x0c0c0c0c) << 2);
          if (g == 2) {
            const F scale = load_half(tile + scales + 2 * lane);
#pragma GCC unroll 8
            for (int t = 0; t < T; ++t) {
              total[t] += to_float(acc[t]) * (scale * x->scales[t]);
              acc[t] = all(x->uppers[t]);
            }
          }
        }
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) {
          acc[t] = dot_nibbles(acc[t], low, same_bytes(&x->codes[t][8 * g]));
          acc[t] = dot_nibbles(acc[t], high, same_bytes(&x->codes[t][8 * g + 4]));
        }
      }
    }
    const F scale = load_half(tile + scales + (Kind == kTileQ6 ? 32 : 0) + 2 * lane);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) total[t] += to_float(acc[t]) * (scale * x->scales[t]);
    if constexpr (Kind == kTileQ4_1) {
      const F minimum = load_half(tile + scales + 32 + 2 * lane);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) total[t] += minimum * x->sums[t];
    }
    const int64_t step = x->again == 0;
    b += step;
    tile += step * bytes;
  }
  for (int t = 0; t < T; ++t) out[t][0] = total[t];
}

}  // namespace perfxlm::PERFXLM_VARIANT
#endif
