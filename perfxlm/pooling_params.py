"""`perfxlm.pooling_params`: for programs that import it; no model here pools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from perfxlm.sampling_params import RequestOutputKind


@dataclass
class PoolingParams:
    """How a prompt is pooled; `LLM.embed` and the others refuse it, as they refuse everything."""

    use_activation: bool | None = None
    dimensions: int | None = None
    step_tag_id: int | None = None
    returned_token_ids: list[int] | None = None
    task: str | None = None
    requires_token_ids: bool = False
    skip_reading_prefix_cache: bool | None = None
    late_interaction_params: Any = None
    extra_kwargs: dict[str, Any] | None = None
    output_kind: RequestOutputKind = RequestOutputKind.FINAL_ONLY
    late_chunking_params: Any = None
    normalize: bool | None = None


__all__ = ["PoolingParams"]
