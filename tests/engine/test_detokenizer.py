"""Stop strings on a growing text."""

from hypothesis import given
from hypothesis import strategies as st

from perfxlm_core.engine.detokenizer import Detokenizer

from .toy_tokenizer import ToyTokenizer


class Pieces:
    """A stream whose tokens are places in a list of texts."""

    def __init__(self, pieces):
        self.pieces = pieces

    def step(self, token_id):
        return self.pieces[token_id]

    def flush(self):
        return ""


texts = st.lists(st.text("ab<", max_size=3), max_size=15)
stops = st.lists(st.text("ab<", min_size=1, max_size=4), max_size=3)


@given(pieces=texts, stop=stops, include=st.booleans())
def test_text_ends_at_the_first_stop_string_to_complete(pieces, stop, include):
    detokenizer = Detokenizer(Pieces(pieces), stop, include_stop=include)
    sent, whole, found = 0, "", None
    for i in range(len(pieces)):
        found = detokenizer.append(i)
        whole += pieces[i]
        if found is not None:
            break
        assert not any(s in whole for s in stop)
        assert detokenizer.text == whole
        safe = detokenizer.num_safe
        assert sent <= safe <= len(whole)
        sent = safe
    if found is None:
        return
    starts = {s: whole.find(s) for s in stop if s in whole}
    assert starts[found] == min(starts.values())
    assert detokenizer.text == whole[: starts[found] + (len(found) if include else 0)]
    assert len(detokenizer.text) >= sent


@given(pieces=texts, stop=stops)
def test_only_what_could_become_a_stop_string_is_held_back(pieces, stop):
    detokenizer = Detokenizer(Pieces(pieces), stop)
    for i in range(len(pieces)):
        if detokenizer.append(i) is not None:
            return
        text = detokenizer.text
        tails = [
            n
            for n in range(1, len(text) + 1)
            if any(s.startswith(text[-n:]) and len(s) > n for s in stop)
        ]
        assert len(text) - detokenizer.num_safe == max(tails, default=0)


def test_stop_strings_before_min_tokens_do_not_count():
    detokenizer = Detokenizer(Pieces(["x", "stop", "y", "st", "op"]), ["stop"], min_tokens=2)
    assert [detokenizer.append(i) for i in range(5)] == [None, None, None, None, "stop"]
    assert detokenizer.text == "xstopy"


def test_an_unfinished_character_shows_only_at_the_end():
    detokenizer = Detokenizer(ToyTokenizer().decode_stream())
    for token, text in ((2, "a"), (61, "a"), (62, "a"), (63, "a€"), (61, "a€")):
        detokenizer.append(token)
        assert detokenizer.text == text
    detokenizer.finish()
    assert detokenizer.text == "a€\N{REPLACEMENT CHARACTER}"
