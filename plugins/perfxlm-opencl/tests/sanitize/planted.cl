// One bug a kernel, for 64 work-items in one group over 64 floats.
__kernel void no_bug(__global float *x) {
    __local float t[64];
    const int i = get_local_id(0);
    t[i] = x[i];
    barrier(CLK_LOCAL_MEM_FENCE);
    x[i] = t[63 - i];
}

__kernel void read_past_the_end(__global float *x) {
    const int i = get_local_id(0);
    x[i] = x[i + 1];
}

__kernel void write_past_the_end(__global float *x) { x[get_local_id(0) + 1] = 1.0f; }

__kernel void half_read_past_the_end(__global float *x) {
    const int i = get_local_id(0);
    x[i] = vload_half4(i + 1 + 31, (__global const half *)x).x;
}

__kernel void local_write_past_the_end(__global float *x) {
    __local float t[64];
    const int i = get_local_id(0);
    t[i + 1] = x[i];
    barrier(CLK_LOCAL_MEM_FENCE);
    x[i] = t[i];
}

__kernel void barrier_forgotten(__global float *x) {
    __local float t[64];
    const int i = get_local_id(0);
    t[i] = x[i];
    x[i] = t[63 - i];
}

__kernel void one_element_for_all(__global float *x) { x[0] += 1.0f; }

__kernel void barrier_for_some(__global float *x) {
    const int i = get_local_id(0);
    if (i < 32) barrier(CLK_LOCAL_MEM_FENCE);
    x[i] = 0.0f;
}
