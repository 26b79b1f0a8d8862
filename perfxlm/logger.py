"""`perfxlm.logger`: Python's own logging."""

import logging


def init_logger(name: str) -> logging.Logger:
    """The logger of that name."""
    return logging.getLogger(name)


__all__ = ["init_logger"]
