// Operators that treat each element by itself: one work-item an element.
#include "activations.cl"
#include "storage.cl"

#define BEGIN(n) const int i = get_global_id(0); if (i >= n) return

#define BINARY(name, expression)                                                       \
    __kernel void name(OUT(RESULT, out), IN(ACT, first), IN(OTHER, second), const int n) { \
        PLACE_OUT(RESULT, out);                                                        \
        PLACE_IN(ACT, first);                                                          \
        PLACE_IN(OTHER, second);                                                       \
        BEGIN(n);                                                                      \
        const float a = LOAD(ACT, first, i), b = LOAD(OTHER, second, i);               \
        STORE(RESULT, out, i, expression);                                             \
    }

#define UNARY(name, expression)                                                        \
    __kernel void name(OUT(ACT, out), IN(ACT, x), const int n, const float p, const float q) { \
        PLACE_OUT(ACT, out);                                                           \
        PLACE_IN(ACT, x);                                                              \
        BEGIN(n);                                                                      \
        const float v = LOAD(ACT, x, i);                                               \
        STORE(ACT, out, i, expression);                                                \
    }

BINARY(add, a + b)
BINARY(mul, a * b)
BINARY(silu_and_mul, silu_of(a) * b)
BINARY(gelu_and_mul, gelu_of(a) * b)
BINARY(gelu_tanh_and_mul, gelu_tanh_of(a) * b)
UNARY(scale, v * p + q)
UNARY(soft_cap, tanh(v / p) * p)
UNARY(silu, silu_of(v))
UNARY(gelu, gelu_of(v))
UNARY(gelu_tanh, gelu_tanh_of(v))
