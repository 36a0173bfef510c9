"""A Ray cluster of two nodes on this machine, which listens on 127.0.0.1 only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

LOOPBACK = "127.0.0.1"
MEMORY = 80_000_000  # bytes of a node's object store


@contextmanager
def two_nodes(environments: tuple[dict[str, str], dict[str, str]] = ({}, {})) -> Iterator[Any]:
    """Start a head without CPUs and two nodes with one CPU each, and yield the cluster."""
    from ray.cluster_utils import Cluster

    args = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": MEMORY, "node_ip_address": LOOPBACK}
    cluster = Cluster(initialize_head=True, head_node_args=args)
    try:
        for environment in environments:
            add_node(cluster, **environment)
        yield cluster
    finally:
        cluster.shutdown()


def add_node(cluster: Any, **environment: str) -> Any:
    """Add a node with one CPU to a cluster, and return it."""
    return cluster.add_node(
        num_cpus=1, object_store_memory=MEMORY, node_ip_address=LOOPBACK, env_vars=environment or None
    )


def trainers() -> list[psutil.Process]:
    """Return the processes of this machine that are actors of a fleet started by this process' cluster."""
    own = {process.pid for process in psutil.Process().children(recursive=True)}
    return [p for p in psutil.process_iter(["pid", "cmdline"]) if p.pid in own and "Trainer" in " ".join(p.cmdline())]
