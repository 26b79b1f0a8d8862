"""`perfxlm.model_executor`."""
