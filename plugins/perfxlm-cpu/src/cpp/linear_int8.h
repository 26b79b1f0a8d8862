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

#include "layout.h"
#include "rows.h"

namespace perfxlm::PERFXLM_VARIANT {

// Activations of T tokens, 32 columns.
template <int T>
struct Block {
  int8_t codes[T][32];
  float scales[T];
  union {
    float sums[T];       // q4_1: scale * sum of the codes, which the minimum multiplies
    int32_t offsets[T];  // others: what the integer sum starts with, so that codes may be unsigned
  };
  int32_t uppers[T];  // q6: the same for columns 16 to 31
  int32_t again;  // whether the next block is of the same columns
};
static_assert(2 * sizeof(Block<1>) == kColumnBytes, "linear_int8_workspace counts on it");
static_assert(sizeof(Block<8>) <= 8 * sizeof(Block<1>));

#if defined(__AVX512VNNI__)
constexpr int kByteOffset = 128;  // signed weight codes are made unsigned by adding this
#else
constexpr int kByteOffset = 0;
#endif

// acc[i] += the four products of unsigned bytes of w[i] (at most 63 unless VNNI) and signed of a[i].
inline I dot_nibbles(I acc, I w, I a) {
#if defined(__AVX512VNNI__)
  return (I)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, (__m512i)a);
#elif defined(__AVX512F__)
  const __m512i pairs = _mm512_maddubs_epi16((__m512i)w, (__m512i)a);
  return acc + (I)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#elif defined(__AVX2__)
  const __m256i pairs = _mm256_maddubs_epi16((__m256i)w, (__m256i)a);
  return acc + (I)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(__ARM_FEATURE_DOTPROD)
  return (I)vdotq_s32((int32x4_t)acc, (int8x16_t)w, (int8x16_t)a);
#elif defined(__SSE2__)
  const auto even = [](I v) { return _mm_srai_epi16(_mm_slli_epi16((__m128i)v, 8), 8); };
  const auto odd = [](I v) { return _mm_srai_epi16((__m128i)v, 8); };
  acc += (I)_mm_madd_epi16(even(w), even(a));
  return acc + (I)_mm_madd_epi16(odd(w), odd(a));
#else
  for (int j = 0; j < 32; j += 8) acc += (w << (24 - j) >> 24) * (a << (24 - j) >> 24);
  return acc;
#endif
}

// The same for signed bytes w[i]; with VNNI they come out as if 128 had been added to each.
inline I dot_bytes(I acc, I w, I a) {
#if defined(__AVX512VNNI__)
  return dot_nibbles(acc, w ^ (int32_t)0x80808080, a);
#elif defined(__AVX512F__)
  const __m512i b = (__m512i)a, v = (__m512i)w;
  const __m512i turned = _mm512_mask_sub_epi8(b, _mm512_movepi8_mask(v), __m512i{}, b);
  return dot_nibbles(acc, (I)_mm512_abs_epi8(v), (I)turned);
#elif defined(__AVX2__)
  const __m256i v = (__m256i)w;
  return dot_nibbles(acc, (I)_mm256_abs_epi8(v), (I)_mm256_sign_epi8((__m256i)a, v));
#else
  return dot_nibbles(acc, w, a);
#endif
}

inline I same_bytes(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return all(four);
}

inline void prefetch(const uint8_t* p, int bytes) {
  for (int i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
}

// Rows `[lane, lane + W)` of one tile with T tokens; out[t] is W floats.
template <int Kind, int T>
inline void multiply_tile(const uint8_t* tile, int lane, const Block<T>* x, int64_t blocks,
                          F* out) {
  constexpr int bytes = tile_block_bytes(Kind);
  constexpr int scales = Kind == kTileQ8_0 ? 512 : Kind == kTileQ6 ? 384 : 256;
  F total[T]{};
  for (int64_t b = 0; b < blocks; ++x) {
    prefetch(tile + 3072, bytes);
    I acc[T];
    for (int t = 0; t < T; ++t) acc[t] = Kind == kTileQ4_1 ? I{} : all(x->offsets[t]);
    if constexpr (Kind == kTileQ8_0) {
#pragma GCC unroll 8
      for (int g = 0; g < 8; ++g) {
        const I w = load_as<I>(tile + 64 * g + 4 * lane);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) acc[t] = dot_bytes(acc[t], w, same_bytes(&x->codes[t][4 * g]));
      }
    } else {
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) {
        const U pair = load_as<U>(tile + 64 * g + 4 * lane);
        I low = (I)(pair & 0x0f0f0f0f), high = (I)(pair >> 4 & 0x0f0f0f0f);
        if constexpr (Kind == kTileQ6) {
          const U bits = load_as<U>(tile + 256 + 64 * (g / 2) + 4 * lane) >> (4 * (g % 2));
          low |= (I)((bits & 0x03030303) << 4);
          high |= (I)((bits & 0x0c0c0c0c) << 2);
          if (g == 2) {
            const F scale = load_half(tile + scales + 2 * lane);
#pragma GCC unroll 8
            for (int t = 0; t < T; ++t) {
              total[t] += to_float(acc[t]) * (scale * x->scales[t]);
              acc[t] = all(x->uppers[t]);
            }
          }
        }
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) {
          acc[t] = dot_nibbles(acc[t], low, same_bytes(&x->codes[t][8 * g]));
          acc[t] = dot_nibbles(acc[t], high, same_bytes(&x->codes[t][8 * g + 4]));
        }
      }
    }
    const F scale = load_half(tile + scales + (Kind == kTileQ6 ? 32 : 0) + 2 * lane);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) total[t] += to_float(acc[t]) * (scale * x->scales[t]);
    if constexpr (Kind == kTileQ4_1) {
      const F minimum = load_half(tile + scales + 32 + 2 * lane);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) total[t] += minimum * x->sums[t];
    }
    const int64_t step = x->again == 0;
    b += step;
    tile += step * bytes;
  }
  for (int t = 0; t < T; ++t) out[t] = total[t];
}

