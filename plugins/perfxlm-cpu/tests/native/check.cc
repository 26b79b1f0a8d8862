// Runs the kernels of every instruction set of this machine against plain loops in double.
//
// For machines without Python, such as an emulator: build with -DPERFXLM_CHECK=ON.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "layout.h"
#include "program.h"

using namespace perfxlm;

namespace {

std::mt19937 random_bits(1);
int failures = 0;

std::vector<float> normal(size_t n) {
  std::normal_distribution<float> draw;
  std::vector<float> values(n);
  for (float& v : values) v = draw(random_bits);
  return values;
}

uintptr_t at(const void* p) { return reinterpret_cast<uintptr_t>(p); }

void expect(const std::string& what, const std::vector<float>& got,
            const std::vector<double>& want, double tolerance) {
  double size = 1e-9, error = 0;
  for (const double w : want) size = std::max(size, std::fabs(w));
  for (size_t i = 0; i < want.size(); ++i) {
    const double e = std::fabs(got[i] - want[i]);
    error = e <= error ? error : e;  // a NaN is kept
  }
  const bool good = error <= tolerance * size;
  if (!good) ++failures;
  std::printf("%-4s %-36s %.2g\n", good ? "ok" : "BAD", what.c_str(), error / size);
}

void same_bits(const std::string& what, const std::vector<float>& got, const float* want) {
  const bool good = std::memcmp(got.data(), want, got.size() * sizeof(float)) == 0;
  if (!good) ++failures;
  std::printf("%-4s %s has the same bits\n", good ? "ok" : "BAD", what.c_str());
}

void run(Pool& pool, const Variant& variant, const char* kernel, std::vector<uintptr_t> pointers,
         const std::vector<int64_t>& sizes, std::vector<int64_t> ints, std::vector<float> floats) {
  Node node{kernel, std::move(pointers), {}, std::move(ints), std::move(floats), {}};
  for (const int64_t size : sizes) node.sizes.push_back({size, {}});
  Program(pool, variant, {node}, {}).run(nullptr);
}

// A block of 32 weights: scale 0.01, minimum -0.07 where there is one, and the codes' bytes.
std::vector<uint8_t> block(int kind, const std::vector<int>& codes) {
  std::vector<uint8_t> bytes = {0x1f, 0x21};  // 0.01 as float16
  if (kind == kTileQ4_1) bytes.insert(bytes.end(), {0x7b, 0xac});  // -0.07
  for (int i = 0; i < (kind == kTileQ8_0 ? 32 : 16); ++i) {
    bytes.push_back((uint8_t)(kind == kTileQ8_0 ? codes[i] : codes[i] | codes[i + 16] << 4));
  }
  return bytes;
}

void check_linear(Pool& pool, const Variant& variant, int format) {
  const int kind = tile_kind(format);
  const int64_t rows = 37, columns = 96, tokens = 13;
  const double scale = 0.0100021362, minimum = kind == kTileQ4_1 ? -0.0700073242 : 0;
  std::uniform_int_distribution<int> code(kind == kTileQ8_0 ? -128 : 0, kind == kTileQ8_0 ? 127 : 15);
  std::vector<uint8_t> weight;
  std::vector<double> decoded;
  for (int64_t b = 0; b < rows * columns / 32; ++b) {
    std::vector<int> codes(32);
    for (int& c : codes) c = code(random_bits);
    for (const int c : codes) decoded.push_back(scale * (c - (kind == kTileQ4_0 ? 8 : 0)) + minimum);
    const auto bytes = block(kind, codes);
    weight.insert(weight.end(), bytes.begin(), bytes.end());
  }
  auto x = normal(tokens * columns);
  for (float& v : x) v = (float)(int)(v * 20);  // with a 127 in each block, codes are exact
  for (int64_t b = 0; b < tokens * columns / 32; ++b) x[32 * b] = 127;
  std::vector<double> want(tokens * rows);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = 0; k < columns; ++k) {
        want[t * rows + r] += (double)x[t * columns + k] * decoded[r * columns + k];
      }
    }
  }
  std::vector<float> out(tokens * rows, NAN);
  run(pool, variant, "linear", {at(out.data()), at(x.data()), at(weight.data()), 0}, {tokens},
      {rows, columns, format}, {});
  expect(std::string(variant.name) + " linear " + format_names[format], out, want, 2e-5);
  std::vector<uint8_t> packed(packed_bytes(kind, rows, columns));
  variant.pack(format, weight.data(), packed.data(), rows, columns, 0, (rows + 15) / 16);
  pool.reserve(linear_int8_workspace(columns), 0);
  std::fill(out.begin(), out.end(), NAN);
  run(pool, variant, "linear_int8", {at(out.data()), at(x.data()), at(packed.data()), 0}, {tokens},
      {rows, columns, kind}, {});
  expect(std::string(variant.name) + " linear_int8 " + format_names[format], out, want, 2e-5);
  std::vector<float> first(rows, NAN);
  run(pool, variant, "linear_int8", {at(first.data()), at(x.data()), at(packed.data()), 0}, {1},
      {rows, columns, kind}, {});
  same_bits(std::string(variant.name) + " linear_int8 of the first token", first, out.data());
}

