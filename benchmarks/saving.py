"""Measure the cost of waiting until states and embedding files are on the disk: milliseconds for a small file.

    python -m benchmarks.saving --folder outputs --json

A run saves such a state every 25 steps. `lasting` waits until the file and its name are on the disk; `plain`
does not wait, as for caches.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from neonym.io.atomic import atomic_write


def save(folder: Path, size: int, count: int, lasting: bool) -> dict[str, float]:
    """Replace one file `count` times, and return the median and the 95th percentile in milliseconds."""
    times = []
    for number in range(count):
        content, started = bytes([number % 256]) * size, time.perf_counter()
        with atomic_write(folder / "state.safetensors", lasting) as part:
            part.write_bytes(content)
        times.append(1000 * (time.perf_counter() - started))
    return {"median_ms": round(median(times), 3), "p95_ms": round(quantiles(times, n=20)[-1], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a folder on the disk to measure (default: the temporary one)")
    parser.add_argument("--size", type=int, default=32_768, help="bytes of a state: 8 vectors of SDXL have 200,000")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as home:
        found = {kind: save(Path(home), args.size, args.count, kind == "lasting") for kind in ("plain", "lasting")}
    print(json.dumps({"bytes": args.size, **found}) if args.json else found)


if __name__ == "__main__":
    main()
