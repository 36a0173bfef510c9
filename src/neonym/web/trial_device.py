"""Choose the device on which words are tried, so that no run dies of a lack of memory."""

from __future__ import annotations

from neonym import UserError
from neonym.web.queue import Queue

CHOICES = {"": "a free device", "cpu": "the processor (slow)"}
FIX = "Wait until it has ended, or choose where to compute: the processor is slow; on this GPU, memory may run out"


def choices(queue: Queue) -> dict[str, str]:
    """Return the devices that a user can choose, each with its name on the page; none where there is only one."""
    gpus = [device for device in queue.devices if device != "cpu"]
    return {**CHOICES, **{gpu: f"GPU {gpu.removeprefix('cuda:')}" for gpu in gpus}} if gpus else {}


def device_for(queue: Queue, choice: str) -> str:
    """Return the device for a choice, as torch calls it. Raises UserError if every GPU is used by a run.

    A GPU that the user chose is taken whatever it does.
    """
    if choice:
        return in_torch(queue, choice)
    if queue.devices == ["cpu"]:
        return "auto"  # the GPU of a Mac, which is not listed
    used = queue.in_use()
    free = next((device for device in queue.devices if device not in used), None)
    if free is None:
        device, entry = next(iter(used.items()))
        raise UserError(f"is used by the run of {entry.token}, which needs its memory", device, FIX)
    return in_torch(queue, free)


def in_torch(queue: Queue, device: str) -> str:
    """Return what torch calls a device: GPUs are numbered anew if only some are visible."""
    return f"cuda:{queue.devices.index(device)}" if device in queue.devices and device != "cpu" else "cpu"


def gpus_in_use(queue: Queue) -> set[str]:
    """Return the GPUs that runs use now, as torch calls them."""
    return {in_torch(queue, device) for device in queue.in_use()} - {"cpu"}
