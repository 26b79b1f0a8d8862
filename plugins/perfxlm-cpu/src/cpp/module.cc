// What Python sees: the pool, nodes, programs, and the packing of weights.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <sys/mman.h>

#include <atomic>
#include <stdexcept>

#include "layout.h"
#include "program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace perfxlm {
namespace {

const Variant& variant_called(const std::string& name) {
  const Variant* found = find_variant(name);
  if (found == nullptr) {
    throw std::invalid_argument("this machine cannot run the instruction set " + name);
  }
  return *found;
}

struct PackJob {
  const Variant& variant;
  int format;
  const uint8_t* source;
  uint8_t* target;
  int64_t rows, columns;
  std::atomic<bool>* fits;
};

void pack_share(const void* context, const Worker& worker) {
  const auto& job = *static_cast<const PackJob*>(context);
  const Range mine = share((job.rows + 15) / 16, 1, worker.id, worker.count);
  if (!job.variant.pack(job.format, job.source, job.target, job.rows, job.columns, mine.begin,
                        mine.end)) {
    *job.fits = false;
  }
}

// Asks for large pages where memory is about to be written for the first time: fewer faults now, and
// fewer misses of the translation buffer in every step.
void prefer_large_pages([[maybe_unused]] uintptr_t address, [[maybe_unused]] int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = 4096;
  const uintptr_t begin = (address + page - 1) / page * page, end = (address + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

bool pack(Pool& pool, const std::string& variant, int format, uintptr_t source, uintptr_t target,
          int64_t rows, int64_t columns) {
  std::atomic<bool> fits = true;
  const PackJob job{variant_called(variant),
                    format,
                    reinterpret_cast<const uint8_t*>(source),
                    reinterpret_cast<uint8_t*>(target),
                    rows,
                    columns,
                    &fits};
  prefer_large_pages(target, packed_bytes(tile_kind(format), rows, columns));
  pool.run(pack_share, &job);
  return fits;
}

struct Sizes {
  static constexpr size_t most = 16;
  int64_t values[most];

  Sizes(const Program& program, const nb::args& given) {
    if (given.size() != program.symbols() || given.size() > most) {
      throw std::invalid_argument("a program takes one size for each of its symbols, 16 at most");
    }
    for (size_t i = 0; i < given.size(); ++i) values[i] = nb::cast<int64_t>(given[i]);
  }
};

void run(Program& program, const nb::args& sizes) {
  const Sizes given(program, sizes);
  const nb::gil_scoped_release released;
  program.run(given.values);
}

void run_timed(Program& program, uintptr_t times, const nb::args& sizes) {
  const Sizes given(program, sizes);
  const nb::gil_scoped_release released;
  program.run_timed(given.values, reinterpret_cast<int64_t*>(times));
}

}  // namespace
}  // namespace perfxlm

NB_MODULE(_native, m) {
  using namespace perfxlm;
  m.doc() = "Native kernels of the cpu plugin.";

  nb::class_<Pool>(m, "Pool", "Threads that run programs together; the caller is one of them.")
      .def(nb::init<int>(), "threads"_a)
      .def_prop_ro("threads", &Pool::threads)
      .def("reserve", &Pool::reserve, "private_bytes"_a, "shared_bytes"_a = 0,
           "Make each thread's workspace, and the common one, at least this large.");

  using Terms = std::pair<int64_t, std::vector<std::pair<std::string, int64_t>>>;
  nb::class_<Node>(m, "Node",
                   "A kernel's name and its arguments. Sizes are (offset, [(symbol, count)]); "
                   "accesses are (address, size in bytes, whether it writes).")
      .def(
          "__init__",
          [](Node* self, std::string kernel, std::vector<uintptr_t> pointers,
             const std::vector<Terms>& sizes, std::vector<int64_t> ints,
             const std::vector<double>& floats,
             const std::vector<std::tuple<uintptr_t, Terms, bool>>& accesses) {
            new (self) Node{std::move(kernel), std::move(pointers), {}, std::move(ints),
                            {floats.begin(), floats.end()}, {}};
            for (const auto& [offset, terms] : sizes) self->sizes.push_back({offset, terms});
            for (const auto& [address, bytes, writes] : accesses) {
              self->accesses.push_back({address, {bytes.first, bytes.second}, writes});
            }
          },
          "kernel"_a, "pointers"_a, "sizes"_a, "ints"_a, "floats"_a, "accesses"_a)
      .def_ro("kernel", &Node::kernel);

  nb::class_<Program>(m, "Program", "Nodes that run one after the other in one call.")
      .def(
          "__init__",
          [](Program* self, Pool& pool, const std::string& variant, const nb::list& nodes,
             const std::vector<std::string>& symbols) {
            std::vector<Node> copies;
            for (const nb::handle node : nodes) copies.push_back(nb::cast<Node>(node));
            new (self) Program(pool, variant_called(variant), copies, symbols);
          },
          "pool"_a, "variant"_a, "nodes"_a, "symbols"_a, nb::keep_alive<1, 2>())
      .def_prop_ro("barriers", &Program::barriers,
                   "Waits of all threads for one another in the last run.")
      .def_prop_ro("nodes", &Program::nodes, "How many.")
      .def("run", &run, "Run with these sizes of the symbols. Other Python threads go on.")
      .def("run_timed", &run_timed,
           "The same, timed: writes int64 [threads, nodes, 3] to an address, nanoseconds of the "
           "monotonic clock when each thread came to each node, began and ended it.");

  m.def("supported_variants", &supported_variants,
        "Instruction sets that this machine can run, the fastest first.");
  m.def("pack", &pack, "pool"_a, "variant"_a, "format"_a, "source"_a, "target"_a, "rows"_a,
        "columns"_a,
        "Repack a weight into the tiles of linear_int8. False if they cannot hold its scales.",
        nb::call_guard<nb::gil_scoped_release>());

  m.def("tile_kind", &tile_kind, "format"_a);
  m.def("packed_bytes", &packed_bytes, "kind"_a, "rows"_a, "columns"_a);
  m.def("linear_int8_workspace", &linear_int8_workspace, "columns"_a);
  m.def("attention_workspace", &attention_workspace, "head_dim"_a, "v_head_dim"_a);
  m.def("attention_shared", &attention_shared, "v_head_dim"_a, "threads"_a, "heads"_a);

  nb::dict formats;
  for (int i = 0; i < kFormats; ++i) formats[format_names[i]] = i;
  m.attr("FORMATS") = formats;
}
