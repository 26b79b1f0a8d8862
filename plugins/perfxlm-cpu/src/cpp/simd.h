// Vectors of floats: the compiler's own vector types, plus the few operations that need intrinsics.
//
// `W` lanes: 16 with AVX-512, 8 with AVX2, 4 otherwise (SSE2, NEON, or plain code).
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace perfxlm::PERFXLM_VARIANT {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTile = 4;  // vectors per side of a register tile: 32 registers hold 4 x 4 sums
#else
constexpr int kTile = 2;
#endif

typedef float F __attribute__((vector_size(4 * W)));
typedef int32_t I __attribute__((vector_size(4 * W)));
typedef uint32_t U __attribute__((vector_size(4 * W)));
typedef uint16_t H __attribute__((vector_size(2 * W)));
typedef int8_t B __attribute__((vector_size(W)));

template <class V>
inline V load_as(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// The first `bytes` bytes, zeros behind.
template <class V>
inline V load_bytes(const void* p, int64_t bytes) {
  if (bytes >= (int64_t)sizeof(V)) return load_as<V>(p);
  V v{};
  std::memcpy(&v, p, (size_t)bytes);
  return v;
}

// Lets the compiler know nothing about a vector any more, so that it neither merges nor hoists, nor
// puts off what led to it.
template <class V>
inline void forget(V& v) {
#if defined(__x86_64__)
  asm volatile("" : "+v"(v));
#elif defined(__aarch64__)
  asm volatile("" : "+w"(v));
#else
  asm volatile("" : "+m"(v));
#endif
}

inline F load(const float* p) { return load_as<F>(p); }
inline void store(float* p, F v) { std::memcpy(p, &v, sizeof v); }
inline F all(float x) { return x - F{}; }
inline I all(int32_t x) { return x - I{}; }
inline F as_float(I v) { return (F)v; }
inline I as_int(F v) { return (I)v; }
inline F to_float(I v) { return __builtin_convertvector(v, F); }
inline F max(F a, F b) { return a > b ? a : b; }
inline F abs(F v) { return as_float(as_int(v) & 0x7fffffff); }

// The first `n` lanes, 0 <= n < W; never touches memory behind them.
inline F load_part(const float* p, int64_t n) {
#if defined(__AVX512F__)
  return (F)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
  F v{};
  std::memcpy(&v, p, 4 * n);
  return v;
#endif
}

inline void store_part(float* p, F v, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
  std::memcpy(p, &v, 4 * n);
#endif
}

inline float sum(F v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#elif defined(__AVX2__)
  __m128 s = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
#else
  return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

// The sums of four vectors: lanes eight apart first, then neighbours, then pairs of them.
inline void sum4(F a, F b, F c, F d, float* out) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const auto fold = [](F v) {
    return _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1));
  };
#else
  const auto fold = [](F v) { return (__m256)v; };
#endif
  const __m256 ab = _mm256_hadd_ps(fold(a), fold(b)), cd = _mm256_hadd_ps(fold(c), fold(d));
  const __m256 s = _mm256_hadd_ps(ab, cd);
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
#elif defined(__aarch64__)
  const float32x4_t ab = vpaddq_f32((float32x4_t)a, (float32x4_t)b);
  vst1q_f32(out, vpaddq_f32(ab, vpaddq_f32((float32x4_t)c, (float32x4_t)d)));
#else
  const auto pairs = [](F v) { return (v[0] + v[1]) + (v[2] + v[3]); };
  out[0] = pairs(a), out[1] = pairs(b), out[2] = pairs(c), out[3] = pairs(d);
#endif
}

inline float largest(F v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#elif defined(__AVX2__)
  __m128 s = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
#else
  float top = v[0];
  for (int i = 1; i < W; ++i) top = v[i] > top ? v[i] : top;
  return top;
#endif
}

inline int32_t sum(I v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi32((__m512i)v);
#elif defined(__AVX2__)
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
  s = _mm_add_epi32(s, _mm_unpackhi_epi64(s, s));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 1)));
#else
  int32_t s = 0;
  for (int i = 0; i < W; ++i) s += v[i];
  return s;
#endif
}

