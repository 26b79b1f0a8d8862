"""`perfxlm bench`: how fast a model runs here, or a server answers."""
