"""A tokenizer whose tokens are characters; id 0 ends a text, the last ids are bytes of '€'."""

LETTERS = " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456"
EURO = "€".encode()


class ToyStream:
    def __init__(self, tokenizer, skip):
        self.tokenizer, self.skip, self.held = tokenizer, skip, b""

    def step(self, token_id):
        held = self.held + self.tokenizer.bytes_of(token_id, self.skip)
        try:
            self.held = b""
            return held.decode()
        except UnicodeDecodeError:
            self.held = held
            return ""

    def flush(self):
        held, self.held = self.held, b""
        return held.decode(errors="replace")


class ToyTokenizer:
    vocab_size = 64
    eos_token_id = 0
    eos_token_ids = (0,)

    def bytes_of(self, token_id, skip_special_tokens=True):
        if token_id == 0:
            return b"" if skip_special_tokens else b"<eos>"
        if token_id > 60:
            return EURO[token_id - 61 : token_id - 60]
        return LETTERS[token_id - 1].encode()

    def encode(self, text, add_special_tokens=True):
        ids = []
        for letter in text:
            ids += [61, 62, 63] if letter == "€" else [LETTERS.index(letter) + 1]
        return ids

    def decode(self, ids, skip_special_tokens=True):
        ids = [ids] if isinstance(ids, int) else ids
        return b"".join(self.bytes_of(i, skip_special_tokens) for i in ids).decode(errors="replace")

    def decode_stream(self, context=(), *, skip_special_tokens=True):
        return ToyStream(self, skip_special_tokens)

    def apply_chat_template(self, messages, tokenize=False, add_generation_prompt=True, **kwargs):
        text = "".join(f"{m['role'][0]} {m['content']} " for m in messages)
        return text + ("a " if add_generation_prompt else "")
