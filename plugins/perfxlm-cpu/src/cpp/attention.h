// Attention over the paged key/value cache, and the writing of that cache.
//
// The work is cut into items: a few query tokens of one sequence, and up to sixteen query heads
// that read the same key/value head. An item's rows (token, head) go over the keys once, a tile of
// keys at a time, with the running maximum and sum of an online softmax. That begins anew with each
// part of `kPartKeys` keys, counted from the sequence's first, and the parts' results are put
// together in order. So a row's result has the same bits whatever else is in the batch, and whether
// one thread does all parts or, for items that are too long for one, each does some. Those are done
// part by part, all heads of a part one after the other: a token's keys lie side by side in memory.
#pragma once

#include "attention_tile.h"

namespace perfxlm::PERFXLM_VARIANT {

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

// A row's codes, and its scale; products and sums are apart, so that each is rounded by itself.
inline float round_row(const float* x, int64_t n, int8_t* codes) {
  F peak{};
  for (int64_t i = 0; i < n; i += W) {
    peak = max(peak, abs(load_lanes(x, i, n - i < W ? n - i : W)));
  }
  const float top = largest(peak), magic = 12582912.0f;  // adding it rounds to an integer
  if (top < 0x1p-100f) {
    std::memset(codes, 0, (size_t)n);
    return 0.0f;
  }
  const float inverse = 127.0f / top;
  for (int64_t i = 0; i < n; i += W) {
    const int64_t live = n - i < W ? n - i : W;
    F scaled = load_lanes(x, i, live) * inverse;
    forget(scaled);
    const B bytes = __builtin_convertvector(as_int(scaled + magic) - as_int(all(magic)), B);
    std::memcpy(codes + i, &bytes, (size_t)live);
  }
  return top / 127.0f;
}

// k, v, k_cache, v_cache, slot_mapping, k_scales, v_scales
// | tokens | heads, head_dim, v_head_dim
inline void store_kv_int8(const Call& c, const Worker& w) {
  const Range mine = share(c.sizes[0], 1, w.id, w.count);
  const int32_t* slots = c.at<int32_t>(4);
  const int64_t heads = c.ints[0];
  for (int part = 0; part < 2; ++part) {
    const int64_t dim = c.ints[1 + part];
    for (int64_t t = mine.begin; t < mine.end; ++t) {
      if (slots[t] < 0) continue;
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t row = slots[t] * heads + h;
        const float* x = c.at<float>(part) + (t * heads + h) * dim;
        c.at<float>(5 + part)[row] = round_row(x, dim, c.at<int8_t>(2 + part) + row * dim);
      }
    }
  }
}

inline void take_queries(const Attention& a, const Item& item, const AttentionSpace& s) {
  for (int64_t r = 0; r < item.rows(); ++r) {
    const int64_t token = item.first + r / item.heads, head = item.head + r % item.heads;
    const float* q = a.q + (token * a.heads + head) * a.head_dim;
    fill(s.queries + r * a.head_dim, a.head_dim,
         [&](int64_t i, int64_t n) { return load_lanes(q, i, n) * a.scale; });
  }
}

// What a row keeps of what it has when the largest score rises from `top` to `now`.
inline float kept_share(float top, float now) { return top == now ? 1.0f : std::exp(top - now); }

// Adds a part's rows to `whole`. Not inlined, as `soften`.
[[gnu::noinline]] inline void add_part(int64_t rows, int64_t wide, const Running& whole,
                                       const Running& part) {
  float kept[kItemRows], taken[kItemRows];
  for (int64_t r = 0; r < rows; r += W) {
    const int64_t n = rows - r < W ? rows - r : W;
    const F top = load_lanes(part.tops, r, n), before = load_lanes(whole.tops, r, n);
    const F now = max(top, before);
    store(kept + r, exp_weight(before - now));
    store(taken + r, exp_weight(top - now));
  }
  for (int64_t r = 0; r < rows; ++r) {
    const float top = part.tops[r];
    if (top == -kInfinity) {
      whole.totals[r] += part.totals[r];  // nothing, or no number
      continue;
    }
    whole.totals[r] = whole.totals[r] * kept[r] + part.totals[r] * taken[r];
    if (top > whole.tops[r]) whole.tops[r] = top;
    float* sums = whole.sums + r * wide;
    const float* added = part.sums + r * wide;
    for (int64_t d = 0; d < wide; d += W) {
      store(sums + d, load(sums + d) * kept[r] + load(added + d) * taken[r]);
    }
  }
}

