"""`perfxlm.lora`: adapters cannot be loaded; programs may import its names."""
