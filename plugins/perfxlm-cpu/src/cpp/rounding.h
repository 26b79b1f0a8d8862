// Activations rounded to 8 bits; see linear_int8.h.
#pragma once

#include "tile.h"

namespace perfxlm::PERFXLM_VARIANT {

inline float largest_of_block(const float* x) {
  F peak{};
  for (int i = 0; i < 32; i += W) peak = max(peak, abs(load(x + i)));
  return largest(peak);
}

#if defined(__AVX2__) && !defined(__AVX512F__)
// 32 whole numbers as bytes, in order.
inline void store_codes(const I* codes, int8_t* out) {
  const __m256i low = _mm256_packs_epi32((__m256i)codes[0], (__m256i)codes[1]);
  const __m256i high = _mm256_packs_epi32((__m256i)codes[2], (__m256i)codes[3]);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
  std::memcpy(out, &bytes, 32);
}
#else
inline void store_codes(const I* codes, int8_t* out) {
  for (int i = 0; i < 32 / W; ++i) {
    const B narrow = __builtin_convertvector(codes[i], B);
    std::memcpy(out + i * W, &narrow, W);
  }
}
#endif

// 32 activations whose largest magnitude is `top`: codes, and the sums of either half of them.
// Returns the scale.
inline float round_block(const float* x, float top, int8_t* codes, int32_t* sums) {
  const float inverse = top > 0 ? 127.0f / top : 0.0f;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  I whole[32 / W], total[2]{};
  for (int i = 0; i < 32 / W; ++i) {
    whole[i] = as_int(load(x + i * W) * inverse + magic) - as_int(all(magic));
    total[i * W / 16] += whole[i];
  }
  store_codes(whole, codes);
  sums[0] = sum(total[0]), sums[1] = sum(total[1]);
  return top / 127.0f;
}

// What rounding to these codes left over.
inline void leave(const float* x, const int8_t* codes, float scale, float* rest) {
  for (int i = 0; i < 32; ++i) rest[i] = x[i] - (float)codes[i] * scale;
}

constexpr float kOutlier = 2.0f;  // of the mean of the largest magnitudes of a token's blocks

template <int Kind, int T>
inline void set_token(Block<T>* block, int t, float scale, const int32_t* sums) {
  block->scales[t] = scale;
  if (Kind == kTileQ4_1) {
    block->sums[t] = scale * (float)(sums[0] + sums[1]);
  } else if (Kind == kTileQ6) {
    block->offsets[t] = -32 * sums[0];
    block->uppers[t] = -32 * sums[1];
  } else {
    block->offsets[t] = -(Kind == kTileQ4_0 ? 8 : kByteOffset) * (sums[0] + sums[1]);
  }
}

template <int Kind, int T>
inline void clear_token(Block<T>* block, int t) {
  constexpr int32_t nothing[2] = {0, 0};
  set_token<Kind>(block, t, 0.0f, nothing);
  std::memset(block->codes[t], 0, 32);
}

template <int Kind, int T>
inline void round_tokens(const float* x, int64_t columns, int64_t live, Block<T>* out) {
  const int64_t blocks = columns / 32;
  float limits[T];
  for (int t = 0; t < live; ++t) {
    float sum_of_tops = 0;
    for (int64_t b = 0; b < blocks; ++b) sum_of_tops += largest_of_block(x + t * columns + 32 * b);
    limits[t] = kOutlier * sum_of_tops / (float)blocks;
  }
  for (int64_t b = 0; b < blocks; ++b) {
    bool outlier[T]{};
    Block<T>* block = out++;
    block->again = 0;
    for (int t = 0; t < T; ++t) {
      if (t >= live) {
        clear_token<Kind>(block, t);
        continue;
      }
      const float* from = x + t * columns + 32 * b;
      const float top = largest_of_block(from);
      int32_t sums[2];
      const float scale = round_block(from, top, block->codes[t], sums);
      set_token<Kind>(block, t, scale, sums);
      outlier[t] = top > limits[t];
      block->again |= outlier[t];
    }
    if (!block->again) continue;
    Block<T>* second = out++;
    second->again = 0;
    for (int t = 0; t < T; ++t) {
      if (!outlier[t]) {
        clear_token<Kind>(second, t);
        continue;
      }
      alignas(64) float rest[32];
      leave(x + t * columns + 32 * b, block->codes[t], block->scales[t], rest);
      int32_t sums[2];
      const float scale = round_block(rest, largest_of_block(rest), second->codes[t], sums);
      set_token<Kind>(second, t, scale, sums);
    }
  }
}

}  // namespace perfxlm::PERFXLM_VARIANT
