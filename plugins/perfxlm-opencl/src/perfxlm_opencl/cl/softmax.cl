// Parts of a softmax: what they weigh when they are put together.

// By what the weights of a softmax shrink when its largest score grows.
inline float shrink(float from, float to) { return from == to ? 1.0f : exp(from - to); }

// The largest score, or 0 where no key is seen: all weights are 0 then.
inline float known(float top) { return top == -INFINITY ? 0.0f : top; }
