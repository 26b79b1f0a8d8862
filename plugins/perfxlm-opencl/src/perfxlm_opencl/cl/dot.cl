// Products of four signed bytes with four others, added up. With DOT 1 that is one instruction; with
// DOT 2 its emulation, for tests where no device has it.
#if DOT == 1
#pragma OPENCL EXTENSION cl_khr_integer_dot_product : enable
inline int dot_bytes(uint a, uint b, int sum) { return sum + dot_4x8packed_ss_int(a, b); }
#else
inline int dot_bytes(uint a, uint b, int sum) {
    const int4 products = convert_int4(as_char4(a)) * convert_int4(as_char4(b));
    return sum + ((products.x + products.y) + (products.z + products.w));
}
#endif

inline int dot_16(uint4 a, uint4 b) {
    return dot_bytes(a.x, b.x, dot_bytes(a.y, b.y, dot_bytes(a.z, b.z, dot_bytes(a.w, b.w, 0))));
}
