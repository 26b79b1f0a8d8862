// Sizes that kernels and those who bind them must agree on.
#pragma once

#include <cstdint>

#include "kernel.h"

namespace perfxlm {

// Attention: an item's most rows and heads, and the keys of a tile.
constexpr int kItemRows = 32;
constexpr int kItemHeads = 16;
constexpr int kKeyTile = 64;

constexpr int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// Keys of a part. Softmax begins anew with each, so a row's bits depend on this number.
constexpr int kPartKeys = 128;
static_assert(kPartKeys % kKeyTile == 0);

// Bytes of a thread's workspace for attention with these heads.
constexpr int64_t attention_workspace(int64_t head_dim, int64_t v_head_dim) {
  const int64_t floats = (kItemRows + 2 * kKeyTile) * padded(head_dim) + kKeyTile * padded(v_head_dim) +
                         kItemRows * kKeyTile + 2 * kItemRows * (padded(v_head_dim) + 2);
  return 4 * floats;
}

// Parts of long items that wait to be put together, for each thread. Bytes of the workspace that
// threads share: rows of sums, largest scores and totals, of parts and of every item of a few tokens.
constexpr int kPartsPerThread = 16;

constexpr int64_t attention_shared(int64_t v_head_dim, int64_t threads, int64_t heads) {
  const int64_t rows = (threads * kPartsPerThread + heads) * kItemRows;
  return 4 * rows * (padded(v_head_dim) + 2);
}

// Weights packed for linear_int8: how tiles are laid out, and which formats go into which.
enum TileKind : int { kTileQ4_0, kTileQ4_1, kTileQ6, kTileQ8_0 };

constexpr int tile_kind(int format) {
  switch (format) {
    case kQ4_0: return kTileQ4_0;
    case kQ4_1: case kQ4K: return kTileQ4_1;
    case kQ6K: return kTileQ6;
    default: return kTileQ8_0;
  }
}

constexpr int kTileRows = 16;
constexpr int kTileTokens = 8;    // most tokens multiplied at once
constexpr int kChunkTokens = 64;  // most tokens in a workspace

constexpr int tile_block_bytes(int kind) {
  switch (kind) {
    case kTileQ4_0: return 256 + 32;
    case kTileQ4_1: return 256 + 64;
    case kTileQ6: return 256 + 128 + 64;
    default: return 512 + 32;
  }
}

constexpr int64_t packed_bytes(int kind, int64_t rows, int64_t columns) {
  return (rows + kTileRows - 1) / kTileRows * (columns / 32) * tile_block_bytes(kind);
}

// Bytes of 32 rounded activations: codes, scale, two sums and flag, twice for those with outliers.
constexpr int kColumnBytes = 2 * 48;

// Bytes of a thread's workspace.
constexpr int64_t linear_int8_workspace(int64_t columns) {
  return kChunkTokens * (columns / 32) * kColumnBytes;
}

}  // namespace perfxlm
