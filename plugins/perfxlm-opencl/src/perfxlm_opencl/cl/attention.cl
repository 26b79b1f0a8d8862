// Writing of the paged cache; cl/paged_alone.cl and cl/paged_group.cl are attention over it.
#include "storage.cl"

// One work-item for an element of a key and one of a value.
__kernel void store_kv(
    IN(ACT, k), IN(ACT, v), OUT(CACHE, k_cache), OUT(CACHE, v_cache), IN(int, slots),
    const int tokens, const int k_width, const int v_width
) {
    PLACE_IN(ACT, k);
    PLACE_IN(ACT, v);
    PLACE_OUT(CACHE, k_cache);
    PLACE_OUT(CACHE, v_cache);
    PLACE_IN(int, slots);
    const int i = get_global_id(0), t = get_global_id(1);
    if (t >= tokens) return;
    const int slot = slots[t];
    if (slot < 0) return;
    if (i < k_width) {
        STORE(CACHE, k_cache, (size_t)slot * k_width + i, LOAD(ACT, k, (size_t)t * k_width + i));
    }
    if (i < v_width) {
        STORE(CACHE, v_cache, (size_t)slot * v_width + i, LOAD(ACT, v, (size_t)t * v_width + i));
    }
}