// Sinks, which weigh in without a value, and the division by the total.
[[gnu::noinline]] inline void end_item(const Attention& a, const Item& item,
                                       const Running& whole) {
  const int64_t wide = padded(a.v_head_dim);
  for (int64_t r = 0; r < item.rows(); ++r) {
    const int64_t token = item.first + r / item.heads, head = item.head + r % item.heads;
    const float *sums = whole.sums + r * wide, top = whole.tops[r];
    float total = whole.totals[r], kept = 1.0f;
    if (a.sinks != nullptr) {
      const float now = a.sinks[head] > top ? a.sinks[head] : top;
      kept = kept_share(top, now);
      total = total * kept + kept_share(a.sinks[head], now);
    }
    // adding zero: which zero it is may depend on keys that were masked
    const float share = kept / total;
    fill(a.out + (token * a.heads + head) * a.v_head_dim, a.v_head_dim,
         [=](int64_t i, int64_t n) { return load_lanes(sums, i, n) * share + 0.0f; });
  }
}

// The keys that some row of an item sees.
inline Range visible_keys(const Attention& a, const Item& item) {
  const int64_t oldest = a.window > 0 ? item.position - a.window + 1 : 0;
  return {oldest > 0 ? oldest : 0, item.position + item.tokens};
}

// Tile of a range of keys that begins at `from`.
inline Tile tile_at(Range keys, int64_t from) {
  return {from, keys.begin > from ? keys.begin - from : 0,
          keys.end - from < kKeyTile ? keys.end - from : (int64_t)kKeyTile};
}

inline Tile first_tile(Range keys) { return tile_at(keys, keys.begin / kKeyTile * kKeyTile); }

// The range of the part behind `keys`; empty behind the last.
inline Range part_behind(Range keys, Range seen) {
  const int64_t end = keys.end + kPartKeys < seen.end ? keys.end + kPartKeys : seen.end;
  return {keys.end, end};
}

// One thread's part of an item: `keys` lie within one stretch of `kPartKeys`. `next` is where the
// thread goes on.
template <class E>
inline void attend_part(const Attention& a, const Item& item, const AttentionSpace& s, Range keys,
                        const Running& to, const Item& next_item, const Tile& next) {
  to.clear(item.rows(), padded(a.v_head_dim));
  for (int64_t from = keys.begin / kKeyTile * kKeyTile; from < keys.end; from += kKeyTile) {
    const bool more = from + kKeyTile < keys.end;
    const Ahead<E> ahead = more ? Ahead<E>(a, item, tile_at(keys, from + kKeyTile))
                                : Ahead<E>(a, next_item, next);
    attend_tile<E>(a, item, s, tile_at(keys, from), to, ahead);
  }
}

// Calls `visit(part's keys, whether it is the first, whether it is the last)` for each part.
template <class Visit>
inline void each_part(Range keys, Visit visit) {
  for (int64_t from = keys.begin; from < keys.end;) {
    const int64_t next = (from / kPartKeys + 1) * kPartKeys;
    const int64_t end = next < keys.end ? next : keys.end;
    visit(Range{from, end}, from == keys.begin, end == keys.end);
    from = end;
  }
}

inline int64_t count_parts(Range keys) {
  return (keys.end + kPartKeys - 1) / kPartKeys - keys.begin / kPartKeys;
}

