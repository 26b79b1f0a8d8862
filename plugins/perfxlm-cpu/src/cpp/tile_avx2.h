// Products of a tile for AVX2, whose 8-bit products come in pairs, as 16-bit sums.
//
// Widening each of them costs as much as the products, so they are added up in 16 bits as long as
// they fit: eight pairs of products of 4-bit codes, 8 * 2 * 15 * 127, or two of 6-bit codes. A token's sums are the same, and added in the same order, however many
// tokens are multiplied at once.
#pragma once

#include "layout.h"

namespace perfxlm::PERFXLM_VARIANT {

constexpr int kVectors = 2;  // of rows, done at once: the whole tile

typedef int16_t S __attribute__((vector_size(4 * W)));

inline S products(I codes, I a) {
  return (S)_mm256_maddubs_epi16((__m256i)codes, (__m256i)a);
}

// Adds at once: compilers would keep many products for later, in memory.
inline void add_products(S& sums, I codes, I a) {
  sums += products(codes, a);
  forget(sums);
}

// Sums of neighbours.
inline I widened(S sums) {
  return (I)_mm256_madd_epi16((__m256i)sums, _mm256_set1_epi16(1));
}

inline I low_codes(I bytes) { return bytes & 0x0f0f0f0f; }
inline I high_codes(I bytes) { return (I)((U)bytes >> 4) & 0x0f0f0f0f; }

// Sums of a block's products for tokens [first, first + N), codes of 4 bits.
template <int N, int T>
[[gnu::always_inline]] inline void multiply_nibbles(const uint8_t* tile, const Block<T>& x, int first, I (*acc)[kVectors]) {
  S sums[N][kVectors]{};
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    const I a = load_as<I>(tile + 64 * g), b = load_as<I>(tile + 64 * g + 32);
    const I low[2] = {low_codes(a), low_codes(b)};
#pragma GCC unroll 4
    for (int t = 0; t < N; ++t) {
      const I four = same_bytes(&x.codes[first + t][8 * g]);
      for (int v = 0; v < kVectors; ++v) add_products(sums[t][v], low[v], four);
    }
    const I high[2] = {high_codes(a), high_codes(b)};
#pragma GCC unroll 4
    for (int t = 0; t < N; ++t) {
      const I four = same_bytes(&x.codes[first + t][8 * g + 4]);
      for (int v = 0; v < kVectors; ++v) add_products(sums[t][v], high[v], four);
    }
  }
  for (int t = 0; t < N; ++t) {
    for (int v = 0; v < kVectors; ++v) acc[t][v] = widened(sums[t][v]);
  }
}

// The same for vector `v` of the rows and codes of 8 bits, whose pairs of products fill 16 bits.
template <int N, int T>
[[gnu::always_inline]] inline void multiply_bytes(const uint8_t* tile, int v, const Block<T>& x,
                                                  I* acc) {
  for (int t = 0; t < N; ++t) acc[t] = I{};
#pragma GCC unroll 8
  for (int g = 0; g < 8; ++g) {
    const __m256i codes = load_as<__m256i>(tile + 64 * g + 32 * v);
    const I sizes = (I)_mm256_abs_epi8(codes);
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) {
      const __m256i four = (__m256i)same_bytes(&x.codes[t][4 * g]);
      acc[t] += widened(products(sizes, (I)_mm256_sign_epi8(four, codes)));
      forget(acc[t]);
    }
  }
}

// The same for half a block, 16 columns, of 6-bit codes.
template <int N, int T>
[[gnu::always_inline]] inline void multiply_six(const uint8_t* tile, int half, const Block<T>& x, int first,
                         I (*acc)[kVectors]) {
  for (int t = 0; t < N; ++t) acc[t][0] = acc[t][1] = I{};
#pragma GCC unroll 2
  for (int g = 2 * half; g < 2 * half + 2; ++g) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const I bytes = load_as<I>(tile + 64 * g + 32 * v);
      const I bits = (I)(load_as<U>(tile + 256 + 64 * half + 32 * v) >> (4 * (g % 2)));
      const I low = low_codes(bytes) | (bits & 0x03030303) << 4;
      const I high = high_codes(bytes) | (bits & 0x0c0c0c0c) << 2;
#pragma GCC unroll 4
      for (int t = 0; t < N; ++t) {
        const int8_t* codes = &x.codes[first + t][8 * g];
        acc[t][v] += widened(products(low, same_bytes(codes)) +
                             products(high, same_bytes(codes + 4)));
      }
    }
  }
}

// Adds a block's sums for vector `v` of the rows, times the scales of rows and tokens.
template <int N, class Sum>
[[gnu::always_inline]] inline void add_block(const uint8_t* scales, const float* x_scales, int v,
                                             Sum sum, F (*total)[kVectors]) {
  const F scale = load_half(scales + 16 * v);
#pragma GCC unroll 8
  for (int t = 0; t < N; ++t) total[t][v] += to_float(sum(t)) * (scale * x_scales[t]);
}

// One block of a tile with tokens [first, first + N).
template <int Kind, int N, int T>
[[gnu::always_inline]] inline void multiply_block(const uint8_t* tile, const Block<T>& x, int first,
                                                  F (*total)[kVectors]) {
  const float* x_scales = x.scales + first;
  I acc[N][kVectors];
  if constexpr (Kind == kTileQ6) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const int32_t* offsets = (half == 0 ? x.offsets : x.uppers) + first;
      multiply_six<N>(tile, half, x, first, acc);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const auto sum = [&](int t) { return acc[t][v] + offsets[t]; };
        add_block<N>(tile + 384 + 32 * half, x_scales, v, sum, total);
      }
    }
    return;
  }
  multiply_nibbles<N>(tile, x, first, acc);
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    const auto sum = [&](int t) {
      return Kind == kTileQ4_1 ? acc[t][v] : acc[t][v] + x.offsets[first + t];
    };
    add_block<N>(tile + 256, x_scales, v, sum, total);
    if constexpr (Kind == kTileQ4_1) {
      const F minimum = load_half(tile + 288 + 16 * v);
#pragma GCC unroll 4
      for (int t = 0; t < N; ++t) total[t][v] += minimum * x.sums[first + t];
    }
  }
}

template <int T>
[[gnu::always_inline]] inline void multiply_block8(const uint8_t* tile, const Block<T>& x,
                                                   F (*total)[kVectors]) {
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    I acc[T];
    multiply_bytes<T>(tile, v, x, acc);
    add_block<T>(tile + 512, x.scales, v, [&](int t) { return acc[t]; }, total);
  }
}

// A tile with T tokens; out[t] is its 16 rows.
template <int Kind, int T>
inline void multiply_tile(const uint8_t* tile, int, const Block<T>* x, int64_t blocks,
                          F (*out)[kVectors]) {
  constexpr int bytes = tile_block_bytes(Kind), N = T < 4 ? T : 4;
  F total[T][kVectors]{};
  for (int64_t b = 0; b < blocks; ++x) {
    prefetch(tile + 3072, bytes);
    if (T > 1) prefetch((const uint8_t*)x + 2048, sizeof *x);
    if constexpr (Kind == kTileQ8_0) {
      multiply_block8<T>(tile, *x, total);
    } else {
#pragma GCC unroll 2
      for (int first = 0; first < T; first += N) {
        multiply_block<Kind, N, T>(tile, *x, first, total + first);
      }
    }
    const int64_t step = x->again == 0;
    b += step;
    tile += step * bytes;
  }
  std::memcpy(out, total, sizeof total);
}

}  // namespace perfxlm::PERFXLM_VARIANT
