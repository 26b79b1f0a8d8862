"""Texts cut into pieces, in every way."""

from hypothesis import strategies as st


@st.composite
def cut(draw, text):
    """The pieces of a text; an empty one may be among them."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
