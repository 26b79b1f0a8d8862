// What this instruction set can do at most: kernels that only read, or only compute.
#pragma once

#include "linear_int8.h"

namespace perfxlm::PERFXLM_VARIANT {

constexpr int kChains = 12;  // independent sums: as many as two pipelines of six stages want

// results [threads], memory | bytes, a multiple of 64
inline void peak_read(const Call& c, const Worker& w) {
  const Range mine = share(c.sizes[0], 4096, w.id, w.count);
  const auto* p = c.at<uint8_t>(1);
  constexpr int64_t step = 8 * sizeof(I);
  I seen[8]{};
  int64_t at = mine.begin;
  for (; at + step <= mine.end; at += step) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) seen[i] |= load_as<I>(p + at + i * (int64_t)sizeof(I));
  }
  I all_seen{};
  for (int i = 0; i < 8; ++i) all_seen |= seen[i];
  c.at<int32_t>(0)[w.id] = sum(all_seen);
}

// results [threads], two factors | | rounds: each is kChains vectors of W multiplications and sums
inline void peak_float32(const Call& c, const Worker& w) {
  F a = all(c.at<float>(1)[0]), b = all(c.at<float>(1)[1]);
  F acc[kChains]{};
  for (F& one : acc) forget(one);
  for (int64_t i = 0; i < c.ints[0]; ++i) {
#pragma GCC unroll 12
    for (int k = 0; k < kChains; ++k) {
      forget(a);
      acc[k] = acc[k] * a + b;
    }
  }
  F total{};
  for (int k = 0; k < kChains; ++k) total += acc[k];
  c.at<float>(0)[w.id] = sum(total);
}

// The same with 4 * W products of 8-bit integers and their sums, as for codes of 4 bits.
inline void peak_int8(const Call& c, const Worker& w) {
  I a = all(c.at<int32_t>(1)[0] & 0x0f0f0f0f), b = all(c.at<int32_t>(1)[1]);
  I acc[kChains]{};
  for (I& one : acc) forget(one);
#if defined(__AVX2__) && !defined(__AVX512F__)
  for (int64_t i = 0; i < c.ints[0]; i += 8) {
    S sums[kChains]{};
#pragma GCC unroll 8
    for (int group = 0; group < 8; ++group) {
#pragma GCC unroll 12
      for (int k = 0; k < kChains; ++k) {
        forget(b);
        add_products(sums[k], a, b);
      }
    }
    for (int k = 0; k < kChains; ++k) acc[k] += widened(sums[k]);
  }
#else
  for (int64_t i = 0; i < c.ints[0]; ++i) {
#pragma GCC unroll 12
    for (int k = 0; k < kChains; ++k) {
      forget(b);
      acc[k] = dot_nibbles(acc[k], a, b);
    }
  }
#endif
  I total{};
  for (int k = 0; k < kChains; ++k) total += acc[k] >> 4;
  c.at<int32_t>(0)[w.id] = sum(total);
}

}  // namespace perfxlm::PERFXLM_VARIANT
