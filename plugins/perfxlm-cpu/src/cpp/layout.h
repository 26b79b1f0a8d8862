// Sizes that kernels and those who bind them must agree on.
#pragma once

#include <cstdint>

namespace perfxlm {

// Attention: an item's most rows and heads, and the keys of a tile.
constexpr int kItemRows = 32;
constexpr int kItemHeads = 16;
constexpr int kKeyTile = 64;

constexpr int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// Bytes of a thread's workspace for attention with these heads.
constexpr int64_t attention_workspace(int64_t head_dim, int64_t v_head_dim) {
  const int64_t floats = (kItemRows + kKeyTile) * (padded(head_dim) + padded(v_head_dim)) +
                         kItemRows * kKeyTile + 2 * kItemRows;
  return 4 * floats;
}

// Attention of few sequences is split over their contexts too, into at most so many parts for each
// thread. Bytes of the workspace that threads share: each part's rows of sums, maxima and totals.
constexpr int kPartsPerThread = 4;

constexpr int64_t attention_shared(int64_t v_head_dim, int64_t threads) {
  return 4 * threads * kPartsPerThread * kItemRows * (padded(v_head_dim) + 2);
}

// Weights packed for linear_int8.
enum TileKind : int { kTileQ4_0, kTileQ4_1, kTileQ8_0, kTileKinds };

constexpr int kTileRows = 16;
constexpr int kTileTokens = 8;    // most tokens multiplied at once
constexpr int kChunkTokens = 64;  // most tokens in a workspace

constexpr int tile_block_bytes(int kind) {
  return kind == kTileQ8_0 ? 512 + 32 : kind == kTileQ4_1 ? 256 + 64 : 256 + 32;
}

constexpr int64_t packed_bytes(int kind, int64_t rows, int64_t columns) {
  return (rows + kTileRows - 1) / kTileRows * (columns / 32) * tile_block_bytes(kind);
}

// Bytes of 32 rounded activations: codes, scale, sum and flag, twice for those with outliers.
constexpr int kColumnBytes = 2 * 44;

// Bytes of a thread's workspace.
constexpr int64_t linear_int8_workspace(int64_t columns) {
  return kChunkTokens * (columns / 32) * kColumnBytes;
}

}  // namespace perfxlm
