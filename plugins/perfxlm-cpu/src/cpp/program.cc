#include "program.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>

namespace perfxlm {

Program::Program(Pool& pool, const Variant& variant, const std::vector<Node>& nodes,
                 const std::vector<std::string>& symbols)
    : pool_(pool), symbols_(symbols), values_(symbols.size()), steps_(nodes.size()) {
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Node& node = nodes[i];
    Step& step = steps_[i];
    step.entry = find_kernel(variant, node.kernel);
    if (step.entry == nullptr) throw std::invalid_argument("no kernel called " + node.kernel);
    for (const uintptr_t p : node.pointers) step.pointers.push_back(reinterpret_cast<void*>(p));
    step.sizes.assign(node.sizes.size(), 0);
    step.ints = node.ints;
    step.floats = node.floats;
    for (const Access& a : node.accesses) step.regions.push_back({a.address, 0, a.writes});
    step.call = {step.pointers.data(), step.sizes.data(), step.ints.data(), step.floats.data()};
    for (size_t k = 0; k < node.sizes.size(); ++k) add_term(node.sizes[k], &step.sizes[k]);
    for (size_t k = 0; k < node.accesses.size(); ++k) {
      add_term(node.accesses[k].bytes, &step.regions[k].bytes);
    }
  }
}

void Program::add_term(const Size& size, int64_t* target) {
  Term term{target, size.offset, {}};
  for (const auto& [name, count] : size.terms) {
    const auto found = std::find(symbols_.begin(), symbols_.end(), name);
    if (found == symbols_.end()) throw std::invalid_argument("no symbol called " + name);
    term.factors.emplace_back(found - symbols_.begin(), count);
  }
  terms_.push_back(std::move(term));
}

void Program::resize(const int64_t* values) {
  if (sized_ && std::equal(values_.begin(), values_.end(), values)) return;
  for (const Term& term : terms_) {
    int64_t size = term.offset;
    for (const auto& [symbol, count] : term.factors) size += values[symbol] * count;
    *term.target = size;
  }
  std::copy_n(values, values_.size(), values_.begin());
  place_barriers();
  sized_ = true;
}

bool Program::disturbs(const Step& first, const Step& second) {
  const Split shared = Split::kShared;
  if (first.entry->split == shared && second.entry->split == shared) return true;
  const bool by_rows = first.entry->split == Split::kByRows &&
                       second.entry->split == Split::kByRows &&
                       first.sizes[0] == second.sizes[0];
  for (const Region& a : first.regions) {
    for (const Region& b : second.regions) {
      if (!a.writes && !b.writes) continue;
      if (a.begin + a.bytes <= b.begin || b.begin + b.bytes <= a.begin) continue;
      // The same rows of the same array belong to the same thread; a single row always does.
      const bool same = a.begin == b.begin && a.bytes == b.bytes;
      if (!by_rows || (!same && first.sizes[0] > 1)) return true;
    }
  }
  return false;
}

void Program::place_barriers() {
  size_t since = 0;  // the first step behind the latest barrier
  for (size_t i = 0; i < steps_.size(); ++i) {
    steps_[i].waits = std::any_of(steps_.begin() + since, steps_.begin() + i, [&](const Step& s) {
      return disturbs(s, steps_[i]);
    });
    if (steps_[i].waits) since = i;
  }
}

int Program::barriers() const {
  return (int)std::count_if(steps_.begin(), steps_.end(), [](const Step& s) { return s.waits; });
}

void Program::walk(const void* program, const Worker& worker) {
  for (const Step& step : static_cast<const Program*>(program)->steps_) {
    if (step.waits) worker.wait();
    step.entry->kernel(step.call, worker);
  }
}

namespace {

struct Timing {
  const Program* program;
  int64_t* times;
};

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

void Program::walk_timed(const void* timing, const Worker& worker) {
  const auto& [program, times] = *static_cast<const Timing*>(timing);
  int64_t* at = times + 3 * (int64_t)program->steps_.size() * worker.id;
  for (const Step& step : program->steps_) {
    *at++ = now();
    if (step.waits) worker.wait();
    *at++ = now();
    step.entry->kernel(step.call, worker);
    *at++ = now();
  }
}

void Program::run_timed(const int64_t* values, int64_t* times) {
  const std::lock_guard lock(mutex_);
  resize(values);
  const Timing timing{this, times};
  pool_.run(walk_timed, &timing);
}

void Program::run(const int64_t* values) {
  const std::lock_guard lock(mutex_);
  resize(values);
  pool_.run(walk, this);
}

}  // namespace perfxlm
