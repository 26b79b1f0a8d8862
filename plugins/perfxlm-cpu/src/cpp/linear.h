// out = x * weight^T + bias in float32, for weights of every format.
//
// A thread takes some rows of the weight. It decodes four of them at a time, a stretch of columns
// that stays in L1, and multiplies them with all tokens, `kTile` at a time. For few tokens, plain
// dtypes are read where they lie, in the same stretches: a token's result has the same bits
// whatever tokens are beside it.
#pragma once

#include "rows.h"

namespace perfxlm::PERFXLM_VARIANT {

constexpr int64_t kStretch = 1024;  // columns decoded at once: 16 KiB of floats for four rows

// dots[t * 4 + r] = sum over n of x[t] * rows[r]
template <class E, int T>
inline void dot_tile(const typename E::type* const* rows, const float* x, int64_t stride,
                     int64_t n, float* dots) {
  F acc[T][4]{};
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    F r[4];
    for (int j = 0; j < 4; ++j) r[j] = E::load(rows[j] + i);
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
      const F v = load(x + t * stride + i);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) acc[t][j] += v * r[j];
    }
  }
  if (i < n) {
    for (int t = 0; t < T; ++t) {
      const F v = load_part(x + t * stride + i, n - i);
      for (int j = 0; j < 4; ++j) acc[t][j] += v * load_elements<E>(rows[j] + i, n - i);
    }
  }
  for (int t = 0; t < T; ++t) sum4(acc[t][0], acc[t][1], acc[t][2], acc[t][3], dots + 4 * t);
}

// The same for `count` tokens, at most `kTile`.
template <class E>
inline void dot_tokens(int64_t count, const typename E::type* const* rows, const float* x,
                       int64_t stride, int64_t n, float* dots) {
  if (count == 1) return dot_tile<E, 1>(rows, x, stride, n, dots);
  if (count == 3) return dot_tile<E, 3>(rows, x, stride, n, dots);
  if (count == kTile) return dot_tile<E, kTile>(rows, x, stride, n, dots);
  return dot_tile<E, 2>(rows, x, stride, n, dots);
}

struct ExactProduct {
  float* out;
  const float *x, *bias;
  const uint8_t* weight;
  int64_t tokens, rows, columns;
  int format;

  // Adds four rows' products with one token to `out`, the bias first where `fresh`.
  void add(int64_t token, int64_t row, int64_t live, const float* dots, bool fresh) const {
    float* target = out + token * rows + row;
    for (int64_t j = 0; j < live; ++j) {
      const float start = !fresh ? target[j] : bias != nullptr ? bias[row + j] : 0.0f;
      target[j] = start + dots[j];
    }
  }
};

// For few tokens: elements are converted as they are loaded, from four rows side by side.
template <class E>
inline void multiply_in_place(const ExactProduct& p, Range mine) {
  using T = typename E::type;
  for (int64_t row = mine.begin; row < mine.end; row += 4) {
    const int64_t live = mine.end - row < 4 ? mine.end - row : 4;
    for (int64_t k = 0; k == 0 || k < p.columns; k += kStretch) {
      const int64_t n = p.columns - k < kStretch ? p.columns - k : kStretch;
      const T* source[4];
      for (int64_t j = 0; j < 4; ++j) {
        source[j] = (const T*)p.weight + (row + (j < live ? j : 0)) * p.columns + k;
      }
      float dots[16];
      dot_tokens<E>(p.tokens, source, p.x + k, p.columns, n, dots);
      for (int64_t t = 0; t < p.tokens; ++t) p.add(t, row, live, dots + 4 * t, k == 0);
    }
  }
}

inline void multiply_decoded(const ExactProduct& p, Range mine) {
  const int64_t stride = row_bytes(p.format, p.columns);
  alignas(64) float decoded[4 * kStretch];
  const float* stretch[4];
  for (int64_t j = 0; j < 4; ++j) stretch[j] = decoded + j * kStretch;
  for (int64_t row = mine.begin; row < mine.end; row += 4) {
    const int64_t live = mine.end - row < 4 ? mine.end - row : 4;
    for (int64_t k = 0; k == 0 || k < p.columns; k += kStretch) {
      const int64_t n = p.columns - k < kStretch ? p.columns - k : kStretch;
      for (int64_t j = 0; j < 4; ++j) {
        const uint8_t* source = p.weight + (row + (j < live ? j : 0)) * stride;
        decode(p.format, source, k, n, decoded + j * kStretch);
      }
      for (int64_t t = 0; t < p.tokens; t += kTile) {
        float dots[16];
        const int64_t count = p.tokens - t < kTile ? p.tokens - t : kTile;
        dot_tokens<Float32>(count, stretch, p.x + t * p.columns + k, p.columns, n, dots);
        for (int64_t i = 0; i < count; ++i) p.add(t + i, row, live, dots + 4 * i, k == 0);
      }
    }
  }
}

// out [tokens, out_features], x, weight, bias or null | tokens
// | out_features, in_features, format
inline void linear(const Call& c, const Worker& w) {
  const ExactProduct p{c.at<float>(0),  c.at<float>(1), c.at<float>(3), c.at<uint8_t>(2),
                       c.sizes[0],      c.ints[0],      c.ints[1],      (int)c.ints[2]};
  const Range mine = share(p.rows, 4, w.id, w.count);
  const bool aligned = (uintptr_t)p.weight % (p.format == kFloat32 ? 4 : 2) == 0;
  if (p.tokens > 0 && p.tokens <= kTile && aligned) {
    if (p.format == kFloat32) return multiply_in_place<Float32>(p, mine);
    if (p.format == kFloat16) return multiply_in_place<Float16>(p, mine);
    if (p.format == kBFloat16) return multiply_in_place<BFloat16>(p, mine);
  }
  multiply_decoded(p, mine);
}

}  // namespace perfxlm::PERFXLM_VARIANT
