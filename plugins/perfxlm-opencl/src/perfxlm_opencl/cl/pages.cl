// Attention over the paged cache: how queries are cut into tiles, and contexts into pieces.
//
// The rows of a sequence and a key head are its new tokens times the query heads that share the key
// head. A tile is ROWS of them at most, those of one work-group, which read each key and value once
// for all. Tiles are numbered without a list: sequence `s` begins at the tile
// `query_starts[s] * group / ROWS + s`, which leaves it room enough, and some numbers without rows.
//
// A context is cut at every PIECE-th position. Each piece has a softmax of its own; what it gives
// (largest score, sum of weights, weighted sum of values) is merged with the pieces before it, in
// order. Where that happens, and with which other rows, changes no bit of a row.
//
// Compilers for processors let `mad` round once or twice as suits the code around it, so there it is
// `fma` that gives a row the same bits in tiles of all sizes.
#include "storage.cl"

#if FUSED
#define MULTIPLY_ADD fma
#else
#define MULTIPLY_ADD mad
#endif

typedef struct {
    int sequence;  // which
    int first;     // its row that the tile begins with
    int rows;      // of the tile; none or fewer than none if it is empty
    int token;     // the sequence's first in the step
    int position;  // of that token
    int group;     // query heads of a key head
} Tile;

inline int first_tile(__global const int *query_starts, int s, int group) {
    return query_starts[s] * group / ROWS + s;
}

inline Tile tile_of(
    int index, __global const int *query_starts, __global const int *seq_lens, int seqs, int group
) {
    int s = 0, above = seqs;
    while (above - s > 1) {
        const int middle = (s + above) / 2;
        if (first_tile(query_starts, middle, group) <= index) s = middle;
        else above = middle;
    }
    const int token = query_starts[s], tokens = query_starts[s + 1] - token;
    Tile tile;
    tile.sequence = s;
    tile.first = (index - first_tile(query_starts, s, group)) * ROWS;
    tile.rows = min(ROWS, tokens * group - tile.first);
    tile.token = token;
    tile.position = seq_lens[s] - tokens;
    tile.group = group;
    return tile;
}

inline int token_of(Tile tile, int row) { return (tile.first + row) / tile.group; }

// The position of a row's own key, the last that it sees.
inline int last_key(Tile tile, int row) { return tile.position + token_of(tile, row); }

inline int first_key(int last, int window) { return window ? max(0, last + 1 - window) : 0; }

// A row's place among all tokens and query heads.
inline size_t place_of(Tile tile, int row, int kv_head, int heads) {
    const size_t token = tile.token + token_of(tile, row);
    return token * heads + kv_head * tile.group + (tile.first + row) % tile.group;
}

// A key's row of the cache.
inline size_t slot_of(__global const int *blocks, int key, int block_size) {
    return (size_t)blocks[key / block_size] * block_size + key % block_size;
}
