// out = x * weight^T + bias in float32, for weights of every format.
//
// A thread takes some rows of the weight. It decodes four of them at a time, a stretch of columns
// that stays in L1, and multiplies them with all tokens, `kTile` at a time.
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

// out [tokens, out_features], x, weight, bias or null | tokens
// | out_features, in_features, format
inline void linear(const Call& c, const Worker& w) {
  float* out = c.at<float>(0);
  const float *x = c.at<float>(1), *bias = c.at<float>(3);
  const uint8_t* weight = c.at<uint8_t>(2);
  const int64_t tokens = c.sizes[0], rows = c.ints[0], columns = c.ints[1];
  const int format = (int)c.ints[2];
  const int64_t stride = row_bytes(format, columns);
  alignas(64) float decoded[4 * kStretch];
  const Range mine = share(rows, 4, w.id, w.count);
  for (int64_t row = mine.begin; row < mine.end; row += 4) {
    const int64_t live = mine.end - row < 4 ? mine.end - row : 4;
    for (int64_t k = 0; k == 0 || k < columns; k += kStretch) {
      const int64_t n = columns - k < kStretch ? columns - k : kStretch;
      const float* stretch[4];
      for (int64_t j = 0; j < 4; ++j) {
        const uint8_t* source = weight + (row + (j < live ? j : 0)) * stride;
        stretch[j] = decoded + j * kStretch;
        if (format == kFloat32 && (uintptr_t)source % 4 == 0) {
          stretch[j] = (const float*)source + k;
        } else {
          decode(format, source, k, n, decoded + j * kStretch);
        }
      }
      for (int64_t t = 0; t < tokens; t += kTile) {
        float dots[16];
        const int64_t count = tokens - t < kTile ? tokens - t : kTile;
        dot_tokens<Float32>(count, stretch, x + t * columns + k, columns, n, dots);
        for (int64_t i = 0; i < count; ++i) {
          float* target = out + (t + i) * rows + row;
          for (int64_t j = 0; j < live; ++j) {
            const float start = k != 0 ? target[j] : bias != nullptr ? bias[row + j] : 0.0f;
            target[j] = start + dots[4 * i + j];
          }
        }
      }
    }
  }
}

}  // namespace perfxlm::PERFXLM_VARIANT
