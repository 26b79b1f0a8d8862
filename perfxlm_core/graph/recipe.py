"""A recipe: a configuration in, a graph out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, ClassVar, Self

from perfxlm_core.errors import ConfigError, GraphError, ModelError
from perfxlm_core.graph.ir import Graph, Value, Weights

RECIPES = "perfxlm.recipes"
"""Entry points: Hugging Face architecture name -> recipe."""
GGUF_RECIPES = "perfxlm.gguf"
"""Entry points: GGUF `general.architecture` -> recipe."""

HARMLESS = frozenset(
    """
    architectures model_type torch_dtype dtype transformers_version _name_or_path name_or_path
    auto_map use_cache bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id
    initializer_range initializer_factor attention_dropout hidden_dropout resid_pdrop embd_pdrop
    dropout classifier_dropout gradient_checkpointing output_attentions output_hidden_states
    return_dict id2label label2id problem_type chunk_size_feed_forward is_encoder_decoder
    is_decoder cross_attention_hidden_size add_cross_attention tie_encoder_decoder finetuning_task
    task_specific_params tokenizer_class prefix decoder_start_token_id begin_suppress_tokens
    suppress_tokens remove_invalid_values pruned_heads tf_legacy_loss use_bfloat16 num_labels
    _attn_implementation _attn_implementation_autoset attn_implementation torchscript
    max_model_len max_position_embeddings max_window_layers vocab_size is_llama_config
    transformers.js_config unsloth_fixed unsloth_version
    """.split()
)
"""Settings that no recipe needs: bookkeeping, training, generation defaults."""


@dataclass(frozen=True)
class Config:
    """Base of recipes' configurations: a frozen dataclass of the settings that shape the graph.

    `expects` names settings that the recipe takes for granted, with the value each must have;
    a checkpoint that says otherwise is refused. So is one with a setting that is in neither list:
    better no answer than a wrong one.

    `examples` are settings of tiny models, each as `config.json` would have it, for
    `perfxlm conformance`, which tries every installed recipe with random weights. The kit gives
    values that fit together to fields of the usual names (`hidden_size`, `num_attention_heads`,
    `head_dim`, `num_hidden_layers`, ...), and an example's settings win over them, so an example
    says only what the kit cannot know: a required field of another name, or settings that must
    go together. Without examples the kit draws the usual fields and leaves others at their
    defaults.
    """

    expects: ClassVar[Mapping[str, Any]] = {}
    examples: ClassVar[Sequence[Mapping[str, Any]]] = ()

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Self:
        """Read a checkpoint's `config.json`.

        Raises:
            ConfigError: a setting is missing, unknown, or not what the recipe does.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        cls._refuse_strange(given, fields)
        missing = [
            n
            for n, f in fields.items()
            if n not in given
            and f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise ConfigError(f"the model's configuration lacks {', '.join(missing)}")
        return cls(**{n: given[n] for n in fields if n in given})

    @classmethod
    def _refuse_strange(cls, given: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        for name, value in given.items():
            if name in fields:
                continue
            if name in cls.expects:
                if value != cls.expects[name] and value is not None:
                    raise ConfigError(
                        f"the model's configuration has {name}={value!r}, but {cls.__name__} "
                        f"computes only {name}={cls.expects[name]!r}; a newer model package may "
                        "know more"
                    )
            elif name not in HARMLESS and value not in (None, False):
                raise ConfigError(
                    f"the model's configuration has {name}={value!r}, which {cls.__name__} does "
                    f"not know; if it does not change the maths, pass hf_overrides="
                    f"{{{name!r}: None}}"
                )


@dataclass(frozen=True)
class Recipe:
    """A model family: how its configuration is read and its graph built.

    Attributes:
        architectures: Hugging Face architecture names that it builds.
        config: its configuration's class.
        build: `(graph, config) -> logits`, [tokens, vocab].
        package: distribution that brought it, for reports.
    """

    architectures: tuple[str, ...]
    config: type[Config]
    build: Callable[[Graph, Any], Any]

    def graph(
        self, config: Mapping[str, Any], weights: Weights | None = None, *, dtype: str = "float32"
    ) -> Graph:
        """Build the graph for a checkpoint.

        Raises:
            ConfigError: see `Config.from_dict`.
            GraphError: a weight's shape does not fit.
        """
        graph = Graph(weights, dtype=dtype)
        logits = self.build(graph, self.config.from_dict(config))
        if not isinstance(logits, Value):
            raise GraphError(f"recipe {self.architectures[0]} returned {logits!r}, not logits")
        graph.outputs = [logits]
        graph.drop_unused()
        return graph


def recipe(
    *architectures: str, config: type[Config]
) -> Callable[[Callable[[Graph, Any], Any]], Recipe]:
    """Decorator: make a function `(graph, config) -> logits` the recipe of `architectures`."""

    def decorate(build: Callable[[Graph, Any], Any]) -> Recipe:
        return Recipe(architectures, config, build)

    return decorate


def known_recipes() -> dict[str, str]:
    """Architecture -> distribution of every installed recipe, nothing imported."""
    return {
        p.name: f"{p.dist.name} {p.dist.version}" if p.dist is not None else "?"
        for p in sorted(entry_points(group=RECIPES), key=lambda p: p.name)
    }


def find_recipe(architectures: list[str], gguf_architecture: str | None = None) -> Recipe:
    """The installed recipe for a checkpoint; imports only the one asked for.

    Raises:
        ModelError: no installed package knows the architecture; lists what is known.
    """
    wanted = [(RECIPES, a) for a in architectures]
    if gguf_architecture is not None:
        wanted.append((GGUF_RECIPES, gguf_architecture))
    for group, name in wanted:
        for point in entry_points(group=group, name=name):
            found = point.load()
            if not isinstance(found, Recipe):
                raise ModelError(f"entry point {point.value} of {group} is not a recipe")
            return found
    names = ", ".join(n for _, n in wanted) or "no architecture at all"
    known = ", ".join(known_recipes()) or "none"
    raise ModelError(
        f"no installed model package builds {names}; known architectures: {known}. "
        "Install the family's package (perfxlm-<family>) or write a recipe"
    )
