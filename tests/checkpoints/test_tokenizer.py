"""Tokenizers rebuilt from GGUF metadata, and those of folders, against independent ones.

`tokens.json` holds what llama.cpp (its /tokenize, special tokens parsed) answers for the real
model's file.
"""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfxlm_core.checkpoints import open_checkpoint, open_tokenizer
from perfxlm_core.checkpoints.gguf_facts import pre_tokenizers
from perfxlm_core.checkpoints.gguf_tokenizer import gguf_tokenizer
from perfxlm_core.errors import ArgumentError, CheckpointError, RequestError

GOLDEN = json.loads(Path(__file__).with_name("tokens.json").read_text("utf-8"))
TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs", "Cc"], max_codepoint=0x3FFFF),  # test_missing_bytes
        st.sampled_from("abc XYZ  \n\t0123'.,!-_ëß中🤗\u00a0\u0301"),
    ),
    max_size=40,
)
CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's 1234.5 degrees; they're 99 % sure!",
    "def f(x):\n    return x ** 2  # a comment\n\n\nclass A:\n\tpass",
    "Größe, naïve café, Ωμέγα, 日本語のテキスト, 한국어, עברית, 🤗🎉",
    "  leading and   inner    spaces \n and lines\r\n\r\n",
]


@pytest.mark.parametrize("text", GOLDEN)
def test_ids_are_those_of_the_reference_program(tokenizer, text):
    assert tokenizer.encode(text) == GOLDEN[text]


@settings(deadline=None)
@given(text=TEXT)
def test_decoding_undoes_encoding(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert all(0 <= i < len(tokenizer) for i in ids)


def test_missing_bytes(tokenizer):
    """The real model has no tokens for some controls and for bytes that begin rare characters."""
    assert tokenizer.token_to_id("ñ") is None  # stands for byte F1
    assert tokenizer.decode(tokenizer.encode("a\U00040000b")) == "a\ufffd\ufffd\ufffdb"


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 49151), max_size=30), skip=st.booleans())
def test_the_stream_of_any_ids_is_their_text(tokenizer, ids, skip):
    stream = tokenizer.decode_stream(skip_special_tokens=skip)
    pieces = [stream.step(i) for i in ids]
    whole = tokenizer.decode(ids, skip_special_tokens=skip)
    assert "".join([*pieces, stream.flush()]) == whole


@settings(deadline=None)
@given(text=TEXT)
def test_the_stream_never_cuts_a_character(tokenizer, text):
    stream = tokenizer.decode_stream(skip_special_tokens=False)
    pieces = [stream.step(i) for i in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert "\ufffd" in text or all("\ufffd" not in piece for piece in pieces)


def test_a_character_begun_in_the_prompt_is_completed(tokenizer):
    ids = tokenizer.encode("🤗")
    assert len(ids) > 1
    stream = tokenizer.decode_stream(ids[:-1])
    assert stream.step(ids[-1]) == "🤗"


def test_special_tokens(tokenizer):
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<|im_start|>", 1)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert set(tokenizer.eos_token_ids) == {0, 2}
    assert tokenizer.all_special_ids == list(range(17))
    assert tokenizer.encode("<|im_start|>user") == [1, 4093]
    assert tokenizer.decode([1, 4093]) == "user"
    assert tokenizer.decode([1, 4093], skip_special_tokens=False) == "<|im_start|>user"
    assert tokenizer.convert_ids_to_tokens([1, 4093, 10**6, -1]) == [
        "<|im_start|>",
        "user",
        None,
        None,
    ]


def test_vocabulary(tokenizer, model):
    assert tokenizer.vocab_size == len(tokenizer) == 49152
    tokens = model.gguf_metadata["tokenizer.ggml.tokens"]
    assert tokenizer.get_vocab() == {token: i for i, token in enumerate(tokens)}
    assert tokenizer.token_to_id("<|im_end|>") == 2
    assert tokenizer.token_to_id("no such token") is None


def test_what_cannot_be_encoded_or_decoded(tokenizer):
    with pytest.raises(RequestError, match="cannot be encoded"):
        tokenizer.encode("half a pair: \ud83e")
    with pytest.raises(RequestError, match="cannot be encoded"):
        tokenizer.encode(17)
    with pytest.raises(ArgumentError, match="not all token ids"):
        tokenizer.decode([-1])
    stream = tokenizer.decode_stream()
    assert stream.step(10**7) == ""
    assert tokenizer.decode([10**7]) == ""


def test_threads_share_a_tokenizer(tokenizer):
    def round_trip(i: int) -> bool:
        text = f"{CORPUS[i % len(CORPUS)]} {i}"
        stream = tokenizer.decode_stream()
        ids = tokenizer.encode(text)
        return "".join(stream.step(t) for t in ids) == text == tokenizer.decode(ids)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(round_trip, range(200)))


