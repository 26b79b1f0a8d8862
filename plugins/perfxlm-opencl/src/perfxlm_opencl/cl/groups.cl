// Sums and maxima over the LOCAL work-items of a group, which all get the result. The order of the
// sum is fixed. With LOCAL 1 there is nothing to do, and no barrier.
#if LOCAL > 1
inline float group_sum(float v, __local float *scratch) {
    const int item = get_local_id(0);
    scratch[item] = v;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int half_way = LOCAL / 2; half_way > 0; half_way /= 2) {
        if (item < half_way) scratch[item] += scratch[item + half_way];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    const float total = scratch[0];
    barrier(CLK_LOCAL_MEM_FENCE);
    return total;
}

inline float group_max(float v, __local float *scratch) {
    const int item = get_local_id(0);
    scratch[item] = v;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int half_way = LOCAL / 2; half_way > 0; half_way /= 2) {
        if (item < half_way) scratch[item] = fmax(scratch[item], scratch[item + half_way]);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    const float largest = scratch[0];
    barrier(CLK_LOCAL_MEM_FENCE);
    return largest;
}
#else
inline float group_sum(float v, __local float *scratch) { return v; }
inline float group_max(float v, __local float *scratch) { return v; }
#endif
