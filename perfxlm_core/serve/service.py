"""What every route needs: the engine, the settings, and checks that all bodies go through."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from perfxlm_core import __version__
from perfxlm_core.engine.prompts import Prompt
from perfxlm_core.serve.http_errors import ApiError, bad_request
from perfxlm_core.serve.metrics import Metrics
from perfxlm_core.serve.protocol.fields import CONSTRAINTS

if TYPE_CHECKING:
    from perfxlm_core.engine.params import SamplingParams
    from perfxlm_core.engine.runner import Tokenizer
    from perfxlm_core.serve.client import AsyncLLM
    from perfxlm_core.serve.protocol.fields import Body
    from perfxlm_core.serve.settings import ServerSettings

LONG_TEXT = 4096
"""Characters from which a text is tokenized in a thread, so that others' tokens go on."""

log = logging.getLogger(__name__)


class Service:
    """The server's parts, put together.

    Args:
        root: The model as the user named it.

    Attributes:
        names: What a request may call the model.
        load: Requests under way.
    """

    def __init__(
        self,
        llm: AsyncLLM,
        settings: ServerSettings,
        metrics: Metrics,
        root: str,
    ) -> None:
        self.llm = llm
        self.settings = settings
        self.metrics = metrics
        self.root = root
        self.names = settings.served_model_name or [self.root]
        self.created = int(time.time())
        self.fingerprint = f"perfxlm-{__version__}-{uuid4().hex[:8]}"
        self.load = 0
        self._warned: set[str] = set()

    @classmethod
    def on(cls, llm: AsyncLLM, settings: ServerSettings, root: str) -> Service:
        """A service on an engine that is ready, which tells its metrics what happens."""
        facts = llm.facts
        metrics = Metrics(
            (settings.served_model_name or [root])[0],
            {
                "block_size": facts.block_size,
                "num_gpu_blocks": facts.num_blocks,
                "cache_dtype": llm.config.kv_cache_dtype,
                "enable_prefix_caching": llm.config.enable_prefix_caching,
                "gpu_memory_utilization": llm.config.gpu_memory_utilization,
            },
        )
        llm.observer = metrics
        log.info(
            "the engine is ready after %.1f s: %d tokens of context, %d requests at once, "
            "%d KV blocks of %d tokens",
            facts.seconds,
            facts.max_model_len,
            facts.max_num_seqs,
            facts.num_blocks,
            facts.block_size,
        )
        return cls(llm, settings, metrics, root)

    @property
    def model(self) -> str:
        """The model's name in answers."""
        return self.names[0]

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.llm.get_tokenizer()

    def token_names(self, ids: list[int]) -> list[str]:
        """Tokens as the vocabulary writes them."""
        tokenizer: Any = self.tokenizer
        return [name or "" for name in tokenizer.convert_ids_to_tokens(ids)]

    # -- checks -------------------------------------------------------------------------------

    def check(self, body: Body) -> list[str]:
        """Refuse what would be ignored and must not be.

        Returns:
            The fields that nobody reads.

        Raises:
            ApiError: another model, a constraint that would not hold, a field without support.
        """
        self._check_model(getattr(body, "model", None))
        unknown = body.unknown
        for name in unknown:
            if name in CONSTRAINTS or name.startswith("guided_"):
                raise bad_request(
                    f"{name} is not supported, and the answer would not be constrained; use "
                    "response_format or structured_outputs",
                    name,
                )
        for name, allowed in body.refused.items():
            value = getattr(body, name)
            if not any(value == one for one in allowed):
                raise bad_request(f"{name} is not supported by this server; leave it out", name)
        if getattr(body, "priority", 0) and self.llm.config.scheduling_policy != "priority":
            raise bad_request("priority needs --scheduling-policy priority", "priority")
        self._warn(unknown)
        return unknown

    def _check_model(self, name: str | None) -> None:
        if name is not None and name not in self.names:
            raise ApiError(
                404,
                f"The model `{name}` does not exist. Valid aliases: {', '.join(self.names)}.",
                "model",
            )

    def _warn(self, unknown: list[str]) -> None:
        """Log each unknown field once; a client could send endless ones."""
        for name in unknown:
            if name not in self._warned and len(self._warned) < 100:
                self._warned.add(name)
                log.warning("requests have the field %.100r, which nobody reads", name)

    def check_length(self, ids: list[int]) -> None:
        """Refuse a prompt that leaves no room for a token.

        Raises:
            ApiError: it is too long.
        """
        limit = self.llm.max_model_len
        if len(ids) >= limit:
            raise bad_request(
                f"This model's maximum context length is {limit} tokens. However, your prompt "
                f"contains {len(ids)} input tokens, which leaves no room for an output. Please "
                "reduce the length of the input prompt. "
                f"(parameter=input_tokens, value={len(ids)})",
                "input_tokens",
            )

    def check_params(self, params: SamplingParams) -> None:
        """Check parameters against the model.

        Raises:
            ArgumentError: a value cannot be used.
        """
        params.check_for(self.llm.admission.vocab_size, self.llm.config.max_logprobs)

    # -- prompts ------------------------------------------------------------------------------

    async def encoded(
        self,
        text: str,
        *,
        add_special_tokens: bool,
        keep: int | None = None,
        salt: str | None = None,
    ) -> Prompt:
        """A text as a prompt that is sure to fit.

        Args:
            keep: Only the last tokens; -1 for as many as fit.
            salt: Keeps its KV blocks apart.

        Raises:
            ApiError: it is too long.
            RequestError: it cannot be tokenized.
        """
        if len(text) < LONG_TEXT:
            ids = self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        else:
            ids = await asyncio.to_thread(
                self.tokenizer.encode, text, add_special_tokens=add_special_tokens
            )
        return self.prompt(text, ids, keep, salt)

    def prompt(
        self, text: str | None, ids: list[int], keep: int | None, salt: str | None
    ) -> Prompt:
        """Token ids as a prompt that is sure to fit; see `encoded`."""
        if keep is not None and keep != 0:
            ids = ids[-(self.llm.max_model_len - 1 if keep == -1 else keep) :]
        self.check_length(ids)
        return Prompt(text, ids, salt or "")

    def rendered(self, messages: list[dict[str, Any]], **variables: Any) -> str:  # noqa: ANN401
        """A conversation as the model's chat template writes it.

        Args:
            variables: What the template reads; None leaves a variable out.

        Raises:
            PerfxlmError: there is no template, or it refuses the conversation.
        """
        given = {k: v for k, v in variables.items() if v is not None}
        template = given.pop("chat_template", None)
        if template is not None and not self.settings.trust_request_chat_template:
            raise bad_request(
                "chat_template is refused: a request's template runs on the server, which must be "
                "started with --trust-request-chat-template",
                "chat_template",
            )
        text = self.tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            chat_template=template or self.settings.chat_template,
            **{**self.settings.default_chat_template_kwargs, **given},
        )
        return str(text)


def new_id(prefix: str, wanted: str | None = None) -> str:
    """An id such as `chatcmpl-0123456789abcdef`."""
    return f"{prefix}-{wanted or uuid4().hex[:16]}"