def byte_level_file(make_gguf, path, pre, **flags):
    """A file whose byte-level vocabulary was trained on the corpus."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=sorted(alphabet),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    trained.train_from_iterator(CORPUS, trainer)
    state = json.loads(trained.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].get)

    def more(writer):
        writer.kv_data[0].pop("tokenizer.ggml.pre")
        if pre is not None:
            writer.add_tokenizer_pre(pre)
        writer.kv_data[0].pop("tokenizer.ggml.tokens")
        writer.add_token_list(tokens)
        writer.kv_data[0].pop("tokenizer.ggml.token_type")
        writer.add_token_types([3, 3, *[1] * (len(tokens) - 2)])
        writer.kv_data[0].pop("tokenizer.ggml.merges")
        writer.add_token_merges([" ".join(pair) for pair in state["merges"]])
        for key, value in flags.items():
            writer.add_bool(f"tokenizer.ggml.{key}", value)

    return make_gguf(path, more=more), state


def pieces(backend, text):
    return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


def random_texts(count=300):
    rng = random.Random(0)
    alphabet = [
        *"abXY  \n\r\t0123'.,!?-_/ëßÉ中文🤗\u00a0\u0301(",
        "'s",
        "'LL",
        "\n\n",
        "  ",
        "12345",
    ]
    return ["".join(rng.choices(alphabet, k=rng.randint(1, 30))) for _ in range(count)]


def qwen_pieces(vocab, merges):
    from transformers import Qwen2Tokenizer

    return Qwen2Tokenizer(vocab=vocab, merges=merges)._tokenizer


def gpt2_pieces(vocab, merges):
    from transformers import GPT2Tokenizer

    return GPT2Tokenizer(vocab=vocab, merges=merges)._tokenizer


def digits_pieces(vocab, merges):
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    return backend


def tiktoken_pieces(vocab, merges):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers.convert_slow_tokenizer import TikTokenConverter

    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    pattern = TikTokenConverter(vocab_file="none").pattern
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return backend


@pytest.mark.parametrize(
    ("pre", "reference"),
    [
        ("qwen2", qwen_pieces),
        ("gpt-2", gpt2_pieces),
        ("smollm", digits_pieces),
        ("llama-bpe", tiktoken_pieces),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_text_is_cut_as_the_models_own_tokenizer_does(make_gguf, tmp_path, pre, reference):
    path, state = byte_level_file(make_gguf, tmp_path / "x.gguf", pre)
    ours = open_checkpoint(path).tokenizer()
    theirs = reference(state["vocab"], [tuple(m) for m in state["merges"]])
    for text in CORPUS + random_texts():
        if pre == "qwen2":
            import unicodedata

            text = unicodedata.normalize("NFC", text)
        assert pieces(ours.backend, text) == pieces(theirs, text), text
        if pre != "llama-bpe":
            assert ours.encode(text) == theirs.encode(text).ids
        assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize("pre", sorted(pre_tokenizers()))
def test_every_pre_tokenizer_keeps_the_text(make_gguf, tmp_path, pre):
    path, _ = byte_level_file(make_gguf, tmp_path / "x.gguf", pre)
    tokenizer = open_checkpoint(path).tokenizer()
    begins = [0] if pre_tokenizers()[pre].add_bos else []
    for text in CORPUS:
        ids = tokenizer.encode(text)
        assert ids[: len(begins)] == begins
        assert tokenizer.decode(ids) == text
        assert tokenizer.encode(text, add_special_tokens=False) == ids[len(begins) :]


def test_an_unknown_pre_tokenizer_warns_by_name(make_gguf, tmp_path):
    path, _ = byte_level_file(make_gguf, tmp_path / "x.gguf", "tomorrow-bpe")
    with pytest.warns(UserWarning, match="'tomorrow-bpe' is not known; 'default' is used"):
        tokenizer = open_checkpoint(path).tokenizer()
    assert tokenizer.decode(tokenizer.encode("12345 ok")) == "12345 ok"


def test_begin_and_end_tokens_follow_the_file(make_gguf, tmp_path):
    path, _ = byte_level_file(
        make_gguf, tmp_path / "x.gguf", "gpt-2", add_bos_token=True, add_eos_token=True
    )
    ids = open_checkpoint(path).tokenizer().encode("fox")
    assert (ids[0], ids[-1]) == (0, 1)


def sentencepiece_file(make_gguf, path, prefix):
    """A file whose pieces were trained by SentencePiece itself, and its processor."""
    sentencepiece = pytest.importorskip("sentencepiece")
    import io

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=0.98,
        minloglevel=9,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    size = processor.vocab_size()
    kinds = [
        2
        if processor.is_unknown(i)
        else 3
        if processor.is_control(i)
        else 6
        if processor.is_byte(i)
        else 1
        for i in range(size)
    ]

    def more(writer):
        kv = writer.kv_data[0]
        for key in (
            "model",
            "pre",
            "tokens",
            "token_type",
            "merges",
            "bos_token_id",
            "eos_token_id",
        ):
            kv.pop(f"tokenizer.ggml.{key}")
        writer.add_tokenizer_model("llama")
        writer.add_token_list([processor.id_to_piece(i) for i in range(size)])
        writer.add_token_scores([processor.get_score(i) for i in range(size)])
        writer.add_token_types(kinds)
        writer.add_unk_token_id(processor.unk_id())
        writer.add_bos_token_id(processor.bos_id())
        writer.add_eos_token_id(processor.eos_id())
        writer.add_add_space_prefix(prefix)

    return make_gguf(path, more=more), processor


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sentencepiece_models_tokenize_as_sentencepiece(make_gguf, tmp_path, prefix):
    path, processor = sentencepiece_file(make_gguf, tmp_path / "x.gguf", prefix)
    tokenizer = open_checkpoint(path).tokenizer()
    for text in [*CORPUS, *random_texts()]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == processor.encode(text), text
        assert tokenizer.decode(ids) == processor.decode(ids) == text
        assert tokenizer.encode(text) == [processor.bos_id(), *ids]
        stream = tokenizer.decode_stream()
        assert "".join([stream.step(i) for i in ids] + [stream.flush()]) == text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_answers_first_word_keeps_its_space(make_gguf, tmp_path):
    path, _ = sentencepiece_file(make_gguf, tmp_path / "x.gguf", True)
    tokenizer = open_checkpoint(path).tokenizer()
    prompt = tokenizer.encode("The quick")
    answer = tokenizer.encode("The quick brown fox")[len(prompt) :]
    stream = tokenizer.decode_stream(prompt)
    assert "".join(stream.step(i) for i in answer) == " brown fox"
    fresh = tokenizer.decode_stream()
    assert "".join(fresh.step(i) for i in answer) == "brown fox"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tokenizer.ggml.model", "bert", "tokenizer.ggml.model is 'bert'; 'gpt2' and 'llama'"),
        ("tokenizer.ggml.bos_token_id", 99, "bos_token_id is 99; below 7 is expected"),
        ("tokenizer.ggml.merges", ["ab"], "merges holds an entry that is not two tokens"),
        ("tokenizer.ggml.merges", ["x y"], "the tokenizer is inconsistent"),
        ("tokenizer.ggml.add_bos_token", "yes", "add_bos_token is 'yes'; a bool is expected"),
        ("tokenizer.ggml.token_type", [1], "token_type is missing, or has not the 7 tokens"),
    ],
)
def test_inconsistent_vocabularies_are_refused(make_gguf, tmp_path, key, value, message):
    def more(writer):
        writer.kv_data[0].pop(key, None)
        add = {str: writer.add_string, int: writer.add_uint32, list: writer.add_array}
        add[type(value)](key, value)

    path = make_gguf(tmp_path / "x.gguf", more=more)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path).tokenizer()


def folder_with_tokenizer(folder, **settings):
    """A folder saved by transformers around a trained tokenizer; returns theirs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<s>", "</s>", "<|turn|>"],
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", **settings
    )
    theirs.save_pretrained(folder)
    return theirs


