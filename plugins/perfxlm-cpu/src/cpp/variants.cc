#include "variants.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace perfxlm {

#define PERFXLM_DECLARE(name) \
  namespace name {            \
  extern const Variant variant; \
  }

PERFXLM_DECLARE(generic)
#if defined(__x86_64__)
PERFXLM_DECLARE(avx2)
PERFXLM_DECLARE(avx512)
PERFXLM_DECLARE(avx512_vnni)
#elif defined(__aarch64__)
PERFXLM_DECLARE(neon_dotprod)
#endif

namespace {

struct Choice {
  const Variant* variant;
  bool runs;
};

// Every variant of this build, the fastest first. The tests include the system's part: a set whose
// registers the system does not save counts as absent.
std::vector<Choice> choices() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("f16c");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool has_vnni = has_avx512 && __builtin_cpu_supports("avx512vnni");
  return {{&avx512_vnni::variant, has_vnni},
          {&avx512::variant, has_avx512},
          {&avx2::variant, has_avx2},
          {&generic::variant, true}};
#elif defined(__aarch64__)
#if defined(__linux__)
  const bool has_dotprod = (getauxval(AT_HWCAP) & (1ul << 20)) != 0;  // HWCAP_ASIMDDP
#else
  const bool has_dotprod = true;  // every 64-bit Apple processor that runs a supported system
#endif
  return {{&neon_dotprod::variant, has_dotprod}, {&generic::variant, true}};
#else
  return {{&generic::variant, true}};
#endif
}

}  // namespace

std::vector<std::string> supported_variants() {
  std::vector<std::string> names;
  for (const Choice& choice : choices()) {
    if (choice.runs) names.emplace_back(choice.variant->name);
  }
  return names;
}

const Variant* find_variant(std::string_view name) {
  for (const Choice& choice : choices()) {
    if (choice.runs && name == choice.variant->name) return choice.variant;
  }
  return nullptr;
}

const Entry* find_kernel(const Variant& variant, std::string_view name) {
  for (size_t i = 0; i < variant.count; ++i) {
    if (name == variant.entries[i].name) return &variant.entries[i];
  }
  return nullptr;
}

}  // namespace perfxlm
