"""llama.cpp, through the C functions that the prebuilt wheel of xllamacpp exports."""

import ctypes as c
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from pipe import CONTEXT, MOST_REQUESTS, serve

DISTRIBUTION = "xllamacpp"
BATCH = 2048
"""Tokens of a call."""


class Parameters(c.Structure):
    """Room for either structure of parameters."""

    _fields_ = [("words", c.c_uint32 * 512)]


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
    "llama_model_get_vocab": (c.c_void_p, c.c_void_p),
    "llama_vocab_n_tokens": (c.c_int32, c.c_void_p),
    "llama_set_n_threads": (None, c.c_void_p, c.c_int32, c.c_int32),
    "llama_get_memory": (c.c_void_p, c.c_void_p),
    "llama_memory_clear": (None, c.c_void_p, c.c_bool),
    "llama_batch_init": (Batch, c.c_int32, c.c_int32, c.c_int32),
    "llama_decode": (c.c_int32, c.c_void_p, Batch),
    "llama_get_logits_ith": (c.POINTER(c.c_float), c.c_void_p, c.c_int32),
}


def library():
    """The wheel's shared library, its functions typed."""
    (path,) = Path(find_spec(DISTRIBUTION).origin).parent.glob(f"{DISTRIBUTION}*.so")
    found = c.CDLL(str(path))
    for name, (result, *arguments) in FUNCTIONS.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


class Engine:
    def __init__(self, model, mode, threads):
        self.version = version(DISTRIBUTION)
        self.lib = lib = library()
        self._log = LOG(lambda *_: None)
        lib.llama_log_set(self._log, None)
        loaded = lib.llama_model_load_from_file(model.encode(), lib.llama_model_default_params())
        assert loaded, f"llama.cpp cannot load {model}"
        self.vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(loaded))
        sequences = MOST_REQUESTS if mode == "batch" else 1
        self.context = lib.llama_init_from_model(loaded, self._parameters(mode, sequences))
        assert self.context, "llama.cpp made no context"
        lib.llama_set_n_threads(self.context, threads, threads)
        self.batch = lib.llama_batch_init(BATCH, 0, 1)

    def _parameters(self, mode, sequences):
        """Defaults but for the sizes: the first four fields, which are known by their defaults."""
        parameters = self.lib.llama_context_default_params()
        n_ctx, n_batch, _, n_seq_max = parameters.words[:4]
        assert (n_ctx, n_batch, n_seq_max) == (512, BATCH, 1), "another llama_context_params"
        parameters.words[0] = CONTEXT[mode] * sequences
        parameters.words[3] = sequences
        return parameters

    def _decode(self, tokens):
        """Compute tokens: (id, position, sequence, whether logits are wanted) each."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        assert self.lib.llama_decode(self.context, batch) == 0
        rows = [i for i, (*_, wanted) in enumerate(tokens) if wanted]
        return [self._best(i) for i in rows]

    def _best(self, row):
        logits = self.lib.llama_get_logits_ith(self.context, row)
        return int(np.argmax(np.ctypeslib.as_array(logits, (self.vocabulary,))))

    def run(self, prompts, count):
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        start = time.perf_counter()
        asked = [
            (token, at, sequence, at + 1 == len(prompt))
            for sequence, prompt in enumerate(prompts)
            for at, token in enumerate(prompt)
        ]
        latest = []
        for at in range(0, len(asked), BATCH):
            latest += self._decode(asked[at : at + BATCH])
        first = time.perf_counter() - start
        for step in range(count - 1):
            places = [len(p) + step for p in prompts]
            numbered = enumerate(zip(latest, places, strict=True))
            latest = self._decode([(t, p, s, True) for s, (t, p) in numbered])
        return first, time.perf_counter() - start


if __name__ == "__main__":
    serve(Engine)