// All parts of an item, by one thread.
template <class E>
inline void attend(const Attention& a, const Item& item, const AttentionSpace& s) {
  const int64_t wide = padded(a.v_head_dim);
  const Running whole(s.whole, kItemRows, wide), part(s.part, kItemRows, wide);
  take_queries(a, item, s);
  const Range seen = visible_keys(a, item);
  each_part(seen, [&](Range keys, bool first, bool) {
    const Tile next = first_tile(part_behind(keys, seen));
    attend_part<E>(a, item, s, keys, first ? whole : part, item, next);
    if (!first) add_part(item.rows(), wide, whole, part);
  });
  end_item(a, item, whole);
}

// A few query tokens of a sequence, with all heads: as many items as `items` says.
struct Group {
  int64_t seq, first, tokens, position;
};

// How heads make items.
struct Heads {
  int64_t group, most, kv_heads;  // query heads of a key/value head; of an item; of a token

  explicit Heads(const Attention& a)
      : group(a.heads / a.kv_heads), most(group < kItemHeads ? group : kItemHeads),
        kv_heads(a.kv_heads) {}

  int64_t splits() const { return (group + most - 1) / most; }
  int64_t items() const { return kv_heads * splits(); }

  Item item(const Group& g, int64_t index) const {
    const int64_t kv = index / splits(), h = index % splits() * most;
    const int64_t count = group - h < most ? group - h : most;
    return {g.seq, g.first, g.tokens, kv, kv * group + h, count, g.position};
  }
};

// Calls `visit` for every group of the batch, in an order that all threads share.
template <class Visit>
inline void each_group(const Attention& a, Visit visit) {
  const int64_t step = kItemRows / Heads(a).most;
  for (int64_t s = 0; s < a.seqs; ++s) {
    const int64_t begin = a.query_starts[s], end = a.query_starts[s + 1];
    for (int64_t first = begin; first < end; first += step) {
      const int64_t tokens = end - first < step ? end - first : step;
      visit(Group{s, first, tokens, a.seq_lens[s] - (end - first)});
    }
  }
}

// The batch as threads share it. Items with more keys than half of a thread's share of all are long:
// their parts are spread over the threads. So are those of few rows from `kLongKeys` on, which wait
// for memory.
constexpr int64_t kLongKeys = 512;

struct Sharing {
  int64_t keys = 0, longest = 0;  // keys from which on an item is long
  int64_t parts = 0, rows = 0;    // of long items: all their parts, and the most rows

  Sharing(const Attention& a, const Worker& w) {
    const Heads heads(a);
    each_group(a, [&](const Group& group) {
      const Range seen = visible_keys(a, heads.item(group, 0));
      keys += heads.items() * (seen.end - seen.begin);
    });
    longest = w.count == 1 ? keys + 1 : keys / (2 * w.count) + 1;
    if (longest <= kPartKeys) longest = kPartKeys + 1;
    each_group(a, [&](const Group& group) {
      const Item item = heads.item(group, 0);
      if (!is_long(a, item)) return;
      parts += heads.items() * count_parts(visible_keys(a, item));
      rows = rows < item.rows() ? item.rows() : rows;
    });
  }

  bool is_long(const Attention& a, const Item& item) const {
    const Range seen = visible_keys(a, item);
    const int64_t count = seen.end - seen.begin;
    return count >= longest || (count >= kLongKeys && item.rows() <= kFewRows);
  }
};

// Where parts wait to be put together, in the workspace that threads share: room for `count` at a
// time, and behind them for what each item of a group that goes on has so far.
struct Slots {
  float* memory;
  int64_t rows, wide, count;

  Slots(const Attention& a, const Worker& w, int64_t most_rows)
      : memory((float*)w.shared), rows(most_rows), wide(padded(a.v_head_dim)),
        count(w.count * kPartsPerThread * kItemRows / most_rows) {}

  Running at(int64_t slot) const {
    return {memory + slot * Running::floats(rows, wide), rows, wide};
  }
  Running carried(int64_t item) const { return at(count + item); }
};

