"""Bodies of requests, as pydantic models: they validate, and describe themselves in OpenAPI."""
