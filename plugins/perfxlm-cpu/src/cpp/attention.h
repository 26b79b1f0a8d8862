// Attention over the paged key/value cache, and the writing of that cache.
//
// The work is cut into items: a few query tokens of one sequence, and up to sixteen query heads
// that read the same key/value head. An item's rows (token, head) go over the keys once, a tile of
// keys at a time, with the running maximum and sum of an online softmax.
#pragma once

#include <cmath>

#include "layout.h"
#include "linear.h"

namespace perfxlm::PERFXLM_VARIANT {

enum Cache : int { kCacheFloat32, kCacheFloat16, kCacheBFloat16 };

// k, v, k_cache, v_cache, slot_mapping | tokens | elements of a k row, of a v row, cache kind
template <class E>
inline void store_rows(const Call& c, Range mine) {
  using T = typename E::type;
  const int32_t* slots = c.at<int32_t>(4);
  for (int part = 0; part < 2; ++part) {
    const int64_t n = c.ints[part];
    for (int64_t t = mine.begin; t < mine.end; ++t) {
      if (slots[t] >= 0) narrow<E>(c.at<float>(part) + t * n, c.at<T>(2 + part) + slots[t] * n, n);
    }
  }
}

inline void store_kv(const Call& c, const Worker& w) {
  const Range mine = share(c.sizes[0], 1, w.id, w.count);
  switch (c.ints[2]) {
    case kCacheFloat16: return store_rows<Float16>(c, mine);
    case kCacheBFloat16: return store_rows<BFloat16>(c, mine);
    default: return store_rows<Float32>(c, mine);
  }
}

// out, q, k_cache, v_cache, block_tables, seq_lens, query_starts, sinks or null
// | tokens, seqs, max_blocks
// | heads, kv_heads, head_dim, v_head_dim, block_size, cache kind, window or 0 | scale, soft_cap
struct Attention {
  float* out;
  const float *q, *sinks;
  const uint8_t *k_cache, *v_cache;
  const int32_t *block_tables, *seq_lens, *query_starts;
  int64_t seqs, max_blocks, heads, kv_heads, head_dim, v_head_dim, block_size, window;
  float scale, cap;

  explicit Attention(const Call& c)
      : out(c.at<float>(0)), q(c.at<float>(1)), sinks(c.at<float>(7)),
        k_cache(c.at<uint8_t>(2)), v_cache(c.at<uint8_t>(3)), block_tables(c.at<int32_t>(4)),
        seq_lens(c.at<int32_t>(5)), query_starts(c.at<int32_t>(6)), seqs(c.sizes[1]),
        max_blocks(c.sizes[2]), heads(c.ints[0]), kv_heads(c.ints[1]), head_dim(c.ints[2]),
        v_head_dim(c.ints[3]), block_size(c.ints[4]), window(c.ints[6]), scale(c.floats[0]),
        cap(c.floats[1]) {}
};

// What an item keeps between tiles, all in the thread's workspace.
struct AttentionSpace {
  float *queries, *keys, *values, *weights, *sums, *tops, *totals;

  AttentionSpace(unsigned char* memory, int64_t head_dim, int64_t v_head_dim) {
    auto* p = (float*)memory;
    const auto take = [&p](int64_t n) { return p += n, p - n; };
    queries = take(kItemRows * padded(head_dim));
    keys = take(kKeyTile * padded(head_dim));
    values = take(kKeyTile * padded(v_head_dim));
    weights = take(kItemRows * kKeyTile);
    sums = take(kItemRows * padded(v_head_dim));
    tops = take(kItemRows);
    totals = take(kItemRows);
  }
};

struct Item {
  int64_t seq, first, tokens;  // query tokens, counted in the whole batch
  int64_t kv_head, head, heads;
  int64_t position;  // of the first token

