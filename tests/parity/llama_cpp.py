"""llama.cpp's logits, through the C functions that a prebuilt Python wheel of it exports.

Only defaults are used, so the parameter structures stay opaque: whatever their fields are, they
are handed back as they came. llama.h guarantees the fields of `llama_batch`.
"""

import ctypes as c
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

DISTRIBUTION = "xllamacpp"
CONTEXT = 512
"""Tokens of a context made with default parameters."""


class Parameters(c.Structure):
    """Room for either structure of parameters."""

    _fields_ = [("words", c.c_uint64 * 256)]


class Batch(c.Structure):
    """`llama_batch`."""

    _fields_ = [
        ("n_tokens", c.c_int32),
        ("token", c.POINTER(c.c_int32)),
        ("embd", c.POINTER(c.c_float)),
        ("pos", c.POINTER(c.c_int32)),
        ("n_seq_id", c.POINTER(c.c_int32)),
        ("seq_id", c.POINTER(c.POINTER(c.c_int32))),
        ("logits", c.POINTER(c.c_int8)),
    ]


LOG = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)
FUNCTIONS = {
    "llama_log_set": (None, LOG, c.c_void_p),
    "llama_model_default_params": (Parameters,),
    "llama_context_default_params": (Parameters,),
    "llama_model_load_from_file": (c.c_void_p, c.c_char_p, Parameters),
    "llama_init_from_model": (c.c_void_p, c.c_void_p, Parameters),
    "llama_set_n_threads": (None, c.c_void_p, c.c_int32, c.c_int32),
    "llama_get_memory": (c.c_void_p, c.c_void_p),
    "llama_memory_clear": (None, c.c_void_p, c.c_bool),
    "llama_batch_init": (Batch, c.c_int32, c.c_int32, c.c_int32),
    "llama_batch_free": (None, Batch),
    "llama_decode": (c.c_int32, c.c_void_p, Batch),
    "llama_get_logits_ith": (c.POINTER(c.c_float), c.c_void_p, c.c_int32),
    "llama_free": (None, c.c_void_p),
    "llama_model_free": (None, c.c_void_p),
}


def library():
    """The wheel's shared library, its functions typed."""
    folder = Path(find_spec(DISTRIBUTION).origin).parent
    (path,) = folder.glob(f"{DISTRIBUTION}*.so")
    found = c.CDLL(str(path))
    for name, (result, *arguments) in FUNCTIONS.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


class LlamaCpp:
    """A model in llama.cpp, as it runs by default.

    Args:
        path: GGUF file.
        vocab: tokens that the model knows.
        threads: for everything. One is the fastest where others want the cores too, because its
            threads wait for one another by spinning.
    """

    name = f"llama.cpp ({DISTRIBUTION} {version(DISTRIBUTION)})"

    def __init__(self, path, vocab, threads=1):
        self.vocab = vocab
        self._library = lib = library()
        self._log = LOG(lambda *_: None)
        lib.llama_log_set(self._log, None)
        parameters = lib.llama_model_default_params()
        self._model = lib.llama_model_load_from_file(str(path).encode(), parameters)
        self._context = lib.llama_init_from_model(self._model, lib.llama_context_default_params())
        assert self._model
        assert self._context
        lib.llama_set_n_threads(self._context, threads, threads)

    def logits(self, token_ids):
        """Logits after each token of one sequence, [tokens, vocab] float32."""
        assert len(token_ids) <= CONTEXT
        lib = self._library
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        batch = lib.llama_batch_init(len(token_ids), 0, 1)
        batch.n_tokens = len(token_ids)
        for i, token in enumerate(token_ids):
            batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        try:
            assert lib.llama_decode(self._context, batch) == 0
            rows = [lib.llama_get_logits_ith(self._context, i) for i in range(len(token_ids))]
            return np.stack([np.ctypeslib.as_array(row, (self.vocab,)) for row in rows])
        finally:
            lib.llama_batch_free(batch)

    def close(self):
        """Give everything back."""
        self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)
