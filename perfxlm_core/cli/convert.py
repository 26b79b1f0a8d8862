"""`perfxlm convert`."""

from __future__ import annotations

from pathlib import Path

import click

from perfxlm_core.cli.options import announce
from perfxlm_core.cli.tables import megabytes

COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
"""Files of a Hugging Face folder that go with a model, copied beside it."""


@click.command()
@click.argument("model")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--standard", "form", flag_value="standard", help="Blocks as DequantizeLinear.")
@click.option("--dequantize", "form", flag_value="dequantized", help="Weights as float32.")
@click.option("--revision", help="Branch, tag or commit of a Hugging Face repository.")
def convert(model: str, folder: Path, form: str | None, revision: str | None) -> None:
    """Write MODEL as FOLDER/model.onnx, with key/value caches as inputs and outputs.

    The weights stay in the checkpoint's own files, which are hard-linked into FOLDER (copied where
    the file system cannot link). Quantized weights stay as they are, decoded by functions of
    standard operators, unless --standard or --dequantize asks for another form.
    """
    from perfxlm_core.checkpoints import open_checkpoint, pull
    from perfxlm_core.graph.loading import build_graph
    from perfxlm_core.graph.onnx import save_onnx

    path = pull(model, announce, revision=revision)
    graph = build_graph(open_checkpoint(path), "float32")
    companions = [path / name for name in COMPANIONS if path.is_dir() and (path / name).is_file()]
    saved = save_onnx(graph, folder, form=form or "quantized", files=companions)
    click.echo(saved.path)
    facts = [
        f"{megabytes(saved.referenced_bytes)} of weights stay in the checkpoint's files",
        f"{megabytes(saved.written_bytes)} were written",
    ]
    if saved.copied:
        facts.append(f"copied, for want of links: {', '.join(p.name for p in saved.copied)}")
    click.echo("; ".join(facts), err=True)