constexpr float kInfinity = __builtin_inff();

// x = n * ln 2 + r: e^r by Taylor's series to r^7 on [-ln 2 / 2, ln 2 / 2], about 1 ulp, and n.
inline F exp_rest(F x, I* n) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const F shifted = x * 1.44269504f + magic, whole = shifted - magic;
  const F r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  F p = all(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  *n = as_int(shifted) - as_int(all(magic));
  return p * r + 1.0f;
}

// e^x for any x.
inline F exp(F x) {
  x = x < -104.0f ? all(-104.0f) : x;
  x = x > 89.0f ? all(89.0f) : x;
  I n;
  const F p = exp_rest(x, &n);
  const I half = n >> 1, rest = n - half;
  return p * as_float((half + 127) << 23) * as_float((rest + 127) << 23);
}

// e^x of softmax, x <= 0: zero, never a denormal number, below -87.
inline F exp_weight(F x) {
  I n;
  const F p = exp_rest(x < -87.0f ? all(-87.0f) : x, &n);
  return x < -87.0f ? F{} : p * as_float((n + 127) << 23);
}

inline F sigmoid(F x) { return 1.0f / (1.0f + exp(-x)); }

// Series around 0, exponentials elsewhere; relative error below 5e-7.
inline F tanh(F x) {
  const F y = 1.0f - 2.0f / (exp(x + x) + 1.0f), s = x * x;
  F p = s * (-1382.0f / 155925) + 62.0f / 2835;
  p = p * s - 17.0f / 315;
  p = p * s + 2.0f / 15;
  p = p * s - 1.0f / 3;
  p = p * s * x + x;
  return abs(x) < 0.35f ? p : y;
}

// 16-bit floats.

inline float half_to_float(uint16_t h) {
#if defined(__F16C__)
  return _cvtsh_ss(h);
#else
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16, body = h & 0x7fff;
  uint32_t bits = body << 13;
  float value;
  if (body >= 0x7c00) {
    bits += (255 - 31) << 23;
  } else {
    std::memcpy(&value, &bits, 4);
    value *= 5.192296858534828e33f;  // 2^112 moves the exponent's bias; denormals come out right
    std::memcpy(&bits, &value, 4);
  }
  bits |= sign;
  std::memcpy(&value, &bits, 4);
  return value;
#endif
}

inline uint16_t float_to_half(float value) {
#if defined(__F16C__)
  return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (bits >= 0x47800000) return (uint16_t)(sign | 0x7c00);
  if (bits < 0x38800000) {  // denormal half: adding 0.5 leaves it in the low bits, rounded
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    magnitude += 0.5f;
    std::memcpy(&bits, &magnitude, 4);
    return (uint16_t)(sign | (bits - 0x3f000000));
  }
  return (uint16_t)(sign | ((bits + 0xfff + (bits >> 13 & 1) - 0x38000000) >> 13));
#endif
}

inline float bfloat_to_float(uint16_t b) {
  const uint32_t bits = (uint32_t)b << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline uint16_t float_to_bfloat(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// W halves at `p` as floats.
inline F load_half(const void* p) {
#if defined(__AVX512F__)
  return (F)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__F16C__)
  return (F)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#elif defined(__aarch64__)
  return (F)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t*)p)));
#else
  const H h = load_as<H>(p);
  F v;
  for (int i = 0; i < W; ++i) v[i] = half_to_float(h[i]);
  return v;
#endif
}

// How a cache's or a plain weight's elements become floats.
struct Float32 {
  using type = float;
  static float get(float v) { return v; }
  static float put(float v) { return v; }
  static F load(const float* p) { return load_as<F>(p); }
};

struct Float16 {
  using type = uint16_t;
  static float get(uint16_t v) { return half_to_float(v); }
  static uint16_t put(float v) { return float_to_half(v); }
  static F load(const uint16_t* p) { return load_half(p); }
};

struct BFloat16 {
  using type = uint16_t;
  static float get(uint16_t v) { return bfloat_to_float(v); }
  static uint16_t put(float v) { return float_to_bfloat(v); }
  static F load(const uint16_t* p) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    return (F)((U)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)) << 16);
