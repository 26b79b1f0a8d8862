"""`perfxlm.distributed`: one process runs the model."""
