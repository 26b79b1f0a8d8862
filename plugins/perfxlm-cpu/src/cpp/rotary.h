// Rotary position embedding.
#pragma once

#include <cmath>

#include "rows.h"

namespace perfxlm::PERFXLM_VARIANT {

// cos [tokens, half], sin, positions, inverse_frequencies | tokens | half | attention_factor
inline void rotary_table(const Call& c, const Worker& w) {
  const int32_t* positions = c.at<int32_t>(2);
  const float* inverse = c.at<float>(3);
  const int64_t half = c.ints[0];
  const Range mine = share(c.sizes[0], 1, w.id, w.count);
  for (int64_t i = mine.begin * half; i < mine.end * half; ++i) {
    const float angle = (float)positions[i / half] * inverse[i % half];
    c.at<float>(0)[i] = (float)std::cos((double)angle) * c.floats[0];
    c.at<float>(1)[i] = (float)std::sin((double)angle) * c.floats[0];
  }
}

inline void turn_halves(const float* x, const float* cos, const float* sin, int64_t half,
                        float* out) {
  fill(out, half, [=](int64_t i, int64_t n) {
    return load_lanes(x, i, n) * load_lanes(cos, i, n) -
           load_lanes(x + half, i, n) * load_lanes(sin, i, n);
  });
  fill(out + half, half, [=](int64_t i, int64_t n) {
    return load_lanes(x + half, i, n) * load_lanes(cos, i, n) +
           load_lanes(x, i, n) * load_lanes(sin, i, n);
  });
}

inline void turn_neighbours(const float* x, const float* cos, const float* sin, int64_t half,
                            float* out) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    out[2 * i] = a * cos[i] - b * sin[i];
    out[2 * i + 1] = b * cos[i] + a * sin[i];
  }
}

// out [tokens, heads, head_dim], x, cos, sin | tokens | heads, head_dim, half, interleaved
inline void rotary_embedding(const Call& c, const Worker& w) {
  const int64_t heads = c.ints[0], head_dim = c.ints[1], half = c.ints[2];
  const auto turn = c.ints[3] != 0 ? turn_neighbours : turn_halves;
  const Range mine = share(c.sizes[0], 1, w.id, w.count);
  for (int64_t row = mine.begin * heads; row < mine.end * heads; ++row) {
    const float* x = c.at<float>(1) + row * head_dim;
    float* out = c.at<float>(0) + row * head_dim;
    const int64_t angles = row / heads * half;
    turn(x, c.at<float>(2) + angles, c.at<float>(3) + angles, half, out);
    std::memcpy(out + 2 * half, x + 2 * half, (size_t)(4 * (head_dim - 2 * half)));
  }
}

}  // namespace perfxlm::PERFXLM_VARIANT
