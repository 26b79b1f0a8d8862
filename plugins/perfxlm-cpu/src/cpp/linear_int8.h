// out = x * weight^T + bias with activations rounded to 8 bits, for 4-, 6- and 8-bit weights.
//
// The weight is repacked once, into tiles of 16 rows. A tile holds, for each block of 32 columns:
//
//   codes    q4: 4 groups of 64 bytes; byte 4 * row + j of group g has column 8 * g + j in its low
//            nibble and column 8 * g + 4 + j in its high one
//            q6: the same for the low four bits, then 2 groups of 64 bytes; bits 2 * i and 2 * i + 1
//            of byte 4 * row + j of group p are the high ones of column 16 * p + 4 * i + j
//            q8: 8 groups of 64 bytes; byte 4 * row + j of group g has column 4 * g + j
//   scales   16 float16; twice for q6, whose scales hold for 16 columns
//   minima   16 float16 (q4_1 only)
//
// q4_k becomes q4_1, its scales and minima multiplied out and rounded to float16, as q6_k's are; an
// error of half a thousandth, an eighth of what rounding the activations costs. Small products are
// exact: they are multiples of the smallest float16. One beyond the largest, 65504, does not fit:
// `pack` says so, and the weight stays with `linear`.
//
// so that one vector holds 4 columns of each of its rows, as instructions for 8-bit dot products
// want them, and a tile is read front to back exactly once. Rows beyond the last are zero.
//
// Activations: a scale (largest magnitude / 127) for each 32 of them. They lie in the thread's
// workspace, groups of up to eight tokens together, as `Block` says. Blocks' integer sums are
// exact; they are scaled and added in float32.
//
// Outliers: a few columns of most models are many times larger than the others, and 8 bits under
// their scale leave little of their neighbours. Where a token's block stands out (its largest
// magnitude is over twice the mean of those of the token's blocks), what the rounding left over is
// rounded again, to 8 bits under its own scale, and follows as a second `Block` of the same
// columns (what that buys: docs/decisions/0009-rounding.md of the repository). A token's result does
// not depend on the tokens beside it.
#pragma once

#include "rounding.h"

namespace perfxlm::PERFXLM_VARIANT {

struct Product {
  float* out;
  const float *x, *bias;
  const uint8_t* weight;
  int64_t rows, columns;

  int64_t blocks() const { return columns / 32; }
  int64_t tiles() const { return (rows + kTileRows - 1) / kTileRows; }
};

template <int Kind, int T>
inline void multiply_group(const Product& p, int64_t tile, const unsigned char* x, int64_t first,
                           int64_t live) {
  const uint8_t* source = p.weight + tile * p.blocks() * tile_block_bytes(Kind);
  for (int lane = 0; lane < kTileRows; lane += W * kVectors) {
    if (tile * kTileRows + lane >= p.rows) return;
    F sums[T][kVectors];
    multiply_tile<Kind, T>(source, lane, (const Block<T>*)x, p.blocks(), sums);
    for (int v = 0; v < kVectors; ++v) {
      const int64_t row = tile * kTileRows + lane + v * W, left = p.rows - row;
      if (left <= 0) return;
      const int64_t n = left < W ? left : W;
      const F bias = p.bias != nullptr ? load_lanes(p.bias + row, 0, n) : F{};
      for (int64_t t = 0; t < live; ++t) {
        float* out = p.out + (first + t) * p.rows + row;
        if (n == W) {
          store(out, sums[t][v] + bias);
        } else {
          store_part(out, sums[t][v] + bias, n);
        }
      }
    }
  }
}

// How many tokens go together when `left` are left: 1, 2, 4 or 8; then some may be empty.
inline int group_tokens(int64_t left) { return left > 4 ? 8 : left > 2 ? 4 : (int)left; }

template <template <int> class Step, class... Args>
inline void by_group(int tokens, Args... args) {
  switch (tokens) {
    case 1: return Step<1>::run(args...);
    case 2: return Step<2>::run(args...);
    case 4: return Step<4>::run(args...);
    default: return Step<8>::run(args...);
  }
}

template <int Kind>
struct Steps {
  template <int T>
  struct Round {
    static void run(const float* x, int64_t columns, int64_t live, unsigned char* out) {
      round_tokens<Kind, T>(x, columns, live, (Block<T>*)out);
    }
  };
  template <int T>
  struct Multiply {
    static void run(const Product* p, int64_t tile, const unsigned char* x, int64_t first,
                    int64_t live) {
      multiply_group<Kind, T>(*p, tile, x, first, live);
    }
  };
};

// Tokens [begin, end) with tiles `mine`; at most kChunkTokens.
template <int Kind>
inline void multiply_chunk(const Product& p, int64_t begin, int64_t end, Range mine,
                           unsigned char* space) {
  const int64_t token_bytes = p.blocks() * kColumnBytes;
  const auto groups = [&](auto visit) {
    for (int64_t t = begin; t < end; t += kTileTokens) {
      const int size = group_tokens(end - t);
      visit(t, end - t < size ? end - t : size, size, space + (t - begin) * token_bytes);
    }
  };
  groups([&](int64_t t, int64_t live, int size, unsigned char* to) {
    by_group<Steps<Kind>::template Round>(size, p.x + t * p.columns, p.columns, live, to);
  });
  for (int64_t tile = mine.begin; tile < mine.end; ++tile) {
    groups([&](int64_t t, int64_t live, int size, unsigned char* from) {
      by_group<Steps<Kind>::template Multiply>(size, &p, tile, (const unsigned char*)from, t, live);
    });
  }
}

template <int Kind>
inline void multiply_all(const Product& p, int64_t tokens, const Worker& w) {
  // Threads split the tokens as far as there are chunks for all, and the rows beyond that.
  int parts = 1;
  for (int n = 2; n <= w.count; ++n) {
    if (w.count % n == 0 && (n - 1) * (kChunkTokens / 2) < tokens) parts = n;
  }
  const Range mine = share(tokens, parts > 1 ? kTileTokens : 1, w.id % parts, parts);
  const Range tiles = share(p.tiles(), 1, w.id / parts, w.count / parts);
  for (int64_t t = mine.begin; t < mine.end; t += kChunkTokens) {
    const int64_t end = mine.end - t < kChunkTokens ? mine.end : t + kChunkTokens;
    multiply_chunk<Kind>(p, t, end, tiles, w.workspace);
  }
}

// out [tokens, out_features], x, tiles, bias or null | tokens | out_features, in_features, kind
inline void linear_int8(const Call& c, const Worker& w) {
  const Product p{c.at<float>(0), c.at<float>(1), c.at<float>(3),
                  c.at<uint8_t>(2), c.ints[0],    c.ints[1]};
  switch (c.ints[2]) {
    case kTileQ4_0: return multiply_all<kTileQ4_0>(p, c.sizes[0], w);
    case kTileQ4_1: return multiply_all<kTileQ4_1>(p, c.sizes[0], w);
    case kTileQ6: return multiply_all<kTileQ6>(p, c.sizes[0], w);
    default: return multiply_all<kTileQ8_0>(p, c.sizes[0], w);
  }
}

}  // namespace perfxlm::PERFXLM_VARIANT
