// Activation functions.
inline float silu_of(float v) { return v / (1.0f + exp(-v)); }
inline float gelu_of(float v) { return v * 0.5f * erfc(-v * 0.70710678118654752f); }
// (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)), which keeps its accuracy where it is small.
inline float gelu_tanh_of(float v) {
    return v / (1.0f + exp(-1.5957691216057307f * (v + 0.044715f * v * v * v)));
}
// 0 silu, 1 gelu, 2 gelu by tanh.
inline float activated(int kind, float v) {
    return kind == 0 ? silu_of(v) : kind == 1 ? gelu_of(v) : gelu_tanh_of(v);
}
