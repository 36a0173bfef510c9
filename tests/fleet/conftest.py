"""Fleets are processes, and clusters on this machine: connections to it are allowed, all others fail (law 7)."""

from __future__ import annotations

import os
import socket

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # both are read when Ray is imported
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = (
    "0"  # 127.0.0.1 stays what it is, instead of an address of the network
)
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Let every connection fail but those to this machine (law 7)."""
    connect = socket.socket.connect

    def refuse(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
            raise AssertionError(f"a test tried to connect to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
