// Kernels that move or normalize rows: embedding, take_rows, rms_norm, layer_norm.
#pragma once

#include <cmath>

#include "decode.h"

namespace perfxlm::PERFXLM_VARIANT {

// out [tokens, hidden], token_ids, table | tokens | hidden, format
inline void embedding(const Call& c, const Worker& w) {
  float* out = c.at<float>(0);
  const int32_t* ids = c.at<int32_t>(1);
  const uint8_t* table = c.at<uint8_t>(2);
  const int64_t hidden = c.ints[0], format = c.ints[1];
  const int64_t stride = row_bytes((int)format, hidden);
  const Range mine = share(c.sizes[0], 1, w.id, w.count);
  for (int64_t t = mine.begin; t < mine.end; ++t) {
    decode((int)format, table + ids[t] * stride, 0, hidden, out + t * hidden);
  }
}

// out [rows, hidden], x, rows | rows | bytes of a row
inline void take_rows(const Call& c, const Worker& w) {
  auto* out = c.at<uint8_t>(0);
  const auto* x = c.at<uint8_t>(1);
  const int32_t* rows = c.at<int32_t>(2);
  const int64_t bytes = c.ints[0];
  const Range mine = share(c.sizes[0], 1, w.id, w.count);
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    std::memcpy(out + i * bytes, x + rows[i] * bytes, (size_t)bytes);
  }
}

template <class Term>
inline float sum_of(int64_t n, Term term) {
  F a{}, b{};
  int64_t i = 0;
  for (; i + 2 * W <= n; i += 2 * W) a += term(i, W), b += term(i + W, W);
  for (; i + W <= n; i += W) a += term(i, W);
  if (i < n) a += term(i, n - i);
  return sum(a + b);
}

// Lanes [i, i + n) of `p`, zeros behind; `n` is W or less.
inline F load_lanes(const float* p, int64_t i, int64_t n) {
  return n == W ? load(p + i) : load_part(p + i, n);
}

template <class Value>
inline void fill(float* out, int64_t n, Value value) {
  int64_t i = 0;
  for (; i + W <= n; i += W) store(out + i, value(i, (int64_t)W));
  if (i < n) store_part(out + i, value(i, n - i), n - i);
}

// out [rows, hidden], x, weight | rows | hidden | eps
inline void rms_norm(const Call& c, const Worker& w) {
  const float* weight = c.at<float>(2);
  const int64_t hidden = c.ints[0];
  const Range mine = share(c.sizes[0], 1, w.id, w.count);
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    const float* x = c.at<float>(1) + r * hidden;
    const float squares = sum_of(hidden, [x](int64_t i, int64_t n) {
      const F v = load_lanes(x, i, n);
      return v * v;
    });
    const float scale = 1.0f / std::sqrt(squares / (float)hidden + c.floats[0]);
    fill(c.at<float>(0) + r * hidden, hidden, [=](int64_t i, int64_t n) {
      return load_lanes(x, i, n) * scale * load_lanes(weight, i, n);
    });
  }
}

// out [rows, hidden], x, weight, bias or null | rows | hidden | eps
inline void layer_norm(const Call& c, const Worker& w) {
  const float *weight = c.at<float>(2), *bias = c.at<float>(3);
  const int64_t hidden = c.ints[0];
  const Range mine = share(c.sizes[0], 1, w.id, w.count);
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    const float* x = c.at<float>(1) + r * hidden;
    float* out = c.at<float>(0) + r * hidden;
    const float mean =
        sum_of(hidden, [x](int64_t i, int64_t n) { return load_lanes(x, i, n); }) / (float)hidden;
    fill(out, hidden, [=](int64_t i, int64_t n) { return load_lanes(x, i, n) - mean; });
    const float squares = sum_of(hidden, [out](int64_t i, int64_t n) {
      const F v = load_lanes(out, i, n);
      return v * v;
    });
    const float scale = 1.0f / std::sqrt(squares / (float)hidden + c.floats[0]);
    fill(out, hidden, [=](int64_t i, int64_t n) {
      const F y = load_lanes(out, i, n) * scale * load_lanes(weight, i, n);
      return bias == nullptr ? y : y + load_lanes(bias, i, n);
    });
  }
}

}  // namespace perfxlm::PERFXLM_VARIANT
