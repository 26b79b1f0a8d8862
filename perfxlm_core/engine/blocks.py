"""The KV cache's blocks: who owns them, which are free, and which hold a known prefix."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfxlm_core.engine.request import Request


class BlockPool:
    """A fixed number of blocks with reference counts, and a digest for those worth keeping.

    A block that nobody refers to is free, yet keeps its contents until it is taken for something
    else, least recently freed first; until then its digest finds it again. All operations are O(1)
    a block.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.ref_counts = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._digests: list[bytes | None] = [None] * num_blocks
        self._found: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody refers to."""
        return len(self._free)

    def is_free(self, block: int) -> bool:
        """Whether nobody refers to the block."""
        return block in self._free

    def take(self, count: int) -> list[int]:
        """`count` blocks for one owner to write; their earlier contents are forgotten.

        The caller has checked `num_free`.
        """
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self._forget(block)
            self.ref_counts[block] = 1
        return blocks

    def share(self, block: int) -> None:
        """One more owner for a published block."""
        if self.ref_counts[block] == 0:
            del self._free[block]
        self.ref_counts[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One owner fewer for each; what becomes free is reused in the order given."""
        for block in blocks:
            self.ref_counts[block] -= 1
            if self.ref_counts[block] == 0:
                self._free[block] = None
                if self._digests[block] is None:
                    self._free.move_to_end(block, last=False)

    def publish(self, block: int, digest: bytes) -> None:
        """Let others find a full block, unless an equal one is known already."""
        if digest not in self._found:
            self._found[digest] = block
            self._digests[block] = digest

    def find(self, digest: bytes) -> int | None:
        """The block with this digest."""
        return self._found.get(digest)

    def forget_all(self) -> None:
        """Drop every digest: nothing is found until it is published again."""
        self._found.clear()
        self._digests = [None] * self.num_blocks

    def _forget(self, block: int) -> None:
        digest = self._digests[block]
        if digest is not None:
            del self._found[digest]
            self._digests[block] = None


class KVBlocks:
    """Gives requests their blocks, and their rows in the block tables.

    Only full blocks are shared, and a request never writes to a block that it shares: a prefix
    found in the cache ends before the request's last token, so that there is always one token to
    compute, and what follows goes to blocks of its own.

    Attributes:
        tables: [max_num_seqs, max_blocks] int32; row `request.row` lists the request's blocks.

    Source:
        Kwon et al. 2023, arXiv:2309.06180. A block's digest is the SHA-256 of its parent's digest
        and its tokens, as in vLLM, so that equal digests mean equal prefixes.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        *,
        max_num_seqs: int,
        max_model_len: int,
        enable_prefix_caching: bool = True,
    ) -> None:
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self.pool = BlockPool(num_blocks)
        self.tables = np.zeros((max_num_seqs, -(-max_model_len // block_size)), np.int32)
        self._rows = list(range(max_num_seqs))[::-1]

    @property
    def capacity(self) -> int:
        """Tokens that one request can hold at most."""
        return min(self.pool.num_blocks, self.tables.shape[1]) * self.block_size

    @property
    def usage(self) -> float:
        """Share of the blocks that requests refer to."""
        return 1 - self.pool.num_free / self.pool.num_blocks

    def cached_prefix(self, request: Request) -> list[int]:
        """Blocks that already hold the beginning of a waiting request."""
        if not self.enable_prefix_caching or request.skip_reading_prefix_cache:
            return []
        found = []
        for digest in self.hashes(request, (request.num_tokens - 1) // self.block_size):
            block = self.pool.find(digest)
            if block is None:
                break
            found.append(block)
        return found

    def hashes(self, request: Request, count: int) -> list[bytes]:
        """Digests of the request's first `count` blocks, which must be full."""
        known, size = request.block_hashes, self.block_size
        for i in range(len(known), count):
            parent = known[-1] if known else sha256(request.cache_salt.encode()).digest()
            tokens = request.token_ids[i * size : (i + 1) * size]
            known.append(sha256(parent + tokens.tobytes()).digest())
        return known[:count]

    def admit(self, request: Request, prefix: Sequence[int], num_tokens: int) -> bool:
        """Start a request: share `prefix`, add blocks up to `num_tokens`, give it a row.

        False, with nothing changed, unless all of the request's known tokens would fit: starting
        what must be preempted at once helps nobody.
        """
        needed = -(-request.num_tokens // self.block_size) - len(prefix)
        revived = sum(map(self.pool.is_free, prefix))
        if not self._rows or needed > self.pool.num_free - revived:
            return False
        for block in prefix:
            self.pool.share(block)
        request.row = self._rows.pop()
        request.block_ids = list(prefix)
        self.tables[request.row, : len(prefix)] = prefix
        request.num_computed_tokens = len(prefix) * self.block_size
        request.num_published = len(prefix)
        return self.extend(request, num_tokens)

    def extend(self, request: Request, num_tokens: int) -> bool:
        """Give a running request room for `num_tokens`; False, with nothing changed, if full."""
        held = len(request.block_ids)
        missing = -(-num_tokens // self.block_size) - held
        if missing <= 0:
            return True
        if missing > self.pool.num_free:
            return False
        blocks = self.pool.take(missing)
        request.block_ids += blocks
        self.tables[request.row, held : held + missing] = blocks
        return True

    def publish(self, request: Request) -> None:
        """Make the blocks that the request has filled findable."""
        full = request.num_computed_tokens // self.block_size
        if not self.enable_prefix_caching or full <= request.num_published:
            return
        digests = self.hashes(request, full)
        for i in range(request.num_published, full):
            self.pool.publish(request.block_ids[i], digests[i])
        request.num_published = full

    def release(self, request: Request) -> None:
        """Take everything back from a request; its last blocks will be reused first."""
        if request.row is None:
            return
        self.pool.release(request.block_ids[::-1])
        self._rows.append(request.row)
        request.row = None
        request.block_ids = []
        request.num_computed_tokens = request.num_published = 0