// Parts [begin, end) of the long items, counted part by part: those of this thread.
template <class E>
inline void attend_wave(const Attention& a, const Worker& w, const AttentionSpace& s,
                        const Sharing& sharing, const Slots& slots, int64_t begin, int64_t end) {
  const Heads heads(a);
  const Range mine = share(end - begin, 1, w.id, w.count);
  int64_t number = -begin;
  each_group(a, [&](const Group& group) {
    const Range seen = visible_keys(a, heads.item(group, 0));
    if (!sharing.is_long(a, heads.item(group, 0))) return;
    each_part(seen, [&](Range keys, bool, bool) {
      for (int64_t i = 0; i < heads.items(); ++i) {
        const int64_t slot = number++;
        if (slot < mine.begin || slot >= mine.end) continue;
        const Item item = heads.item(group, i);
        const bool last = i + 1 == heads.items();
        const Tile next = first_tile(last ? part_behind(keys, seen) : keys);
        take_queries(a, item, s);
        attend_part<E>(a, item, s, keys, slots.at(slot), heads.item(group, last ? 0 : i + 1), next);
      }
    });
  });
}

// The same parts put together. An item that began before or goes on behind them is carried; the
// thread that has an item has it in every wave.
inline void join_wave(const Attention& a, const Worker& w, const AttentionSpace& s,
                      const Sharing& sharing, const Slots& slots, int64_t begin, int64_t end) {
  const Heads heads(a);
  const int64_t wide = slots.wide;
  const Running whole(s.whole, kItemRows, wide);
  int64_t base = 0;  // the group's first part
  each_group(a, [&](const Group& group) {
    if (!sharing.is_long(a, heads.item(group, 0))) return;
    const int64_t parts = count_parts(visible_keys(a, heads.item(group, 0)));
    for (int64_t i = w.id; i < heads.items(); i += w.count) {
      const Item item = heads.item(group, i);
      int64_t added = 0, last = -1;
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t number = base + part * heads.items() + i;
        if (number < begin || number >= end) continue;
        if (added++ == 0) {
          whole.clear(item.rows(), wide);
          if (part > 0) add_part(item.rows(), wide, whole, slots.carried(i));
        }
        add_part(item.rows(), wide, whole, slots.at(number - begin));
        last = part;
      }
      if (added == 0) continue;
      if (last == parts - 1) {
        end_item(a, item, whole);
      } else {
        slots.carried(i).clear(item.rows(), wide);
        add_part(item.rows(), wide, slots.carried(i), whole);
      }
    }
    base += parts * heads.items();
  });
}

template <class E>
inline void attend_batch(const Attention& a, const Worker& w) {
  const AttentionSpace space(w.workspace, a.head_dim, a.v_head_dim);
  const Sharing sharing(a, w);
  if (sharing.parts > 0) {
    const Slots slots(a, w, sharing.rows);
    for (int64_t wave = 0; wave * slots.count < sharing.parts; ++wave) {
      const int64_t begin = wave * slots.count;
      const int64_t end =
          sharing.parts - begin < slots.count ? sharing.parts : begin + slots.count;
      if (wave > 0) w.wait();
      attend_wave<E>(a, w, space, sharing, slots, begin, end);
      w.wait();
      join_wave(a, w, space, sharing, slots, begin, end);
    }
  }
  const Heads heads(a);
  int64_t number = 0;
  each_group(a, [&](const Group& group) {
    if (sharing.is_long(a, heads.item(group, 0))) return;
    for (int64_t i = 0; i < heads.items(); ++i) {
      if (number++ % w.count == w.id) attend<E>(a, heads.item(group, i), space);
    }
  });
}

inline void paged_attention(const Call& c, const Worker& w) {
  const Attention a(c);
  switch (c.ints[5]) {
    case kCacheFloat16: return attend_batch<Float16>(a, w);
    case kCacheBFloat16: return attend_batch<BFloat16>(a, w);
    case kCacheInt8: return attend_batch<Int8>(a, w);
    default: return attend_batch<Float32>(a, w);
  }
}

}  // namespace perfxlm::PERFXLM_VARIANT
