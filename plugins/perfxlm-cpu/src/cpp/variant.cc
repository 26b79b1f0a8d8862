// All kernels for one instruction set: compiled once for each, with PERFXLM_VARIANT its name.
//
// Nothing here may use a template or inline function of the standard library that another
// translation unit could share: the linker keeps one copy, and it might keep this one.
#include "attention.h"
#include "elementwise.h"
#include "linear.h"
#include "linear_int8.h"
#include "packing.h"
#include "peaks.h"
#include "rotary.h"

#define PERFXLM_STRING(name) #name
#define PERFXLM_NAME(name) PERFXLM_STRING(name)

namespace perfxlm {
namespace PERFXLM_VARIANT {
namespace {

constexpr Entry entries[] = {
    {"add", add, Split::kByRows},
    {"embedding", embedding, Split::kByRows},
    {"fast_gelu", fast_gelu, Split::kByRows},
    {"fast_gelu_and_mul", fast_gelu_and_mul, Split::kByRows},
    {"gelu", gelu, Split::kByRows},
    {"gelu_and_mul", gelu_and_mul, Split::kByRows},
    {"layer_norm", layer_norm, Split::kByRows},
    {"linear", linear, Split::kOther},
    {"linear_int8", linear_int8, Split::kOther},
    {"mul", mul, Split::kByRows},
    {"paged_attention", paged_attention, Split::kShared},
    {"peak_float32", peak_float32, Split::kOther},
    {"peak_int8", peak_int8, Split::kOther},
    {"peak_read", peak_read, Split::kOther},
    {"rms_norm", rms_norm, Split::kByRows},
    {"rotary_embedding", rotary_embedding, Split::kByRows},
    {"rotary_table", rotary_table, Split::kByRows},
    {"scale", scale, Split::kByRows},
    {"silu", silu, Split::kByRows},
    {"silu_and_mul", silu_and_mul, Split::kByRows},
    {"soft_cap", soft_cap, Split::kByRows},
    {"store_kv", store_kv, Split::kByRows},
    {"store_kv_int8", store_kv_int8, Split::kByRows},
    {"take_rows", take_rows, Split::kOther},
};

}  // namespace

extern const Variant variant;
const Variant variant = {PERFXLM_NAME(PERFXLM_VARIANT), entries,
                         sizeof entries / sizeof entries[0], pack};

}  // namespace PERFXLM_VARIANT
}  // namespace perfxlm
