"""The arena: nothing that lives together overlaps, and little is wasted."""

from hypothesis import given
from hypothesis import strategies as st

from perfxlm_core.graph.memory import ALIGNMENT, Lifetime, align, place

lifetimes = st.lists(
    st.builds(
        lambda size, first, length: Lifetime("x", size, first, first + length),
        st.integers(0, 5000),
        st.integers(0, 30),
        st.integers(0, 10),
    ),
    max_size=40,
)


@given(lifetimes)
def test_live_blocks_never_overlap(blocks: list[Lifetime]) -> None:
    placement = place(blocks)
    for i, a in enumerate(blocks):
        start = placement.offsets[i]
        assert start % ALIGNMENT == 0
        assert start + align(a.nbytes) <= placement.nbytes or a.nbytes == 0
        for j in range(i):
            other, at = blocks[j], placement.offsets[j]
            if a.overlaps(other) and a.nbytes and other.nbytes:
                assert start + a.nbytes <= at or at + other.nbytes <= start


@given(lifetimes, st.integers(0, 40))
def test_the_first_blocks_lie_in_front_side_by_side(blocks: list[Lifetime], count: int) -> None:
    count = min(count, len(blocks))
    placement = place(blocks, in_front=count)
    front = [(at, b.nbytes) for at, b in zip(placement.offsets, blocks[:count], strict=False)]
    front.sort()
    end = 0
    for at, nbytes in front:
        assert at == end
        end = at + align(nbytes)
    assert all(at >= end for at in placement.offsets[count:])
    assert [n for _, n in front] == sorted(b.nbytes for b in blocks[:count])


@given(lifetimes)
def test_arena_is_between_the_busiest_moment_and_the_sum(blocks: list[Lifetime]) -> None:
    placement = place(blocks)
    busiest = max(
        (sum(align(b.nbytes) for b in blocks if b.first <= t <= b.last) for t in range(42)),
        default=0,
    )
    assert busiest <= placement.nbytes <= sum(align(b.nbytes) for b in blocks)


def test_a_chain_needs_two_buffers() -> None:
    chain = [Lifetime(str(i), 1024, i, i + 1) for i in range(50)]
    assert place(chain).nbytes == 2 * 1024
