// Sums and maxima over the LOCAL work-items of a group, which all get the result. The order of the
// sum is fixed. With LOCAL 1 there is nothing to do, and no barrier. Every work-item goes through
// all values: that takes two barriers, and no loop around them, which some compilers unfold.
#if LOCAL > 1
inline float group_sum(float v, __local float *scratch) {
    scratch[get_local_id(0)] = v;
    barrier(CLK_LOCAL_MEM_FENCE);
    float total = scratch[0];
    for (int i = 1; i < LOCAL; i++) total += scratch[i];
    barrier(CLK_LOCAL_MEM_FENCE);
    return total;
}

inline float group_max(float v, __local float *scratch) {
    scratch[get_local_id(0)] = v;
    barrier(CLK_LOCAL_MEM_FENCE);
    float largest = scratch[0];
    for (int i = 1; i < LOCAL; i++) largest = fmax(largest, scratch[i]);
    barrier(CLK_LOCAL_MEM_FENCE);
    return largest;
}
#else
inline float group_sum(float v, __local float *scratch) { return v; }
inline float group_max(float v, __local float *scratch) { return v; }
#endif
