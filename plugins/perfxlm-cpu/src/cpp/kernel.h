// What a kernel is: a plain function over the arguments that were bound to a node.
//
// A variant (one instruction set) is one translation unit that exports a table of such functions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace perfxlm {

// Waits until every worker of the pool has arrived.
class Barrier;

// One thread's view of the pool while a program runs.
struct Worker {
  int id;
  int count;
  unsigned char* workspace;  // private to the thread, 64-byte aligned, as large as was reserved
  unsigned char* shared;     // common to all threads, as large as was reserved
  Barrier* barrier;

  void wait() const;  // until all workers of the kernel are here
};

// Arguments of a node. What stands where is said at the head of each kernel.
struct Call {
  void* const* pointers;
  const int64_t* sizes;  // dimensions, already concrete for this step
  const int64_t* ints;
  const float* floats;

  template <class T>
  T* at(int i) const {
    return static_cast<T*>(pointers[i]);
  }
};

using Kernel = void (*)(const Call&, const Worker&);

// How a kernel shares its work. By rows: worker `share(sizes[0], 1, id, count)`, and row r of every
// operand that other nodes write or read is touched by the worker that has row r, and no other.
// Shared: by whatever rule, and it uses the workspace that threads share.
enum class Split { kByRows, kShared, kOther };

struct Entry {
  const char* name;
  Kernel kernel;
  Split split;
};

// Repacks rows of a quantized weight into the tiles of `linear_int8`, and says whether they can hold
// it; see linear_int8.h.
using Pack = bool (*)(int format, const uint8_t* source, uint8_t* target, int64_t rows,
                      int64_t columns, int64_t first_tile, int64_t last_tile);

struct Variant {
  const char* name;
  const Entry* entries;
  size_t count;
  Pack pack;
};

// Weight formats, in the order of `format_names`.
enum Format : int {
  kFloat32, kFloat16, kBFloat16, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0,
  kQ2K, kQ3K, kQ4K, kQ5K, kQ6K, kIQ4NL, kIQ4XS, kFormats,
};

constexpr const char* format_names[kFormats] = {
    "float32", "float16", "bfloat16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0",
    "q2_k",    "q3_k",    "q4_k",     "q5_k", "q6_k", "iq4_nl", "iq4_xs"};

// A contiguous share of `n` items for worker `id` of `count`, in whole grains.
struct Range {
  int64_t begin, end;
};

inline Range share(int64_t n, int64_t grain, int id, int count) {
  const int64_t grains = (n + grain - 1) / grain;
  const int64_t first = grains * id / count * grain;
  const int64_t last = grains * (id + 1) / count * grain;
  return {first < n ? first : n, last < n ? last : n};
}

}  // namespace perfxlm