def save_model(folder):
    from safetensors.numpy import save_file

    folder.joinpath("config.json").write_text('{"architectures": ["X"], "eos_token_id": [1, 2]}')
    save_file({"w": np.zeros(3, np.float32)}, folder / "model.safetensors")


def test_folders_tokenize_as_transformers_does(tmp_path):
    template = "{% for m in messages %}<|turn|>{{ m.role }}: {{ m.content }}{% endfor %}"
    theirs = folder_with_tokenizer(tmp_path, chat_template=template)
    save_model(tmp_path)
    ours = open_checkpoint(tmp_path).tokenizer()
    for text in [*CORPUS, *random_texts(100), "<|turn|>user</s>"]:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert (ours.bos_token_id, ours.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert set(ours.eos_token_ids) == {1, 2}
    assert sorted(theirs.all_special_ids) == [i for i in ours.all_special_ids if i != 2]
    assert ours.chat_template == template
    chat = [{"role": "user", "content": "The fox"}]
    assert ours.apply_chat_template(chat) == theirs.apply_chat_template(chat, tokenize=False)


def test_a_tokenizer_needs_no_weights(tmp_path, make_gguf):
    theirs = folder_with_tokenizer(tmp_path)
    assert open_tokenizer(tmp_path).encode("The fox") == theirs.encode("The fox")
    path = make_gguf(tmp_path / "x.gguf")
    assert open_tokenizer(path).encode("ab") == [5]


def test_folders_without_a_tokenizer_say_how_to_get_one(tmp_path):
    save_model(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no tokenizer\.json; save one"):
        open_checkpoint(tmp_path).tokenizer()
    tmp_path.joinpath("tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: is damaged"):
        open_checkpoint(tmp_path).tokenizer()


def test_gguf_tokenizers_are_made_from_the_file_alone(model_path):
    from perfxlm_core.checkpoints.gguf import GGUFFile

    assert gguf_tokenizer(GGUFFile(model_path)).encode("Hello world") == GOLDEN["Hello world"]