void check_attention(Pool& pool, const Variant& variant, int tokens) {
  const int64_t length = 300, heads = 6, kv_heads = 2, dim = 40, block_size = 16;
  const int64_t blocks = (length + block_size - 1) / block_size;
  const auto q = normal(tokens * heads * dim), k = normal(length * kv_heads * dim),
             v = normal(length * kv_heads * dim);
  const size_t cached = (size_t)(blocks * block_size * kv_heads * dim);
  std::vector<uint16_t> keys(cached), values(cached);
  std::vector<int32_t> slots(length), table(blocks);
  for (int64_t b = 0; b < blocks; ++b) table[b] = (int32_t)(blocks - 1 - b);
  for (int64_t j = 0; j < length; ++j) {
    slots[j] = (int32_t)(table[j / block_size] * block_size + j % block_size);
  }
  run(pool, variant, "store_kv",
      {at(k.data()), at(v.data()), at(keys.data()), at(values.data()), at(slots.data())}, {length},
      {kv_heads * dim, kv_heads * dim, 1}, {});
  const std::vector<int32_t> lengths = {(int32_t)length}, starts = {0, tokens};
  std::vector<double> want(q.size());
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      std::vector<double> p(length - tokens + t + 1);
      double total = 0;
      for (size_t j = 0; j < p.size(); ++j) {
        for (int64_t d = 0; d < dim; ++d) {
          p[j] += 0.2 * q[(t * heads + h) * dim + d] * k[(j * kv_heads + h / 3) * dim + d];
        }
        total += p[j] = std::exp(p[j]);
      }
      for (size_t j = 0; j < p.size(); ++j) {
        for (int64_t d = 0; d < dim; ++d) {
          want[(t * heads + h) * dim + d] += p[j] / total * v[(j * kv_heads + h / 3) * dim + d];
        }
      }
    }
  }
  pool.reserve(attention_workspace(dim, dim), attention_shared(dim, pool.threads(), heads));
  std::vector<float> out(q.size(), NAN), last(heads * dim, NAN);
  run(pool, variant, "paged_attention",
      {at(out.data()), at(q.data()), at(keys.data()), at(values.data()), at(table.data()),
       at(lengths.data()), at(starts.data()), 0},
      {tokens, 1, blocks}, {heads, kv_heads, dim, dim, block_size, 1, 0}, {0.2f, 0});
  const std::vector<int32_t> one = {0, 1};
  run(pool, variant, "paged_attention",
      {at(last.data()), at(q.data() + q.size() - last.size()), at(keys.data()), at(values.data()),
       at(table.data()), at(lengths.data()), at(one.data()), 0},
      {1, 1, blocks}, {heads, kv_heads, dim, dim, block_size, 1, 0}, {0.2f, 0});
  same_bits(std::string(variant.name) + " attention of the last token", last,
            out.data() + out.size() - last.size());
  // keys and values were rounded to float16
  expect(std::string(variant.name) + " attention " + std::to_string(tokens), out, want, 3e-3);
}

void check_elements(Pool& pool, const Variant& variant) {
  const int64_t rows = 5, width = 51;
  const auto x = normal(rows * width), w = normal(width);
  std::vector<double> silu, norm;
  for (int64_t r = 0; r < rows; ++r) {
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += (double)x[r * width + i] * x[r * width + i];
    for (int64_t i = 0; i < width; ++i) {
      const double v = x[r * width + i];
      silu.push_back(v / (1 + std::exp(-v)));
      norm.push_back(v / std::sqrt(squares / width + 1e-5) * w[i]);
    }
  }
  std::vector<float> out(rows * width, NAN);
  run(pool, variant, "silu", {at(out.data()), at(x.data()), 0}, {rows}, {width}, {});
  expect(std::string(variant.name) + " silu", out, silu, 1e-5);
  std::fill(out.begin(), out.end(), NAN);
  run(pool, variant, "rms_norm", {at(out.data()), at(x.data()), at(w.data())}, {rows}, {width},
      {1e-5f});
  expect(std::string(variant.name) + " rms_norm", out, norm, 1e-5);
}

}  // namespace

int main() {
  for (const int threads : {1, 3}) {
    Pool pool(threads);
    for (const std::string& name : supported_variants()) {
      const Variant& variant = *find_variant(name);
      for (const int format : {kQ4_0, kQ4_1, kQ8_0}) check_linear(pool, variant, format);
      check_attention(pool, variant, 1);
      check_attention(pool, variant, 50);
      check_elements(pool, variant);
    }
  }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
