#include "program.h"

#include <algorithm>
#include <stdexcept>

namespace perfxlm {

Program::Program(Pool& pool, const Variant& variant, const std::vector<Node>& nodes,
                 const std::vector<std::string>& symbols)
    : pool_(pool), symbols_(symbols.size()), steps_(nodes.size()) {
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Node& node = nodes[i];
    Step& step = steps_[i];
    step.kernel = find_kernel(variant, node.kernel);
    if (step.kernel == nullptr) throw std::invalid_argument("no kernel called " + node.kernel);
    for (const uintptr_t p : node.pointers) step.pointers.push_back(reinterpret_cast<void*>(p));
    step.sizes.assign(node.sizes.size(), 0);
    step.ints = node.ints;
    step.floats = node.floats;
    step.call = {step.pointers.data(), step.sizes.data(), step.ints.data(), step.floats.data()};
    for (size_t k = 0; k < node.sizes.size(); ++k) {
      Term term{&step.sizes[k], node.sizes[k].offset, {}};
      for (const auto& [name, count] : node.sizes[k].terms) {
        const auto found = std::find(symbols.begin(), symbols.end(), name);
        if (found == symbols.end()) throw std::invalid_argument("no symbol called " + name);
        term.factors.emplace_back(found - symbols.begin(), count);
      }
      terms_.push_back(std::move(term));
    }
  }
}

void Program::resize(const int64_t* values) {
  for (const Term& term : terms_) {
    int64_t size = term.offset;
    for (const auto& [symbol, count] : term.factors) size += values[symbol] * count;
    *term.target = size;
  }
}

void Program::walk(const void* program, const Worker& worker) {
  const auto& steps = static_cast<const Program*>(program)->steps_;
  for (size_t i = 0; i < steps.size(); ++i) {
    if (i != 0) worker.wait();
    steps[i].kernel(steps[i].call, worker);
  }
}

void Program::run(const int64_t* values) {
  const std::lock_guard lock(mutex_);
  resize(values);
  pool_.run(walk, this);
}

}  // namespace perfxlm
