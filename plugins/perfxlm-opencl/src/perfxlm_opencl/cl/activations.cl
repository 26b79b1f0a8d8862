// Activation functions.
inline float silu_of(float v) { return v / (1.0f + exp(-v)); }
inline float gelu_of(float v) { return v * 0.5f * erfc(-v * 0.70710678118654752f); }
inline float gelu_tanh_of(float v) {
    const float inner = 0.79788456080286536f * (v + 0.044715f * v * v * v);
    return v * 0.5f * (1.0f + tanh(inner));
}
// 0 silu, 1 gelu, 2 gelu by tanh.
inline float activated(int kind, float v) {
    return kind == 0 ? silu_of(v) : kind == 1 ? gelu_of(v) : gelu_tanh_of(v);
}
