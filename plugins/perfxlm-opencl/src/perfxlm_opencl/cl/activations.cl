// Activation functions.
inline float silu_of(float v) { return v / (1.0f + exp(-v)); }
inline float gelu_of(float v) { return v * 0.5f * erfc(-v * 0.70710678118654752f); }
inline float gelu_tanh_of(float v) {
    const float inner = 0.79788456080286536f * (v + 0.044715f * v * v * v);
    return v * 0.5f * (1.0f + tanh(inner));
}
