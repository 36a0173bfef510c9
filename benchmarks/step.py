"""Compare the speed and memory of a training step with plain loops that do what common scripts do.

    python -m benchmarks.step --model builtin:emoji --batch_sizes 1 4
    python -m benchmarks.step --model sd1 --resolution 256 --batch_sizes 1 --steps 2 --processes 1

`plain` is a loop as in diffusers' example, `cached` the same with latents that are encoded once, as in sd-scripts
(benchmarks/step_loops.py). `neonym` is the whole program, from its command to its last step, with its events and saved
states; `eager` is the same with --cuda_graphs=off, `compiled` with --torch_compile, and `channels_last` with the
denoiser in that memory format, as it always is on a CPU. `sd1` and `sdxl` are models of full size with random weights.

Each case runs in a process of its own, so that peak memory is its own. The cases of a row run in turn, and the fastest
of several processes counts. A step's share of the matmul ceiling is of a large matrix product on the same device.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import torch

from benchmarks.recovery import machine, write_json
from benchmarks.step_loops import CAPTION, PRECISIONS, START, VECTORS, WORD, PlainLoop
from benchmarks.step_measures import Profiled, matmul_ceiling, operations, peak_memory, wait_for

STARTED = psutil.Process().create_time()  # before any import, in seconds since the epoch
IMAGES = Path(__file__).parent.parent / "examples" / "nutkin"
RANDOM = ("sd1", "sd2", "sdxl")
PROFILED = 3  # steps, after those that are timed
WARM = {"cpu": 2, "cuda": 6}  # steps before those that are timed: CUDA graphs are recorded in the third


def model_folder(name: str, home: Path, args: argparse.Namespace) -> Path:
    """Return the Diffusers folder of a model; a random one is written to `home` in half precision, if it is not there."""
    from neonym.models.loading.identify import identify

    if name not in RANDOM:
        return Path(identify(name).folder or name)
    folder = home / name
    if not folder.exists():
        from benchmarks.checkpoints import make_parts, save_folder

        with torch.device(args.device):
            parts = make_parts(name, tiny=False)
        save_folder(parts, name, folder, "v_prediction" if name == "sd2" else "epsilon")
    return folder


def plain_case(args: argparse.Namespace, is_cached: bool) -> dict[str, Any]:
    """Measure a plain loop."""
    pixels = torch.rand(args.batch, 3, args.resolution, args.resolution) * 2 - 1
    loop = PlainLoop(args, pixels, [CAPTION.format(WORD)] * args.batch, is_cached)
    loop.step(0)
    wait_for(loop.device)
    found: dict[str, Any] = {"time_to_first_step_s": time.time() - STARTED}
    for i in range(1, WARM[args.device]):
        loop.step(i)
    wait_for(loop.device)
    begun = time.perf_counter()
    for i in range(args.steps):
        loop.step(i)
    wait_for(loop.device)
    found["images_per_s"] = args.batch * args.steps / (time.perf_counter() - begun)
    found |= {"peak_mib": peak_memory(args.device), "state_bytes": loop.state_bytes()}
    profiled = Profiled()
    for i in range(PROFILED):
        loop.step(i)
    found |= profiled.stop(PROFILED)
    if is_cached:
        found["operations"] = operations(lambda: loop.loss().backward())
    return found


class Watch:
    """A listener that times and profiles the steps of a run."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.found, self.device = args, dict[str, Any](), torch.device(args.device)

    def __call__(self, event: Any) -> None:
        from neonym import Stepped

        if not isinstance(event, Stepped):
            return
        if event.step == 1:
            wait_for(self.device)
            self.found["time_to_first_step_s"] = time.time() - STARTED
        elif event.step == WARM[self.args.device]:
            wait_for(self.device)
            self.begun = time.perf_counter()
        elif event.step == WARM[self.args.device] + self.args.steps:
            wait_for(self.device)
            self.found["images_per_s"] = self.args.batch * self.args.steps / (time.perf_counter() - self.begun)
            self.found["peak_mib"] = peak_memory(self.args.device)
            self.profiled = Profiled()
        elif event.step == WARM[self.args.device] + self.args.steps + PROFILED:
            self.found |= self.profiled.stop(PROFILED)