inline float largest_of_block(const float* x) {
  F peak{};
  for (int i = 0; i < 32; i += W) peak = max(peak, abs(load(x + i)));
  return largest(peak);
}

// 32 activations whose largest magnitude is `top`: codes, the sums of either half of them, and what
// they leave over. Returns the scale.
inline float round_block(const float* x, float top, int8_t* codes, int32_t* sums, float* rest) {
  const float inverse = top > 0 ? 127.0f / top : 0.0f, scale = top / 127.0f;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  I total[2]{};
  for (int i = 0; i < 32; i += W) {
    const F v = load(x + i);
    const I code = as_int(v * inverse + magic) - as_int(all(magic));
    total[i / 16] += code;
    store(rest + i, v - to_float(code) * scale);
    const B narrow = __builtin_convertvector(code, B);
    std::memcpy(codes + i, &narrow, W);
  }
  sums[0] = sum(total[0]), sums[1] = sum(total[1]);
  return scale;
}

constexpr float kOutlier = 2.0f;  // of the mean of the largest magnitudes of a token's blocks

template <int Kind, int T>
inline void set_token(Block<T>* block, int t, float scale, const int32_t* sums) {
  block->scales[t] = scale;
  if (Kind == kTileQ4_1) {
    block->sums[t] = scale * (float)(sums[0] + sums[1]);
  } else if (Kind == kTileQ6) {
    block->offsets[t] = -32 * sums[0];
    block->uppers[t] = -32 * sums[1];
  } else {
    block->offsets[t] = -(Kind == kTileQ4_0 ? 8 : kByteOffset) * (sums[0] + sums[1]);
  }
}

template <int Kind, int T>
inline void clear_token(Block<T>* block, int t) {
  constexpr int32_t nothing[2] = {0, 0};
  set_token<Kind>(block, t, 0.0f, nothing);
  std::memset(block->codes[t], 0, 32);
}

