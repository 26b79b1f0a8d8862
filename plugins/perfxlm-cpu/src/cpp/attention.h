// Attention over the paged key/value cache, and the writing of that cache.
//
// The work is cut into items: a few query tokens of one sequence, and up to sixteen query heads
// that read the same key/value head. An item's rows (token, head) go over the keys once, a tile of
// keys at a time, with the running maximum and sum of an online softmax. Where there are fewer
// items than would keep all threads busy, each is cut along its keys as well, and the parts' sums
// are put together behind a barrier.
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

// sums[rows, d..] += weights[rows, n] * values[n, d..], for R rows and N vectors of columns;
// `value(j)` is where row j of the values begins. One vector may have only `live` lanes.
template <class E, int R, int N, class Value>
inline void add_values(const float* weights, int64_t weight_stride, Value value, int64_t n,
                       int64_t d, int64_t live, float* sums, int64_t stride) {
  F acc[R][N];
  for (int r = 0; r < R; ++r) {
    for (int i = 0; i < N; ++i) acc[r][i] = load(sums + r * stride + d + i * W);
  }
  for (int64_t j = 0; j < n; ++j) {
    F v[N];
    const auto* p = value(j) + d;
    for (int i = 0; i < N; ++i) {
      if constexpr (N == 1) {
        v[i] = load_elements<E>(p, live);
      } else {
        v[i] = E::load(p + i * W);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const F w = all(weights[r * weight_stride + j]);
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) acc[r][i] += w * v[i];
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int i = 0; i < N; ++i) store(sums + r * stride + d + i * W, acc[r][i]);
  }
}

template <class E, int R, class Value>
inline void add_some_rows(const float* weights, int64_t weight_stride, Value value, int64_t n,
                          int64_t dim, float* sums, int64_t stride) {
  int64_t d = 0;
  for (; d + kTile * W <= dim; d += kTile * W) {
    add_values<E, R, kTile>(weights, weight_stride, value, n, d, W, sums, stride);
  }
  for (; d < dim; d += W) {
    const int64_t live = dim - d < W ? dim - d : W;
    add_values<E, R, 1>(weights, weight_stride, value, n, d, live, sums, stride);
  }
}

template <class E, class Value>
inline void add_rows(int64_t rows, const float* weights, int64_t weight_stride, Value value,
                     int64_t n, int64_t dim, float* sums, int64_t stride) {
  for (; rows >= 4; rows -= 4, weights += 4 * weight_stride, sums += 4 * stride) {
    add_some_rows<E, 4>(weights, weight_stride, value, n, dim, sums, stride);
  }
  if (rows == 3) add_some_rows<E, 3>(weights, weight_stride, value, n, dim, sums, stride);
  if (rows == 2) add_some_rows<E, 2>(weights, weight_stride, value, n, dim, sums, stride);
  if (rows == 1) add_some_rows<E, 1>(weights, weight_stride, value, n, dim, sums, stride);
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

// Rows of the cache for keys [from, from + n) of the item's sequence.
template <class E>
inline void find_rows(const Attention& a, const Item& item, const uint8_t* cache, int64_t dim,
                      int64_t from, int64_t n, const typename E::type** rows) {
  const int32_t* table = a.block_tables + item.seq * a.max_blocks;
  int64_t block = from / a.block_size, place = from % a.block_size;
  for (int64_t j = 0; j < n; ++j) {
    const int64_t slot = (int64_t)table[block] * a.block_size + place;
    rows[j] = (const typename E::type*)cache + (slot * a.kv_heads + item.kv_head) * dim;
    if (++place == a.block_size) place = 0, ++block;
  }
}

// Brings the rows of keys [from, from + n) nearer while others are being worked on.
template <class E>
inline void prefetch_rows(const Attention& a, const Item& item, const uint8_t* cache, int64_t dim,
                          int64_t from, int64_t n) {
  const typename E::type* rows[kKeyTile];
  find_rows<E>(a, item, cache, dim, from, n, rows);
  const int64_t bytes = dim * (int64_t)sizeof(typename E::type);
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch((const char*)rows[j] + at);
  }
}

template <class E>
inline void score_keys(const Attention& a, const Item& item, const AttentionSpace& s,
                       const typename E::type* const* keys, int64_t n) {
  for (int64_t r = 0; r < item.rows(); r += kTile) {
    const int64_t count = item.rows() - r < kTile ? item.rows() - r : kTile;
    for (int64_t j = 0; j < n; j += 4) {
      float dots[16];
      dot_tokens<E>(count, keys + j, s.queries + r * a.head_dim, a.head_dim, a.head_dim, dots);
      for (int64_t i = 0; i < count; ++i) {
        std::memcpy(s.weights + (r + i) * kKeyTile + j, dots + 4 * i, sizeof(float) * 4);
      }
    }
  }
}

