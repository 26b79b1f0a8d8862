"""`perfxlm.exceptions`: vLLM's classes of errors are ours, under its names."""

from perfxlm_core.errors import PerfxlmError, ValidationError

VLLMError = PerfxlmError
VLLMClientError = ValidationError
VLLMValidationError = ValidationError

__all__ = ["VLLMClientError", "VLLMError", "VLLMValidationError"]
