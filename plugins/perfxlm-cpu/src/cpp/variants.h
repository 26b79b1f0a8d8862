// The instruction sets of this build, and which of them this machine runs.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernel.h"

namespace perfxlm {

// Names of the variants that this processor and system can run, the fastest first.
std::vector<std::string> supported_variants();

// The variant called `name`; null if this machine cannot run it or the build lacks it.
const Variant* find_variant(std::string_view name);

// The kernel called `name`; null if there is none.
const Entry* find_kernel(const Variant& variant, std::string_view name);

}  // namespace perfxlm