// Caps and masks the scores of keys [from, from + n), and makes them weights.
inline void weigh_keys(const Attention& a, const Item& item, const AttentionSpace& s, int64_t from,
                       int64_t n) {
  for (int64_t r = 0; r < item.rows(); ++r) {
    float* scores = s.weights + r * kKeyTile;
    if (a.cap > 0) {
      for (int64_t j = 0; j < n; j += W) store(scores + j, tanh(load(scores + j) / a.cap) * a.cap);
    }
    const int64_t position = item.position + r / item.heads;
    const int64_t oldest = a.window > 0 ? position - a.window + 1 : 0;
    for (int64_t j = 0; j < n && from + j < oldest; ++j) scores[j] = -kInfinity;
    const int64_t future = position + 1 - from < 0 ? 0 : position + 1 - from;
    for (int64_t j = future < n ? future : n; j < kKeyTile; ++j) scores[j] = -kInfinity;
    soften(scores, n, s.tops + r, s.totals + r, s.sums + r * padded(a.v_head_dim), a.v_head_dim);
  }
}

// keys [n, head_dim] to columns [head_dim, kKeyTile] of float32; columns from n on are anything.
template <class E>
inline void transpose_keys(const typename E::type* const* keys, int64_t n, int64_t head_dim,
                           float* columns) {
  for (int64_t j = 0; j < n; j += W) {
    for (int64_t d = 0; d < head_dim; d += W) {
      F block[W];
      for (int i = 0; i < W; ++i) {
        block[i] = load_elements<E>(keys[j + i < n ? j + i : j] + d, head_dim - d);
      }
      transpose(block);
      for (int i = 0; i < W; ++i) store(columns + (d + i) * kKeyTile + j, block[i]);
    }
  }
}

// Keys [from, from + n) of the item's sequence: scores, softmax, values.
template <class E>
inline void attend_tile(const Attention& a, const Item& item, const AttentionSpace& s,
                        int64_t from, int64_t n) {
  using T = typename E::type;
  const T *keys[kKeyTile + 3], *values[kKeyTile];
  find_rows<E>(a, item, a.k_cache, a.head_dim, from, n, keys);
  find_rows<E>(a, item, a.v_cache, a.v_head_dim, from, n, values);
  const int64_t wide = padded(a.v_head_dim);
  if (item.rows() <= 4) {
    for (int64_t j = n; j < n + 3; ++j) keys[j] = keys[0];  // scores come four at a time
    score_keys<E>(a, item, s, keys, n);
    weigh_keys(a, item, s, from, n);
    const auto value = [&](int64_t j) { return values[j]; };
    add_rows<E>(item.rows(), s.weights, kKeyTile, value, n, a.v_head_dim, s.sums, wide);
    return;
  }
  // For many rows: keys side by side in a vector, values converted once.
  transpose_keys<E>(keys, n, a.head_dim, s.keys);
  for (int64_t j = 0; j < n; ++j) widen<E>(values[j], s.values + j * a.v_head_dim, a.v_head_dim);
  std::memset(s.weights, 0, (size_t)(sizeof(float) * item.rows() * kKeyTile));
  const auto column = [&](int64_t d) { return s.keys + d * kKeyTile; };
  add_rows<Float32>(item.rows(), s.queries, a.head_dim, column, a.head_dim, kKeyTile, s.weights,
                    kKeyTile);
  weigh_keys(a, item, s, from, n);
  const auto value = [&](int64_t j) { return s.values + j * a.v_head_dim; };
  add_rows<Float32>(item.rows(), s.weights, kKeyTile, value, n, a.v_head_dim, s.sums, wide);
}

