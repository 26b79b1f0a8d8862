// A tile of keys of paged attention: scores, weights, and the sums of values.
//
// A row's arithmetic is the same whatever rows are beside it: the key at position p has lane p % 64
// of its tile, a score is one chain of sums along head_dim, and values are added in the order of
// their positions.
#pragma once

#include <algorithm>
#include <cmath>

#include "layout.h"
#include "linear.h"

namespace perfxlm::PERFXLM_VARIANT {

// An item with more rows has its keys and values converted once for all of them.
constexpr int kFewRows = 8;

enum Cache : int { kCacheFloat32, kCacheFloat16, kCacheBFloat16, kCacheInt8 };

// out, q, k_cache, v_cache, block_tables, seq_lens, query_starts, sinks or null,
// k_scales, v_scales (caches of int8 only)
// | tokens, seqs, max_blocks
// | heads, kv_heads, head_dim, v_head_dim, block_size, cache kind, window or 0 | scale, soft_cap
struct Attention {
  float* out;
  const float *q, *sinks, *k_scales, *v_scales;
  const uint8_t *k_cache, *v_cache;
  const int32_t *block_tables, *seq_lens, *query_starts;
  int64_t seqs, max_blocks, heads, kv_heads, head_dim, v_head_dim, block_size, window;
  float scale, cap;

  explicit Attention(const Call& c)
      : out(c.at<float>(0)), q(c.at<float>(1)), sinks(c.at<float>(7)),
        k_scales(c.at<float>(8)), v_scales(c.at<float>(9)), k_cache(c.at<uint8_t>(2)),
        v_cache(c.at<uint8_t>(3)), block_tables(c.at<int32_t>(4)),
        seq_lens(c.at<int32_t>(5)), query_starts(c.at<int32_t>(6)), seqs(c.sizes[1]),
        max_blocks(c.sizes[2]), heads(c.ints[0]), kv_heads(c.ints[1]), head_dim(c.ints[2]),
        v_head_dim(c.ints[3]), block_size(c.ints[4]), window(c.ints[6]), scale(c.floats[0]),
        cap(c.floats[1]) {}
};

// An online softmax of some rows: sums of values, largest scores, and sums of weights.
struct Running {
  float *sums, *tops, *totals;

  // `rows` rows of values, `wide` floats apart.
  Running(float* memory, int64_t rows, int64_t wide)
      : sums(memory), tops(memory + rows * wide), totals(memory + rows * (wide + 1)) {}

  static int64_t floats(int64_t rows, int64_t wide) { return rows * (wide + 2); }

  void clear(int64_t rows, int64_t wide) const {
    std::memset(sums, 0, (size_t)(sizeof(float) * rows * wide));
    for (int64_t r = 0; r < rows; ++r) tops[r] = -kInfinity, totals[r] = 0;
  }
};

// What an item keeps between tiles, all in the thread's workspace.
struct AttentionSpace {
  float *queries, *columns, *keys, *values, *weights, *whole, *part;

