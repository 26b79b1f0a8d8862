"""`perfxlm.renderers`."""
