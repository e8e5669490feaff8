"""Addresses of the test cluster; all of them exist on this machine only."""

import socket

LOOPBACK = "127.0.0.1"
SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
POD_RANGE = "10.244.0.0/16"
REAL_NODE_PODS = "10.244.0.0/24"
FAKE_NODE_ADDRESS = "198.51.100.1"
"""Address of all fake nodes, from a range that is kept for examples; nothing listens there."""
NODE_ADDRESS = "10.97.0.1"
"""Where pods reach this machine: the real node, and what listens on it. Added to `lo` with the real node."""
DNS_ADDRESS = "10.97.0.10"


def free_ports(number: int) -> list[int]:
    """Different ports of the loopback interface on which nothing listens.

    They are chosen together, while all are held, so that no two are equal.
    """
    held = [socket.socket() for _ in range(number)]
    try:
        for sock in held:
            sock.bind((LOOPBACK, 0))
        return [sock.getsockname()[1] for sock in held]
    finally:
        for sock in held:
            sock.close()