  AttentionSpace(unsigned char* memory, int64_t head_dim, int64_t v_head_dim) {
    auto* p = (float*)memory;
    const auto take = [&p](int64_t n) { return p += n, p - n; };
    queries = take(kItemRows * padded(head_dim));
    columns = take(kKeyTile * padded(head_dim));
    keys = take(kKeyTile * padded(head_dim));
    values = take(kKeyTile * padded(v_head_dim));
    weights = take(kItemRows * kKeyTile);
    whole = take(Running::floats(kItemRows, padded(v_head_dim)));
    part = take(Running::floats(kItemRows, padded(v_head_dim)));
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

// Whether some of a row's scores are not numbers.
inline bool has_nan(const float* scores, int64_t keys) {
  for (int64_t j = 0; j < keys; ++j) {
    if (scores[j] != scores[j]) return true;
  }
  return false;
}

// Scores of rows to softmax weights, in place; updates what runs. Not inlined: the compiler may
// contract the same products and sums differently in two places.
[[gnu::noinline]] inline void soften(int64_t rows, float* scores, int64_t keys, const Running& to,
                                     int64_t dim) {
  float tops[kItemRows], shrinks[kItemRows];
  for (int64_t r = 0; r < rows; ++r) {
    F peak = all(to.tops[r]);
    // what is no number is passed over, so that the largest does not depend on what is masked
    for (int64_t j = 0; j < kKeyTile; j += W) peak = max(load(scores + r * kKeyTile + j), peak);
    tops[r] = largest(peak);
  }
  for (int64_t r = 0; r < rows; r += W) {
    const int64_t n = rows - r < W ? rows - r : W;
    store(shrinks + r, exp_weight(load_lanes(to.tops, r, n) - load_lanes(tops, r, n)));
  }
  for (int64_t r = 0; r < rows; ++r, scores += kKeyTile) {
    const float top = tops[r];
    if (top == -kInfinity) {
      if (has_nan(scores, keys)) to.totals[r] = __builtin_nanf("");
      std::memset(scores, 0, sizeof(float) * kKeyTile);
      continue;
    }
    if (top != to.tops[r]) {
      float* sums = to.sums + r * padded(dim);
      to.totals[r] *= shrinks[r];
      for (int64_t d = 0; d < dim; d += W) store(sums + d, load(sums + d) * shrinks[r]);
      to.tops[r] = top;
    }
    F added{};
    for (int64_t j = 0; j < keys; j += W) {
      const F p = exp_weight(load(scores + j) - top);
      store(scores + j, p);
      added += p;
    }
    to.totals[r] += sum(added);
  }
}

// Keys [from + skip, from + n) of a sequence; `from` is where a tile begins.
struct Tile {
  int64_t from, skip, n;
};

// Calls `visit(key's place in the tile, its slot)` for a tile's keys.
template <class Visit>
inline void each_slot(const Attention& a, const Item& item, const Tile& tile, Visit visit) {
  const int32_t* table = a.block_tables + item.seq * a.max_blocks;
  const int64_t first = tile.from + tile.skip;
  int64_t block = first / a.block_size, place = first % a.block_size;
  for (int64_t j = tile.skip; j < tile.n; ++j) {
    visit(j, (int64_t)table[block] * a.block_size + place);
    if (++place == a.block_size) place = 0, ++block;
  }
}

// Rows of the cache for a tile's keys. Those skipped, which are masked, are like the first.
template <class E>
inline void find_rows(const Attention& a, const Item& item, const uint8_t* cache, int64_t dim,
                      const Tile& tile, const typename E::type** rows) {
  each_slot(a, item, tile, [&](int64_t j, int64_t slot) {
    rows[j] = (const typename E::type*)cache + (slot * a.kv_heads + item.kv_head) * dim;
  });
  for (int64_t j = 0; j < tile.skip; ++j) rows[j] = rows[tile.skip];
}

// Numbers of rows times the scales of a tile's keys; those of keys that are not there are zero.
inline void scale_keys(const Attention& a, const Item& item, const float* scales, const Tile& tile,
                       float* numbers) {
  alignas(64) float factors[kKeyTile]{};
  each_slot(a, item, tile, [&](int64_t j, int64_t slot) {
    factors[j] = scales[slot * a.kv_heads + item.kv_head];
  });
  for (int64_t r = 0; r < item.rows(); ++r, numbers += kKeyTile) {
    for (int64_t j = 0; j < kKeyTile; j += W) {
      store(numbers + j, load(numbers + j) * load(factors + j));
    }
  }
}

// Keys of a tile that a row sees: from `begin` on, `end` excluded.
struct Seen {
  int64_t begin, end;
};

inline Seen seen_by(const Attention& a, const Item& item, const Tile& tile, int64_t row) {
  const int64_t position = item.position + row / item.heads;
  const int64_t oldest = a.window > 0 ? position - a.window + 1 : 0;
  const auto within = [&](int64_t key) { return std::clamp(key - tile.from, int64_t{0}, tile.n); };
  return {within(oldest), within(position + 1)};
}

// Weights times the values' scales. Those of masked keys stay zero, were a scale infinite.
inline void scale_values(const Attention& a, const Item& item, const Tile& tile, float* weights) {
  scale_keys(a, item, a.v_scales, tile, weights);
  for (int64_t r = 0; r < item.rows(); ++r, weights += kKeyTile) {
    const Seen seen = seen_by(a, item, tile, r);
    std::fill(weights, weights + seen.begin, 0.0f);
    std::fill(weights + seen.end, weights + tile.n, 0.0f);
  }
}

// Caps and masks the scores of a tile, and makes them weights.
inline void weigh_keys(const Attention& a, const Item& item, const AttentionSpace& s,
                       const Tile& tile, const Running& to) {
  for (int64_t r = 0; r < item.rows(); ++r) {
    float* scores = s.weights + r * kKeyTile;
    if (a.cap > 0) {
      for (int64_t j = 0; j < tile.n; j += W) {
        store(scores + j, tanh(load(scores + j) / a.cap) * a.cap);
      }
    }
    const Seen seen = seen_by(a, item, tile, r);
    for (int64_t j = 0; j < seen.begin; ++j) scores[j] = -kInfinity;
    for (int64_t j = seen.end; j < kKeyTile; ++j) scores[j] = -kInfinity;
  }
  soften(item.rows(), s.weights, tile.n, to, a.v_head_dim);
}

// W keys to columns of them, `kKeyTile` elements apart; the last stretch may go on behind the keys'
// `head_dim` elements.
inline void turn_keys(const float* const* keys, int64_t head_dim, float* columns) {
  for (int64_t d = 0; d < head_dim; d += W) {
    F rows[W];
    for (int i = 0; i < W; ++i) rows[i] = load_bytes<F>(keys[i] + d, 4 * (head_dim - d));
    transpose(rows);
    for (int i = 0; i < W; ++i) store(columns + (d + i) * kKeyTile, rows[i]);
  }
}

inline void turn_keys(const uint16_t* const* keys, int64_t head_dim, uint16_t* columns) {
  for (int64_t d = 0; d < head_dim; d += 2 * W) {
    U rows[W];
    for (int i = 0; i < W; ++i) rows[i] = load_bytes<U>(keys[i] + d, 2 * (head_dim - d));
    transpose_halves(rows);
    for (int i = 0; i < W; ++i) {
      store_halves(rows[i], columns + (d + i) * kKeyTile, columns + (d + W + i) * kKeyTile);
    }
  }
}

inline void turn_keys(const int8_t* const* keys, int64_t head_dim, int8_t* columns) {
  for (int64_t d = 0; d < head_dim; d += 4 * W) {
    U rows[W];
    for (int i = 0; i < W; ++i) rows[i] = load_bytes<U>(keys[i] + d, head_dim - d);
    transpose_from<W / 2, 1>(rows);
    for (int i = 0; i < W; ++i) {
      store_quarters(rows[i], columns + (d + 4 * i) * kKeyTile, kKeyTile);
    }
  }
}

// keys [n, head_dim] to columns [head_dim, kKeyTile]; columns from n on are anything.
template <class T>
inline void transpose_keys(const T** keys, int64_t n, int64_t head_dim, T* columns) {
  for (int64_t j = n; j < (n + W - 1) / W * W; ++j) keys[j] = keys[n - 1];
  for (int64_t j = 0; j < n; j += W) turn_keys(keys + j, head_dim, columns + j);
}

// Scores of rows with keys side by side in a vector: one chain of sums each.
template <class E>
inline void score_keys(const Attention& a, int64_t rows, const AttentionSpace& s,
                       const typename E::type* columns, int64_t n) {
  std::memset(s.weights, 0, (size_t)(sizeof(float) * rows * kKeyTile));
  const auto column = [&](int64_t d) { return columns + d * kKeyTile; };
  add_rows<E>(rows, s.queries, a.head_dim, column, a.head_dim, (n + W - 1) / W * W, s.weights,
              kKeyTile);
}

// The rows of a tile to come, brought nearer a few at a time between other work: a processor stands
// still when more is asked of its memory than it can wait for at once.
template <class E>
struct Ahead {
  const Attention& a;
  const int32_t* table;
  int64_t kv_head, key, end;

  Ahead(const Attention& attention, const Item& item, const Tile& tile)
      : a(attention), table(a.block_tables + item.seq * a.max_blocks), kv_head(item.kv_head),
        key(tile.from + tile.skip), end(item.rows() <= kFewRows ? tile.from + tile.n : 0) {}

  // Always inlined: GCC drops calls of functions that only prefetch, as if they had no effect.
  [[gnu::always_inline]] void fetch() {
    for (const int64_t last = key + kKeyTile / 4; key < last && key < end; ++key) {
      const int64_t slot = (int64_t)table[key / a.block_size] * a.block_size + key % a.block_size;
      fetch_row(a.k_cache, slot, a.head_dim);
      fetch_row(a.v_cache, slot, a.v_head_dim);
    }
  }

  [[gnu::always_inline]] void fetch_row(const uint8_t* cache, int64_t slot, int64_t dim) const {
    const int64_t bytes = dim * (int64_t)sizeof(typename E::type);
    const uint8_t* row = cache + (slot * a.kv_heads + kv_head) * bytes;
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i);
  }
};

template <class E, class Value>
inline bool all_finite(Value value, int64_t n, int64_t dim) {
  F zeros{};
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t d = 0; d < dim; d += W) {
      zeros += load_elements<E>(value(j) + d, dim - d < W ? dim - d : W) * 0.0f;
    }
  }
  return sum(zeros) == 0.0f;
}

