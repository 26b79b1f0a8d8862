"""`perfxlm.utils`, where vLLM's users look for these."""

from uuid import uuid4

from perfxlm.utils.argparse_utils import FlexibleArgumentParser
from perfxlm.utils.network_utils import get_ip, get_open_port


def random_uuid() -> str:
    """A random name, 32 hexadecimal digits."""
    return uuid4().hex


__all__ = ["FlexibleArgumentParser", "get_ip", "get_open_port", "random_uuid"]
