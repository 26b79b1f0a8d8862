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

// Memory that a node touches and that other nodes may write.
struct Access {
  uintptr_t address;
  Size bytes;
  bool writes;
};

// What `bind` made of a node: a kernel's name and its arguments.
struct Node {
  std::string kernel;
  std::vector<uintptr_t> pointers;
  std::vector<Size> sizes;
  std::vector<int64_t> ints;
  std::vector<float> floats;
  std::vector<Access> accesses;
};

class Program {
 public:
  // Throws std::invalid_argument for an unknown kernel or symbol.
  Program(Pool& pool, const Variant& variant, const std::vector<Node>& nodes,
          const std::vector<std::string>& symbols);

  size_t symbols() const { return symbols_.size(); }

  // Waits of all threads for one another in the last run.
  int barriers() const;

  // `values` are the sizes of the symbols. Allocates nothing.
  void run(const int64_t* values);

  // The same, timed. For each thread and node three times of the monotonic clock in nanoseconds:
  // when the thread came to the node, and when it began and ended it. [threads, nodes, 3]
  void run_timed(const int64_t* values, int64_t* times);

  size_t nodes() const { return steps_.size(); }

 private:
  struct Region {
    uintptr_t begin;
    int64_t bytes;
    bool writes;
  };
  struct Step {
    const Entry* entry;
    std::vector<void*> pointers;
    std::vector<int64_t> sizes, ints;
    std::vector<float> floats;
    std::vector<Region> regions;
    Call call;
    bool waits;  // for all threads to finish what came before
  };
  struct Term {
    int64_t* target;
    int64_t offset;
    std::vector<std::pair<size_t, int64_t>> factors;
  };

  void add_term(const Size& size, int64_t* target);
  void resize(const int64_t* values);
  void place_barriers();
  static bool disturbs(const Step& first, const Step& second);
  static void walk(const void* program, const Worker& worker);
  static void walk_timed(const void* timing, const Worker& worker);

  Pool& pool_;
  std::mutex mutex_;
  const std::vector<std::string> symbols_;
  std::vector<int64_t> values_;  // of the symbols, when sizes and barriers were last computed
  bool sized_ = false;
  std::vector<Step> steps_;
  std::vector<Term> terms_;
};

}  // namespace perfxlm
