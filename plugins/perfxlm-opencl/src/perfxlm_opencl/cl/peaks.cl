// What the device does at most: kernels that only read, or only multiply and add. What they find is
// stored, so that nothing is left out.

// Neighbouring work-items read what lies side by side, sixteen bytes each.
__kernel void read_side_by_side(__global const uint4 *restrict memory, const ulong first,
                                __global uint *restrict out, const uint rounds) {
    const uint item = get_global_id(0), items = get_global_size(0);
    __global const uint4 *at = memory + first + item;
    uint4 a = 0, b = 0, c = 0, d = 0;
    for (uint i = 0; i < rounds; i += 4) {
        a ^= at[0];
        b ^= at[items];
        c ^= at[2 * items];
        d ^= at[3 * items];
        at += 4 * items;
    }
    a ^= b ^ c ^ d;
    out[item] = a.x ^ a.y ^ a.z ^ a.w;
}

// Each work-item reads a stretch of its own.
__kernel void read_stretches(__global const uint4 *restrict memory, const ulong first,
                             __global uint *restrict out, const uint rounds) {
    const uint item = get_global_id(0);
    __global const uint *at = (__global const uint *)(memory + first + (size_t)item * rounds);
    uint16 a = 0, b = 0;
    for (uint i = 0; i < rounds; i += 8) {
        a ^= vload16(0, at);
        b ^= vload16(1, at);
        at += 32;
    }
    a ^= b;
    const uint8 e = a.lo ^ a.hi;
    const uint4 f = e.lo ^ e.hi;
    out[item] = f.x ^ f.y ^ f.z ^ f.w;
}

#if WIDTH == 1
typedef float Lanes;
#define LANES(p) (p)[0]
#define SUM(v) (v)
#elif WIDTH == 4
typedef float4 Lanes;
#define LANES(p) vload4(0, p)
#define SUM(v) dot(v, (float4)1)
#else
typedef float16 Lanes;
#define LANES(p) vload16(0, p)
#define SUM(v) (dot((v).lo.lo + (v).lo.hi, (float4)1) + dot((v).hi.lo + (v).hi.hi, (float4)1))
#endif

// Eight chains of products and sums; contracted to one operation where that is quick.
__kernel void multiply_add(__global const float *restrict factors, __global float *restrict out,
                           const uint rounds) {
    const uint item = get_global_id(0);
    const Lanes x = LANES(factors), y = LANES(factors + 16);
    Lanes a = y + item, b = a + 1, c = a + 2, d = a + 3, e = a + 4, f = a + 5, g = a + 6, h = a + 7;
    for (uint i = 0; i < rounds; i++) {
        a = a * x + y;
        b = b * x + y;
        c = c * x + y;
        d = d * x + y;
        e = e * x + y;
        f = f * x + y;
        g = g * x + y;
        h = h * x + y;
    }
    out[item] = SUM(a + b + c + d + e + f + g + h);
}

#if DOT
// Eight chains of four 8-bit products and their sum.
__kernel void add_dot_product(__global const int *restrict factors, __global int *restrict out,
                              const uint rounds) {
    const uint item = get_global_id(0), x = factors[0];
    int a = item, b = a + 1, c = a + 2, d = a + 3, e = a + 4, f = a + 5, g = a + 6, h = a + 7;
    for (uint i = 0; i < rounds; i++) {
        a += dot_4x8packed_ss_int(x, b);
        b += dot_4x8packed_ss_int(x, c);
        c += dot_4x8packed_ss_int(x, d);
        d += dot_4x8packed_ss_int(x, e);
        e += dot_4x8packed_ss_int(x, f);
        f += dot_4x8packed_ss_int(x, g);
        g += dot_4x8packed_ss_int(x, h);
        h += dot_4x8packed_ss_int(x, a);
    }
    out[item] = a ^ b ^ c ^ d ^ e ^ f ^ g ^ h;
}
#endif
