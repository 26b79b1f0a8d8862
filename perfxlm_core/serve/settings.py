"""How the server is set up, apart from the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ServerSettings:
    """Flags of `perfxlm serve`, by vLLM's names where vLLM has them.

    Attributes:
        uds: Path of a Unix socket to listen on, in the place of host and port.
        api_key: Keys of which a request to /v1 must show one; none asks for none.
        served_model_name: Names that a request may call the model; the first one is shown.
        chat_template: Jinja source used in the place of the model's.
        default_chat_template_kwargs: Variables of the chat template that a request may replace.
        trust_request_chat_template: Whether a request may bring a template.
        max_request_bytes: Of a request's body.
        max_queued_requests: Requests in flight before more are turned away with 503; None
            for any number.
        body_timeout: Seconds in which a request's body must have come.
        request_timeout: Seconds after which a request is ended; 0 never.
        drain_timeout: Seconds that requests in flight get when the server is told to end.
        restart_engine: Start the engine again when its process dies.
    """

    host: str | None = None
    port: int = 8000
    uds: str | None = None
    root_path: str = ""
    api_key: list[str] = field(default_factory=list)
    served_model_name: list[str] = field(default_factory=list)
    chat_template: str | None = None
    default_chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    trust_request_chat_template: bool = False
    response_role: str = "assistant"
    enable_auto_tool_choice: bool = False
    tool_call_parser: str | None = None
    reasoning_parser: str = ""
    return_tokens_as_token_ids: bool = False
    enable_force_include_usage: bool = False
    enable_prompt_tokens_details: bool = True
    disable_fastapi_docs: bool = False
    allowed_origins: list[str] = field(default_factory=lambda: ["*"])
    allowed_methods: list[str] = field(default_factory=lambda: ["*"])
    allowed_headers: list[str] = field(default_factory=lambda: ["*"])
    allow_credentials: bool = False
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_ca_certs: str | None = None
    uvicorn_log_level: str = "info"
    disable_uvicorn_access_log: bool = False
    max_request_bytes: int = 16 << 20
    max_queued_requests: int | None = None
    body_timeout: float = 30.0
    request_timeout: float = 0.0
    drain_timeout: float = 60.0
    restart_engine: bool = False
