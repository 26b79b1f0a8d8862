// A list of bound nodes that the pool runs in one call.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "pool.h"
#include "variants.h"

namespace perfxlm {

// A dimension: offset + sum of counts times symbols.
struct Size {
  int64_t offset = 0;
  std::vector<std::pair<std::string, int64_t>> terms;
};

// What `bind` made of a node: a kernel's name and its arguments.
struct Node {
  std::string kernel;
  std::vector<uintptr_t> pointers;
  std::vector<Size> sizes;
  std::vector<int64_t> ints;
  std::vector<float> floats;
};

class Program {
 public:
  // Throws std::invalid_argument for an unknown kernel or symbol.
  Program(Pool& pool, const Variant& variant, const std::vector<Node>& nodes,
          const std::vector<std::string>& symbols);

  size_t symbols() const { return symbols_; }

  // `values` are the sizes of the symbols. Allocates nothing.
  void run(const int64_t* values);

 private:
  struct Step {
    Kernel kernel;
    std::vector<void*> pointers;
    std::vector<int64_t> sizes, ints;
    std::vector<float> floats;
    Call call;
  };
  struct Term {
    int64_t* target;
    int64_t offset;
    std::vector<std::pair<size_t, int64_t>> factors;
  };

  void resize(const int64_t* values);
  static void walk(const void* program, const Worker& worker);

  Pool& pool_;
  std::mutex mutex_;
  const size_t symbols_;
  std::vector<Step> steps_;
  std::vector<Term> terms_;
};

}  // namespace perfxlm