// Adds up a tile's weighted values. Weights of masked keys are zero, which times infinity would be no
// number: where there is such a value, each row takes only the keys that it sees.
template <class E, class Value>
inline void add_tile(const Attention& a, const Item& item, const AttentionSpace& s,
                     const Tile& tile, const Running& to, Value value) {
  const int64_t rows = item.rows(), dim = a.v_head_dim, wide = padded(dim);
  const bool masked = seen_by(a, item, tile, 0).end < tile.n ||
                      seen_by(a, item, tile, rows - 1).begin > 0;
  if (!masked || all_finite<E>(value, tile.n, dim)) {
    return add_rows<E>(rows, s.weights, kKeyTile, value, tile.n, dim, to.sums, wide);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const Seen seen = seen_by(a, item, tile, r);
    const auto own = [&](int64_t j) { return value(seen.begin + j); };
    const float* weights = s.weights + r * kKeyTile + seen.begin;
    add_rows<E>(1, weights, kKeyTile, own, seen.end - seen.begin, dim, to.sums + r * wide, wide);
  }
}

// Scores, softmax, values. For many rows, keys and values are converted once for all.
template <class E>
inline void attend_tile(const Attention& a, const Item& item, const AttentionSpace& s,
                        const Tile& tile, const Running& to, Ahead<E> ahead) {
  using T = typename E::type;
  const int64_t n = tile.n, rows = item.rows();
  const bool convert = rows > kFewRows;
  const T *keys[kKeyTile], *values[kKeyTile];
  find_rows<E>(a, item, a.k_cache, a.head_dim, tile, keys);
  find_rows<E>(a, item, a.v_cache, a.v_head_dim, tile, values);
  T* columns = (T*)s.columns;
  ahead.fetch();
  transpose_keys(keys, n, a.head_dim, columns);
  ahead.fetch();
  if (convert && sizeof(T) < 4) {
    widen<E>(columns, s.keys, a.head_dim * kKeyTile);
    score_keys<Float32>(a, rows, s, s.keys, n);
  } else {
    score_keys<E>(a, rows, s, columns, n);
  }
  if (a.k_scales != nullptr) scale_keys(a, item, a.k_scales, tile, s.weights);
  ahead.fetch();
  weigh_keys(a, item, s, tile, to);
  if (a.v_scales != nullptr) scale_values(a, item, tile, s.weights);
  ahead.fetch();
  if (convert) {
    for (int64_t j = 0; j < n; ++j) widen<E>(values[j], s.values + j * a.v_head_dim, a.v_head_dim);
    const auto value = [&](int64_t j) { return s.values + j * a.v_head_dim; };
    add_tile<Float32>(a, item, s, tile, to, value);
  } else {
    const auto value = [&](int64_t j) { return values[j]; };
    add_tile<E>(a, item, s, tile, to, value);
  }
}

}  // namespace perfxlm::PERFXLM_VARIANT
