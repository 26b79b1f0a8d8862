"""`perfxlm.utils.print_utils`."""

from collections.abc import Sequence


def print_embeddings(embeds: Sequence[float]) -> None:
    """Print the first few numbers of an embedding, and how many there are."""
    shown = ", ".join(f"{value:.4f}" for value in embeds[:4])
    print(f"Embeddings: [{shown}{', ...' if len(embeds) > 4 else ''}] (size={len(embeds)})")


__all__ = ["print_embeddings"]
