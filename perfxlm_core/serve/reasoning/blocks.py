"""The blocks of model families."""

from __future__ import annotations

from perfxlm_core.serve.reasoning.block import Block


class DeepSeekR1(Block):
    """The template opens the block, and old ones let the model do it."""

    implied = True


class Qwen3(Block):
    """The model opens the block itself, or the template does; without either there is none."""


class SeedOss(Block):
    """As Qwen's, in words of its own."""

    opening = ("<seed:think>",)
    closing = ("</seed:think>",)


class Mistral(Block):
    """Magistral's tokens."""

    opening = ("[THINK]",)
    closing = ("[/THINK]",)


class Granite(Block):
    """Granite 3.2 announces both parts in prose."""

    keeps_special_tokens = False
    opening = ("Here is my thought process:", "Here's my thought process:")
    closing = ("Here is my response:", "Here's my response:")
