"""The devices of this machine, listed without torch."""

from __future__ import annotations

import os
import subprocess


def devices() -> list[str]:
    """Return the devices that runs can have, one run each: "cuda:0" and so on, or "cpu". This needs no torch."""
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        listed = []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        listed = [index for index in visible.split(",") if index.strip()] if listed else []
    return [f"cuda:{index.strip()}" for index in listed] or ["cpu"]
