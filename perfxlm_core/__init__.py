"""The engine of perfxlm: operators, plugins, graphs, checkpoints and continuous batching."""

__version__ = "0.1.0"
