"""`perfxlm.utils.network_utils`: addresses of this machine."""

import os
import socket


def get_open_port() -> int:
    """A TCP port that nobody listens on now; another process may take it at any time."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def get_ip() -> str:
    """The address that other machines reach this one by; VLLM_HOST_IP sets it."""
    given = os.environ.get("VLLM_HOST_IP")
    if given:
        return given
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        try:
            route.connect(("198.51.100.1", 9))  # nothing is sent: it only chooses the interface
        except OSError:
            return "127.0.0.1"
        return str(route.getsockname()[0])


__all__ = ["get_ip", "get_open_port"]
