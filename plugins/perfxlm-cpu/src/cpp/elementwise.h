// Kernels that treat each element by itself:
// out [rows, width], a, b or null | rows | width | two parameters
#pragma once

#include "rows.h"

namespace perfxlm::PERFXLM_VARIANT {

// Applies `value(a, b)`.
template <class Value>
inline void each(const Call& c, const Worker& w, Value value) {
  float* out = c.at<float>(0);
  const float *a = c.at<float>(1), *b = c.at<float>(2);
  const Range mine = share(c.sizes[0], 1, w.id, w.count);
  const int64_t first = mine.begin * c.ints[0];
  fill(out + first, mine.end * c.ints[0] - first, [=](int64_t i, int64_t n) {
    const F second = b == nullptr ? F{} : load_lanes(b + first, i, n);
    return value(load_lanes(a + first, i, n), second);
  });
}

inline void add(const Call& c, const Worker& w) {
  each(c, w, [](F a, F b) { return a + b; });
}

inline void mul(const Call& c, const Worker& w) {
  each(c, w, [](F a, F b) { return a * b; });
}

inline void scale(const Call& c, const Worker& w) {
  const float factor = c.floats[0], offset = c.floats[1];
  each(c, w, [=](F a, F) { return a * factor + offset; });
}

inline void soft_cap(const Call& c, const Worker& w) {
  const float cap = c.floats[0];
  each(c, w, [=](F a, F) { return tanh(a / cap) * cap; });
}

inline void silu(const Call& c, const Worker& w) {
  each(c, w, [](F a, F) { return a * sigmoid(a); });
}

inline void silu_and_mul(const Call& c, const Worker& w) {
  each(c, w, [](F a, F b) { return a * sigmoid(a) * b; });
}

// exp(x^2) * erfc(x) for x >= 0: t times a polynomial in t = 1 / (1 + x / 2), interpolated at
// Chebyshev's nodes over x <= 14; relative error 1.5e-7.
inline F scaled_erfc(F x) {
  const F t = 1.0f / (1.0f + 0.5f * x);
  F p = t * -0.0607807226f + 0.2925036252f;
  p = p * t - 0.5026363730f;
  p = p * t + 0.2944803536f;
  p = p * t - 0.0369893648f;
  p = p * t + 0.2066417933f;
  p = p * t + 0.2422181517f;
  p = p * t + 0.2824812531f;
  p = p * t + 0.2820812464f;
  return p * t;
}

// x * P(N(0, 1) <= x) = x * erfc(-x / sqrt(2)) / 2, without cancellation on either side.
inline F gelu_exact(F x) {
  const F y = abs(x) * 0.70710678f;
  const F tail = scaled_erfc(y) * exp(-y * y) * 0.5f;
  return x * (x < 0.0f ? tail : 1.0f - tail);
}

inline F gelu_tanh(F x) {
  // 1 + tanh(u) = 2 * sigmoid(2 * u)
  return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x));
}

inline void gelu(const Call& c, const Worker& w) {
  each(c, w, [](F a, F) { return gelu_exact(a); });
}

inline void gelu_and_mul(const Call& c, const Worker& w) {
  each(c, w, [](F a, F b) { return gelu_exact(a) * b; });
}

inline void fast_gelu(const Call& c, const Worker& w) {
  each(c, w, [](F a, F) { return gelu_tanh(a); });
}

inline void fast_gelu_and_mul(const Call& c, const Worker& w) {
  each(c, w, [](F a, F b) { return gelu_tanh(a) * b; });
}

}  // namespace perfxlm::PERFXLM_VARIANT
