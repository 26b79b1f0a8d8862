"""`perfxlm.usage`: nothing is reported to anybody."""