  int64_t rows() const { return tokens * heads; }
};

// sums[rows, dim] += weights[rows, keys] * values[keys, dim], for R rows and N vectors of columns.
template <int R, int N>
inline void add_values(const float* weights, const float* const* values, int64_t keys, int64_t d,
                       int64_t live, float* sums, int64_t stride) {
  F acc[R][N];
  const auto lanes = [=](const float* p, int n) {
    return n == N - 1 && live < W ? load_part(p + n * W, live) : load(p + n * W);
  };
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) acc[r][n] = load(sums + r * stride + d + n * W);
  }
  for (int64_t j = 0; j < keys; ++j) {
    F v[N];
    for (int n = 0; n < N; ++n) v[n] = lanes(values[j] + d, n);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const F p = all(weights[r * kKeyTile + j]);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) acc[r][n] += p * v[n];
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) store(sums + r * stride + d + n * W, acc[r][n]);
  }
}

template <int R>
inline void add_all_values(const float* weights, const float* const* values, int64_t keys,
                           int64_t dim, float* sums, int64_t stride) {
  int64_t d = 0;
  for (; d + kTile * W <= dim; d += kTile * W) {
    add_values<R, kTile>(weights, values, keys, d, W, sums, stride);
  }
  for (; d < dim; d += W) {
    const int64_t live = dim - d < W ? dim - d : W;
    add_values<R, 1>(weights, values, keys, d, live, sums, stride);
  }
}

// Scores of one row to softmax weights, in place; updates the row's maximum, total and sums.
inline void soften(float* scores, int64_t keys, float* top, float* total, float* sums,
                   int64_t dim) {
  F peak = all(*top);
  for (int64_t j = 0; j < kKeyTile; j += W) peak = max(peak, load(scores + j));
  const float now = largest(peak);
  if (now == -kInfinity) {
    std::memset(scores, 0, sizeof(float) * kKeyTile);
    return;
  }
  if (now != *top) {
    const float shrink = std::exp(*top - now);
    *total *= shrink;
    for (int64_t d = 0; d < dim; d += W) store(sums + d, load(sums + d) * shrink);
    *top = now;
  }
  F added{};
  for (int64_t j = 0; j < keys; j += W) {
    const F p = exp_weight(load(scores + j) - now);
    store(scores + j, p);
    added += p;
  }
  *total += sum(added);
}

template <class E>
inline const float* cache_row(const uint8_t* cache, int64_t row, int64_t dim, float* space) {
  const auto* p = (const typename E::type*)cache + row * dim;
  widen<E>(p, space, dim);
  return space;
}

template <>
inline const float* cache_row<Float32>(const uint8_t* cache, int64_t row, int64_t dim, float*) {
  return (const float*)cache + row * dim;
}

// Keys [from, to) of the item's sequence: scores, softmax, values.
template <class E>
inline void attend_tile(const Attention& a, const Item& item, const AttentionSpace& s,
                        int64_t from, int64_t to) {
  const float *keys[kKeyTile + 3], *values[kKeyTile];
  const int64_t n = to - from;
  const int32_t* table = a.block_tables + item.seq * a.max_blocks;
  for (int64_t j = 0; j < n; ++j) {
    const int64_t slot = (int64_t)table[(from + j) / a.block_size] * a.block_size;
    const int64_t row = (slot + (from + j) % a.block_size) * a.kv_heads + item.kv_head;
    keys[j] = cache_row<E>(a.k_cache, row, a.head_dim, s.keys + j * a.head_dim);
    values[j] = cache_row<E>(a.v_cache, row, a.v_head_dim, s.values + j * a.v_head_dim);
  }
  for (int64_t j = n; j < n + 3; ++j) keys[j] = keys[0];
  const int64_t rows = item.rows(), wide = padded(a.v_head_dim);
  for (int64_t r = 0; r < rows; r += kTile) {
    const int64_t count = rows - r < kTile ? rows - r : kTile;
    for (int64_t j = 0; j < n; j += 4) {
      float dots[16];
      dot_tokens(count, keys + j, s.queries + r * a.head_dim, a.head_dim, a.head_dim, dots);
      for (int64_t i = 0; i < count; ++i) {
        std::memcpy(s.weights + (r + i) * kKeyTile + j, dots + 4 * i, sizeof(float) * 4);
      }
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    float* scores = s.weights + r * kKeyTile;
    if (a.cap > 0) {
      for (int64_t j = 0; j < n; j += W) store(scores + j, tanh(load(scores + j) / a.cap) * a.cap);
    }
    const int64_t position = item.position + r / item.heads;
    const int64_t oldest = a.window > 0 ? position - a.window + 1 : 0;
    int64_t j = 0;
    for (; j < n && from + j < oldest; ++j) scores[j] = -kInfinity;
    for (j = position + 1 - from < 0 ? 0 : position + 1 - from; j < n; ++j) scores[j] = -kInfinity;
    for (j = n; j < kKeyTile; ++j) scores[j] = -kInfinity;
    soften(scores, n, s.tops + r, s.totals + r, s.sums + r * wide, a.v_head_dim);
  }
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    add_all_values<4>(s.weights + r * kKeyTile, values, n, a.v_head_dim, s.sums + r * wide, wide);
  }
  for (; r < rows; ++r) {
    add_all_values<1>(s.weights + r * kKeyTile, values, n, a.v_head_dim, s.sums + r * wide, wide);
  }
}

