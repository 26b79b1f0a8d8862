"""Ways into perfxlm."""
