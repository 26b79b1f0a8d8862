"""`perfxlm.model_executor.models`: the architectures that installed recipes build."""

from __future__ import annotations

from collections.abc import Set
from typing import NoReturn


class _ModelRegistry:
    """Recipes come from installed packages, found by their entry points."""

    def get_supported_archs(self) -> Set[str]:
        """Hugging Face names of the architectures that can be loaded."""
        from perfxlm_core.graph.recipe import known_recipes

        return known_recipes().keys()

    def register_model(self, model_arch: str, model_cls: object) -> NoReturn:
        """Refused: a torch module is no recipe."""
        from perfxlm_core.errors import ArgumentError

        raise ArgumentError(
            f"{model_arch} cannot be registered from a torch module; `perfxlm new model` writes a "
            "package with a recipe, which is found once it is installed"
        )


ModelRegistry = _ModelRegistry()

__all__ = ["ModelRegistry"]