inline void begin_item(const Attention& a, const Item& item, const AttentionSpace& s) {
  for (int64_t r = 0; r < item.rows(); ++r) {
    const int64_t token = item.first + r / item.heads, head = item.head + r % item.heads;
    const float* q = a.q + (token * a.heads + head) * a.head_dim;
    fill(s.queries + r * a.head_dim, a.head_dim,
         [&](int64_t i, int64_t n) { return load_lanes(q, i, n) * a.scale; });
    s.tops[r] = a.sinks != nullptr ? a.sinks[head] : -kInfinity;
    s.totals[r] = a.sinks != nullptr ? 1.0f : 0.0f;
  }
  const int64_t wide = padded(a.v_head_dim);
  std::memset(s.sums, 0, (size_t)(sizeof(float) * item.rows() * wide));
}

inline void end_item(const Attention& a, const Item& item, const AttentionSpace& s) {
  const int64_t wide = padded(a.v_head_dim);
  for (int64_t r = 0; r < item.rows(); ++r) {
    const int64_t token = item.first + r / item.heads, head = item.head + r % item.heads;
    const float *sums = s.sums + r * wide, share = 1.0f / s.totals[r];
    fill(a.out + (token * a.heads + head) * a.v_head_dim, a.v_head_dim,
         [=](int64_t i, int64_t n) { return load_lanes(sums, i, n) * share; });
  }
}

template <class E>
inline void attend(const Attention& a, const Item& item, const AttentionSpace& s) {
  begin_item(a, item, s);
  const int64_t end = item.position + item.tokens;
  int64_t from = 0;
  if (a.window > 0 && item.position - a.window + 1 > 0) from = item.position - a.window + 1;
  for (; from < end; from += kKeyTile) {
    attend_tile<E>(a, item, s, from, from + kKeyTile < end ? from + kKeyTile : end);
  }
  end_item(a, item, s);
}

// Calls `visit` for every item of the batch, in an order that all threads share.
template <class Visit>
inline void each_item(const Attention& a, Visit visit) {
  const int64_t group = a.heads / a.kv_heads;
  const int64_t heads = group < kItemHeads ? group : kItemHeads;
  const int64_t step = kItemRows / heads;
  for (int64_t s = 0; s < a.seqs; ++s) {
    const int64_t begin = a.query_starts[s], end = a.query_starts[s + 1];
    for (int64_t first = begin; first < end; first += step) {
      const int64_t tokens = end - first < step ? end - first : step;
      const int64_t position = a.seq_lens[s] - (end - first);
      for (int64_t kv = 0; kv < a.kv_heads; ++kv) {
        for (int64_t h = 0; h < group; h += heads) {
          const int64_t count = group - h < heads ? group - h : heads;
          visit(Item{s, first, tokens, kv, kv * group + h, count, position});
        }
      }
    }
  }
}

inline void paged_attention(const Call& c, const Worker& w) {
  const Attention a(c);
  const AttentionSpace space(w.workspace, a.head_dim, a.v_head_dim);
  const auto run = c.ints[5] == kCacheFloat16    ? attend<Float16>
                   : c.ints[5] == kCacheBFloat16 ? attend<BFloat16>
                                                 : attend<Float32>;
  int64_t number = 0;
  each_item(a, [&](const Item& item) {
    if (number++ % w.count == w.id) run(a, item, space);
  });
}

}  // namespace perfxlm::PERFXLM_VARIANT
