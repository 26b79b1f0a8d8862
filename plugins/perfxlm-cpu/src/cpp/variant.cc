// All kernels for one instruction set: compiled once for each, with PERFXLM_VARIANT its name.
//
// Nothing here may use a template or inline function of the standard library that another
// translation unit could share: the linker keeps one copy, and it might keep this one.
#include "attention.h"
#include "elementwise.h"
#include "linear.h"
#include "linear_int8.h"
#include "rotary.h"

#define PERFXLM_STRING(name) #name
#define PERFXLM_NAME(name) PERFXLM_STRING(name)

namespace perfxlm {
namespace PERFXLM_VARIANT {
namespace {

constexpr Entry entries[] = {
    {"add", add},
    {"embedding", embedding},
    {"fast_gelu", fast_gelu},
    {"fast_gelu_and_mul", fast_gelu_and_mul},
    {"gelu", gelu},
    {"gelu_and_mul", gelu_and_mul},
    {"layer_norm", layer_norm},
    {"linear", linear},
    {"linear_int8", linear_int8},
    {"mul", mul},
    {"paged_attention", paged_attention},
    {"rms_norm", rms_norm},
    {"rotary_embedding", rotary_embedding},
    {"rotary_table", rotary_table},
    {"scale", scale},
    {"silu", silu},
    {"silu_and_mul", silu_and_mul},
    {"soft_cap", soft_cap},
    {"store_kv", store_kv},
    {"take_rows", take_rows},
};

}  // namespace

extern const Variant variant;
const Variant variant = {PERFXLM_NAME(PERFXLM_VARIANT), entries,
                         sizeof entries / sizeof entries[0], pack};

}  // namespace PERFXLM_VARIANT
}  // namespace perfxlm