inline void begin_item(const Attention& a, const Item& item, const AttentionSpace& s, bool sinks) {
  for (int64_t r = 0; r < item.rows(); ++r) {
    const int64_t token = item.first + r / item.heads, head = item.head + r % item.heads;
    const float* q = a.q + (token * a.heads + head) * a.head_dim;
    fill(s.queries + r * a.head_dim, a.head_dim,
         [&](int64_t i, int64_t n) { return load_lanes(q, i, n) * a.scale; });
    s.tops[r] = sinks ? a.sinks[head] : -kInfinity;
    s.totals[r] = sinks ? 1.0f : 0.0f;
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

// The keys that some row of an item sees.
inline Range visible_keys(const Attention& a, const Item& item) {
  const int64_t oldest = a.window > 0 ? item.position - a.window + 1 : 0;
  return {oldest > 0 ? oldest : 0, item.position + item.tokens};
}

template <class E>
inline void attend(const Attention& a, const Item& item, const AttentionSpace& s, Range keys,
                   bool sinks) {
  begin_item(a, item, s, sinks);
  const auto length = [&](int64_t from) {
    return keys.end - from < kKeyTile ? keys.end - from : (int64_t)kKeyTile;
  };
  for (int64_t from = keys.begin; from < keys.end; from += kKeyTile) {
    const int64_t next = from + kKeyTile;
    if (next < keys.end && item.rows() <= 4) {
      prefetch_rows<E>(a, item, a.k_cache, a.head_dim, next, length(next));
      prefetch_rows<E>(a, item, a.v_cache, a.v_head_dim, next, length(next));
    }
    attend_tile<E>(a, item, s, from, length(from));
  }
}

// A part's rows in the shared workspace: sums, then maxima and totals.
inline float* part_space(const Attention& a, const Worker& w, int64_t part) {
  return (float*)w.shared + part * kItemRows * (padded(a.v_head_dim) + 2);
}

inline void save_part(const Attention& a, const Item& item, const AttentionSpace& s, float* to) {
  const int64_t rows = item.rows(), wide = padded(a.v_head_dim);
  std::memcpy(to, s.sums, (size_t)(sizeof(float) * rows * wide));
  std::memcpy(to + kItemRows * wide, s.tops, (size_t)(sizeof(float) * rows));
  std::memcpy(to + kItemRows * (wide + 1), s.totals, (size_t)(sizeof(float) * rows));
}

// Adds a part to what `s` holds of the same rows.
inline void add_part(const Attention& a, const Item& item, const AttentionSpace& s,
                     const float* from) {
  const int64_t wide = padded(a.v_head_dim);
  for (int64_t r = 0; r < item.rows(); ++r) {
    const float top = from[kItemRows * wide + r], total = from[kItemRows * (wide + 1) + r];
    if (top == -kInfinity) continue;
    const float now = top > s.tops[r] ? top : s.tops[r];
    const float old_share = std::exp(s.tops[r] - now), new_share = std::exp(top - now);
    s.totals[r] = s.totals[r] * old_share + total * new_share;
    s.tops[r] = now;
    const float* sums = from + r * wide;
    for (int64_t d = 0; d < wide; d += W) {
      const F sum = load(s.sums + r * wide + d) * old_share + load(sums + d) * new_share;
      store(s.sums + r * wide + d, sum);
    }
  }
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

// Parts that an item's keys are cut into: whole tiles, none empty.
inline int64_t count_parts(Range keys, int64_t wanted) {
  const int64_t tiles = (keys.end - keys.begin + kKeyTile - 1) / kKeyTile;
  return wanted < tiles ? wanted : tiles;
}

inline void paged_attention(const Call& c, const Worker& w) {
  const Attention a(c);
  const AttentionSpace space(w.workspace, a.head_dim, a.v_head_dim);
  const auto run = c.ints[5] == kCacheFloat16    ? attend<Float16>
                   : c.ints[5] == kCacheBFloat16 ? attend<BFloat16>
                                                 : attend<Float32>;
  int64_t items = 0, number = 0;
  each_item(a, [&](const Item&) { ++items; });
  const int64_t wanted = items == 0 ? 1 : w.count * kPartsPerThread / items;
  if (w.count == 1 || wanted <= 1) {
    each_item(a, [&](const Item& item) {
      if (number++ % w.count != w.id) return;
      run(a, item, space, visible_keys(a, item), a.sinks != nullptr);
      end_item(a, item, space);
    });
    return;
  }
  each_item(a, [&](const Item& item) {
    const Range keys = visible_keys(a, item);
    const int64_t parts = count_parts(keys, wanted);
    for (int part = 0; part < parts; ++part, ++number) {
      if (number % w.count != w.id) continue;
      const Range mine = share(keys.end - keys.begin, kKeyTile, part, (int)parts);
      run(a, item, space, {keys.begin + mine.begin, keys.begin + mine.end}, false);
      save_part(a, item, space, part_space(a, w, number));
    }
  });
  w.wait();
  int64_t first = 0;
  number = 0;
  each_item(a, [&](const Item& item) {
    const int64_t parts = count_parts(visible_keys(a, item), wanted);
    if (number++ % w.count == w.id) {
      begin_item(a, item, space, a.sinks != nullptr);
      for (int64_t part = 0; part < parts; ++part) {
        add_part(a, item, space, part_space(a, w, first + part));
      }
      end_item(a, item, space);
    }
    first += parts;
  });
}

}  // namespace perfxlm::PERFXLM_VARIANT