def neonym_case(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the steps of a run of the program: the word is in the one caption of all images."""
    import neonym

    watch, total = Watch(args), WARM[args.device] + args.steps + PROFILED
    with tempfile.TemporaryDirectory() as out:
        images = Path(out) / "images"
        images.mkdir()
        for image in IMAGES.glob("*.png"):
            (images / image.name).symlink_to(image)
            (images / image.name).with_suffix(".txt").write_text(CAPTION.format(WORD))
        run = neonym.RunConfig.parse(
            pretrained_model_name_or_path=str(args.folder), train_data_dir=str(images), token_string=WORD,
            init_word=START, num_vectors_per_token=VECTORS, resolution=str(args.resolution), output_dir=f"{out}/out",
            max_train_steps=total, train_batch_size=args.batch, mixed_precision=args.precision, learning_rate=5e-3,
            cpu=args.device == "cpu", eval_samples=8, fit="off", micro_batch_size=args.batch,
            torch_compile=args.case == "compiled", cuda_graphs="off" if args.case == "eager" else "auto",
        )  # fmt: skip
        result = neonym.train(run, [watch])
        watch.found["state_bytes"] = result.files[0].stat().st_size
    return watch.found


def channels_last_case(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the steps of a run whose denoiser is in channels-last memory format."""
    from neonym.training.load import load_frozen_model

    def load(*given: Any) -> Any:
        model = load_frozen_model(*given)
        model.denoiser.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return model

    with patch("neonym.training.lanes.load_frozen_model", load):
        return neonym_case(args)


CASES = {
    "plain": lambda args: plain_case(args, is_cached=False),
    "cached": lambda args: plain_case(args, is_cached=True),
    "neonym": neonym_case,
    "eager": neonym_case,
    "compiled": neonym_case,
    "channels_last": channels_last_case,
}


def measured(args: argparse.Namespace, case: str, batch: int, precision: str, folder: Path) -> dict[str, Any]:
    """Return the figures of a case, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.step", "--case", case, "--batch", str(batch), "--precision", precision]
    command += ["--folder", str(folder), "--device", args.device, "--resolution", str(args.resolution)]
    done = subprocess.run([*command, "--steps", str(args.steps)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def row_of(args: argparse.Namespace, batch: int, precision: str, folder: Path) -> dict[str, Any]:
    """Return the figures of all cases of one row, with their ratios."""
    row: dict[str, Any] = {"model": args.model, "precision": precision, "batch": batch, "resolution": args.resolution}
    for _ in range(args.processes):
        for case in args.cases:
            found = measured(args, case, batch, precision, folder)
            if found["images_per_s"] > row.get(case, {}).get("images_per_s", 0):
                row[case] = found
    ceiling = matmul_ceiling(torch.device(args.device), PRECISIONS[precision])
    of_image = row.get("cached", {}).get("operations", 0) / batch
    row["ceiling_tflops"] = ceiling / 1e12
    for case in args.cases:
        if of_image:
            row[case]["share_of_ceiling"] = row[case]["images_per_s"] * of_image / ceiling
        for other in {"plain", "cached"} & set(args.cases):
            row[case][f"times_{other}"] = row[case]["images_per_s"] / row[other]["images_per_s"]
    return row


def table(rows: list[dict[str, Any]], cases: list[str]) -> str:
    """Return the rows as a table for the docs."""
    lines = [
        "| model | precision | batch | case | images/s | x plain | x cached | of the ceiling | peak, GB | kernels | waits |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for case in cases:
            own = row[case]
            ratios = [f"{own[name]:.2f}" if name in own else "-" for name in ("times_plain", "times_cached")]
            share = f"{100 * own['share_of_ceiling']:.0f} %" if "share_of_ceiling" in own else "-"
            cells = [
                f"{row['model']}, {row['resolution']}", row["precision"], row["batch"], case, f"{own['images_per_s']:.3g}",
                *ratios, share, f"{own['peak_mib'] / 1024:.1f}", f"{own['kernels_per_step']:.0f}",
                f"{own['waits_per_step']:.1f}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def device_name(device: str) -> str:
    """Return the name of a GPU, or of the processor, with the versions."""
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}" if device == "cuda" else machine()


def main() -> None:
    """Measure all rows, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:emoji", help="builtin:emoji, a Diffusers folder, or sd1, sd2, sdxl")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--precisions", nargs="+", default=["no"], choices=list(PRECISIONS))
    parser.add_argument("--cases", nargs="+", default=["plain", "cached", "neonym"], choices=list(CASES))
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--processes", type=int, default=2, help="of each case, of which the fastest counts")
    parser.add_argument("--models_dir", type=Path, help="where random models are kept (default: a temporary folder)")
    parser.add_argument("--json", type=Path)
    for name, kind in (("case", str), ("batch", int), ("precision", str), ("folder", Path)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(CASES[args.case](args)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = model_folder(args.model, args.models_dir or Path(temporary), args)
        rows = [row_of(args, batch, precision, folder) for precision in args.precisions for batch in args.batch_sizes]
    print(table(rows, args.cases))
    if args.json:
        write_json({"machine": device_name(args.device), "rows": rows}, args.json)


if __name__ == "__main__":
    main()