template <int Kind, int T>
inline void round_tokens(const float* x, int64_t columns, int64_t live, Block<T>* out) {
  const int64_t blocks = columns / 32;
  float limits[T];
  for (int t = 0; t < live; ++t) {
    float sum_of_tops = 0;
    for (int64_t b = 0; b < blocks; ++b) sum_of_tops += largest_of_block(x + t * columns + 32 * b);
    limits[t] = kOutlier * sum_of_tops / (float)blocks;
  }
  for (int64_t b = 0; b < blocks; ++b) {
    alignas(64) float rest[T][32];
    bool outlier[T]{};
    Block<T>* block = out++;
    block->again = 0;
    for (int t = 0; t < T; ++t) {
      if (t >= live) {
        clear_token<Kind>(block, t);
        continue;
      }
      const float* from = x + t * columns + 32 * b;
      const float top = largest_of_block(from);
      int32_t sums[2];
      const float scale = round_block(from, top, block->codes[t], sums, rest[t]);
      set_token<Kind>(block, t, scale, sums);
      outlier[t] = top > limits[t];
      block->again |= outlier[t];
    }
    if (!block->again) continue;
    Block<T>* second = out++;
    second->again = 0;
    for (int t = 0; t < T; ++t) {
      if (!outlier[t]) {
        clear_token<Kind>(second, t);
        continue;
      }
      alignas(64) float nothing[32];
      int32_t sums[2];
      const float top = largest_of_block(rest[t]);
      const float scale = round_block(rest[t], top, second->codes[t], sums, nothing);
      set_token<Kind>(second, t, scale, sums);
    }
  }
}

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
  for (int lane = 0; lane < kTileRows; lane += W) {
    const int64_t row = tile * kTileRows + lane;
    if (row >= p.rows) return;
    F sums[T];
    multiply_tile<Kind, T>(source, lane, (const Block<T>*)x, p.blocks(), sums);
    const int64_t n = p.rows - row < W ? p.rows - row : W;
    const F bias = p.bias != nullptr ? load_lanes(p.bias + row, 0, n) : F{};
    for (int64_t t = 0; t < live; ++t) {
      float* out = p.out + (first + t) * p.rows + row;
      if (n == W) {
        store(out, sums[t] + bias);
      } else {
        store_part(out, sums[t] + bias, n);
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

// 32 weights of a row on their way into a tile: codes, and the one or two float16 that scale them.
struct Unpacked {
  uint8_t codes[32];
  uint16_t first, second;
};

inline Unpacked unpack_simple(int format, const uint8_t* block) {
  Unpacked u{};
  std::memcpy(&u.first, block, 2);
  if (format == kQ8_0) {
    std::memcpy(u.codes, block + 2, 32);
    return u;
  }
  if (format == kQ4_1) std::memcpy(&u.second, block + 2, 2);
  const uint8_t* codes = block + (format == kQ4_1 ? 4 : 2);
  for (int i = 0; i < 16; ++i) {
    u.codes[i] = codes[i] & 15;
    u.codes[i + 16] = codes[i] >> 4;
  }
  return u;
}

// Group `g` of eight of a q4_k block.
inline Unpacked unpack_q4_k(const uint8_t* block, int g) {
  Unpacked u{};
  int scale, minimum;
  six_bit_pair(block + 4, g, &scale, &minimum);
  u.first = float_to_half(half_at(block) * (float)scale);
  u.second = float_to_half(-(half_at(block + 2) * (float)minimum));
  const uint8_t* codes = block + 16 + g / 2 * 32;
  for (int i = 0; i < 32; ++i) u.codes[i] = codes[i] >> (g % 2 * 4) & 15;
  return u;
}

// Groups `2 * g` and `2 * g + 1` of sixteen of a q6_k block.
inline Unpacked unpack_q6_k(const uint8_t* block, int g) {
  Unpacked u{};
  const float d = half_at(block + 208);
  u.first = float_to_half(d * (float)(int8_t)block[192 + 2 * g]);
  u.second = float_to_half(d * (float)(int8_t)block[193 + 2 * g]);
  const int half = g / 4, part = g % 4;  // 128 weights to a half, in four parts of 32
  const uint8_t *low = block + 64 * half + part % 2 * 32, *high = block + 128 + 32 * half;
  for (int i = 0; i < 32; ++i) {
    u.codes[i] = (uint8_t)((low[i] >> (part / 2 * 4) & 15) | (high[i] >> (2 * part) & 3) << 4);
  }
  return u;
}

// Whether a float16 is a number: what is beyond 65504 is not.
inline bool is_finite(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

inline void pack_block(int kind, const Unpacked& u, int row, uint8_t* target) {
  uint8_t* scales = target + tile_block_bytes(kind) - 32;
  if (kind == kTileQ4_1 || kind == kTileQ6) {
    std::memcpy(scales + 2 * row, &u.second, 2);
    scales -= 32;
  }
  std::memcpy(scales + 2 * row, &u.first, 2);
  uint32_t words[8];  // four columns each
  std::memcpy(words, u.codes, 32);
  const auto put = [=](int at, uint32_t word) { std::memcpy(target + at + 4 * row, &word, 4); };
  if (kind == kTileQ8_0) {
    for (int g = 0; g < 8; ++g) put(64 * g, words[g]);
    return;
  }
  for (int g = 0; g < 4; ++g) {
    put(64 * g, (words[2 * g] & 0x0f0f0f0f) | (words[2 * g + 1] & 0x0f0f0f0f) << 4);
  }
  if (kind != kTileQ6) return;
  for (int p = 0; p < 2; ++p) {
    uint32_t bits = 0;
    for (int i = 0; i < 4; ++i) bits |= (words[4 * p + i] >> 4 & 0x03030303) << (2 * i);
    put(256 + 64 * p, bits);
  }
}

// Tiles [first, last) of a weight [rows, columns]. False if a float16 cannot hold a scale or minimum.
inline bool pack(int format, const uint8_t* source, uint8_t* target, int64_t rows, int64_t columns,
                 int64_t first, int64_t last) {
  const int kind = tile_kind(format);
  const BlockFormat known = block_format(format);
  const int64_t blocks = columns / 32, bytes = tile_block_bytes(kind);
  const int64_t row_stride = row_bytes(format, columns);
  bool finite = true;
  for (int64_t tile = first; tile < last; ++tile) {
    uint8_t* out = target + tile * blocks * bytes;
    const int64_t live = rows - tile * kTileRows < kTileRows ? rows - tile * kTileRows : kTileRows;
    if (live < kTileRows) std::memset(out, 0, (size_t)(blocks * bytes));
    for (int64_t row = 0; row < live; ++row) {
      const uint8_t* from = source + (tile * kTileRows + row) * row_stride;
      for (int64_t b = 0; b < blocks; ++b) {
        const int per_block = known.block / 32, g = (int)(b % per_block);
        const uint8_t* block = from + b / per_block * known.bytes;
        const Unpacked u = format == kQ4K   ? unpack_q4_k(block, g)
                           : format == kQ6K ? unpack_q6_k(block, g)
                                            : unpack_simple(format, block);
        pack_block(kind, u, (int)row, out + b * bytes);
        finite &= is_finite(u.first) && is_finite(u.second);
      }
    }
  }
  return finite;
}

}  // namespace perfxlm::PERFXLM_VARIANT
