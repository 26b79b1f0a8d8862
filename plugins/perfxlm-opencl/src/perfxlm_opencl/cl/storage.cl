// How numbers are stored, and how they are read and written. A kind is float, half or bfloat;
// arithmetic is in float whatever the kind, and half needs no cl_khr_fp16.
#pragma OPENCL FP_CONTRACT OFF

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

#define STORED_float float
#define STORED_half half
#define STORED_bfloat ushort
#define STORED_int int
#define STORED_byte uchar
#define STORED(kind) JOIN(STORED_, kind)

// ACT is the kind of what a kernel reads first, RESULT of what it writes, OTHER of what stands beside
// it: a bias, a residual, a norm's weight, a second operand. Mostly they are one.
#ifndef RESULT
#define RESULT ACT
#endif
#ifndef OTHER
#define OTHER ACT
#endif

// An operand is two arguments: a buffer, and an offset in elements.
#define IN(kind, name) __global const STORED(kind) *restrict name##_base, const ulong name##_at
#define OUT(kind, name) __global STORED(kind) *restrict name##_base, const ulong name##_at
#define PLACE_IN(kind, name) __global const STORED(kind) *name = name##_base + name##_at
#define PLACE_OUT(kind, name) __global STORED(kind) *name = name##_base + name##_at

#define LOAD(kind, p, i) JOIN(load_, kind)((p) + (i))
#define LOAD4(kind, p, i) JOIN(load4_, kind)((p) + (i))
#define LOAD16(kind, p, i) JOIN(load16_, kind)((p) + (i))
#define STORE(kind, p, i, v) JOIN(store_, kind)((p) + (i), v)
#define STORE4(kind, p, i, v) JOIN(store4_, kind)((p) + (i), v)
#define STORE16(kind, p, i, v) JOIN(store16_, kind)((p) + (i), v)

inline float load_float(__global const float *p) { return *p; }
inline float4 load4_float(__global const float *p) { return vload4(0, p); }
inline float16 load16_float(__global const float *p) { return vload16(0, p); }
inline void store_float(__global float *p, float v) { *p = v; }
inline void store4_float(__global float *p, float4 v) { vstore4(v, 0, p); }
inline void store16_float(__global float *p, float16 v) { vstore16(v, 0, p); }

inline float load_half(__global const half *p) { return vload_half(0, p); }
inline float4 load4_half(__global const half *p) { return vload_half4(0, p); }
inline float16 load16_half(__global const half *p) { return vload_half16(0, p); }
inline void store_half(__global half *p, float v) { vstore_half_rte(v, 0, p); }
inline void store4_half(__global half *p, float4 v) { vstore_half4_rte(v, 0, p); }
inline void store16_half(__global half *p, float16 v) { vstore_half16_rte(v, 0, p); }

inline float load_bfloat(__global const ushort *p) { return as_float((uint)*p << 16); }
inline float4 load4_bfloat(__global const ushort *p) {
    return as_float4(convert_uint4(vload4(0, p)) << 16);
}
inline float16 load16_bfloat(__global const ushort *p) {
    return as_float16(convert_uint16(vload16(0, p)) << 16);
}
inline void store_bfloat(__global ushort *p, float v) {
    const uint bits = as_uint(v);
    const uint rounded = bits + 0x7FFF + ((bits >> 16) & 1);  // to nearest even
    *p = (ushort)((isnan(v) ? bits | 0x400000 : rounded) >> 16);
}

inline float sum4(float4 v) { return (v.x + v.y) + (v.z + v.w); }
inline float sum16(float16 v) {
    const float8 a = v.lo + v.hi;
    return sum4(a.lo + a.hi);
}
