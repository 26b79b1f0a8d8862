"""`perfxlm.usage.usage_lib`: where an engine runs, which makes no difference here."""

from enum import StrEnum


class UsageContext(StrEnum):
    """Where an engine runs."""

    UNKNOWN_CONTEXT = "UNKNOWN_CONTEXT"
    LLM_CLASS = "LLM_CLASS"
    API_SERVER = "API_SERVER"
    OPENAI_API_SERVER = "OPENAI_API_SERVER"
    OPENAI_BATCH_RUNNER = "OPENAI_BATCH_RUNNER"
    ENGINE_CONTEXT = "ENGINE_CONTEXT"


__all__ = ["UsageContext"]