#else
    return (F)(__builtin_convertvector(load_as<H>(p), U) << 16);
#endif
  }
};

// Codes of 8 bits; who reads them knows their scale.
struct Int8 {
  using type = int8_t;
  static float get(int8_t v) { return (float)v; }
  static F load(const int8_t* p) {
#if defined(__AVX512F__)
    return (F)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__)
    return (F)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
    return __builtin_convertvector(load_as<B>(p), F);
#endif
  }
};

// W elements, or the first n of them (zeros behind) without touching what follows.
template <class E>
inline F load_elements(const typename E::type* p, int64_t n) {
  if (n >= W) return E::load(p);
  float lanes[W] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = E::get(p[i]);
  return load(lanes);
}

template <int... Lane>
struct Lanes {};

template <int N, int... Lane>
struct CountLanes : CountLanes<N - 1, N - 1, Lane...> {};

template <int... Lane>
struct CountLanes<0, Lane...> {
  using type = Lanes<Lane...>;
};

// Swaps the blocks off the diagonal of each 2 x 2 arrangement of S x S blocks that two rows S apart
// belong to.
template <int S, class V, int... Lane>
inline void swap_blocks(V& a, V& b, Lanes<Lane...>) {
  const V low = __builtin_shufflevector(a, b, ((Lane & S) == 0 ? Lane : Lane - S + W)...);
  const V high = __builtin_shufflevector(a, b, ((Lane & S) == 0 ? Lane + S : Lane + W)...);
  a = low, b = high;
}

// Swaps blocks of S lanes, then those half as wide, and so on, between rows `Far` * S apart.
template <int S, int Far, class V>
inline void transpose_from(V* rows) {
  if constexpr (S > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      if ((i & (Far * S)) == 0) {
        swap_blocks<S>(rows[i], rows[i + Far * S], typename CountLanes<W>::type{});
      }
    }
    transpose_from<S / 2, Far>(rows);
  }
}

// W rows of W lanes.
inline void transpose(F* rows) { transpose_from<W / 2, 1>(rows); }

// W rows of 2 * W 16-bit lanes: the first W columns as one square, the others as another.
inline void transpose_halves(U* rows) {
  transpose_from<W / 4, 2>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < W; i += 2) {
    const U a = rows[i], b = rows[i + 1];
    rows[i] = (a & 0xffff) | b << 16;
    rows[i + 1] = a >> 16 | (b & 0xffff0000);
  }
}

template <int... Lane>
inline void store_halves(U v, uint16_t* low, uint16_t* high, Lanes<Lane...>) {
  typedef uint16_t All __attribute__((vector_size(4 * W)));
  const H first = __builtin_shufflevector((All)v, (All)v, Lane...);
  const H second = __builtin_shufflevector((All)v, (All)v, (W + Lane)...);
  std::memcpy(low, &first, sizeof first);
  std::memcpy(high, &second, sizeof second);
}

// W 16-bit lanes to `low`, W to `high`.
inline void store_halves(U v, uint16_t* low, uint16_t* high) {
  store_halves(v, low, high, typename CountLanes<W>::type{});
}

template <class Bytes, int... At>
inline Bytes sort_bytes(Bytes v, Lanes<At...>) {
  return __builtin_shufflevector(v, v, (At % W * 4 + At / W)...);
}

// W lanes of four bytes each: the first byte of every lane to `to`, the second to `to + stride`,
// and so on.
inline void store_quarters(U v, int8_t* to, int64_t stride) {
  typedef int8_t All __attribute__((vector_size(4 * W)));
  const All sorted = sort_bytes((All)v, typename CountLanes<4 * W>::type{});
  for (int i = 0; i < 4; ++i) std::memcpy(to + i * stride, (const int8_t*)&sorted + i * W, W);
}

template <class E>
inline void widen(const typename E::type* from, float* to, int64_t n) {
  int64_t i = 0;
  for (; i + W <= n; i += W) store(to + i, E::load(from + i));
  for (; i < n; ++i) to[i] = E::get(from[i]);
}

template <class E>
inline void narrow(const float* from, typename E::type* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = E::put(from[i]);
}

}  // namespace perfxlm::PERFXLM_VARIANT
