"""`perfxlm.transformers_utils`, without transformers."""
