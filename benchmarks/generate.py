"""Compare the speed of generation with that of diffusers' own pipeline, on the same model, prompts, seeds and steps.

    python -m benchmarks.generate --images 8 --steps 20
    python -m benchmarks.generate --model sd1 --precision fp16 --side 512 --json benchmarks/results/generate-sd1.json

Both generate the same images, in turn, several times; the best time of each counts, including guidance and decoding.
diffusers' pipeline loads the model with its own loader. `sd1` and `sdxl` are models of full size with random weights.
Writes a JSON file to `benchmarks/results/`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.recovery import write_json
from benchmarks.step import device_name, model_folder
from neonym.generation.graphs import graphs_for
from neonym.generation.pipeline import Pipeline
from neonym.generation.request.jobs import Job
from neonym.generation.samplers import make_scheduler
from neonym.models.model import load_model
from neonym.models.tokenizers.clip import CHUNK, ClipTokenizer

PRECISIONS = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PROMPT = "a sticker of a cat on a blue background"


def time_in_turn(generators: dict[str, Callable[[], list]], times: int) -> tuple[dict[str, float], dict[str, list]]:
    """Run the generators in turn, several times. Return the fastest time of each in seconds, and its last images."""
    found = {name: generate() for name, generate in generators.items()}  # warm-up
    seconds = {name: float("inf") for name in generators}
    for _ in range(times):
        for name, generate in generators.items():
            started = time.perf_counter()
            found[name] = generate()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds, found


def compare(model, pipeline, side: int, images: int, batch: int, steps: int, sampler: str, times: int) -> dict:
    """Return the seconds of both for the same images, and the largest difference of a pixel (0 to 255)."""
    own, scale = Pipeline(model, graphs=graphs_for(model, "auto", print)), model.source.guidance
    pipeline.scheduler = make_scheduler(model, sampler)
    jobs = [Job(PROMPT, seed, side, side, "blurry", steps, scale, sampler=sampler) for seed in range(images)]
    groups = [jobs[i : i + batch] for i in range(0, images, batch)]

    def ours() -> list:
        return [image for group in groups for image in own.generate(group)]

    def theirs() -> list:
        found = []
        for group in groups:
            found += pipeline(
                [PROMPT] * len(group), negative_prompt=["blurry"] * len(group), num_inference_steps=steps,
                guidance_scale=scale, width=side, height=side,
                generator=[torch.Generator().manual_seed(job.seed) for job in group],
            ).images  # fmt: skip
        return found

    seconds, images_of = time_in_turn({"neonym": ours, "diffusers": theirs}, times)
    pairs = zip(images_of["neonym"], images_of["diffusers"], strict=True)
    return {
        "batch": batch, "sampler": sampler, "neonym_s": round(seconds["neonym"], 3), "diffusers_s": round(seconds["diffusers"], 3),
        "ratio": round(seconds["diffusers"] / seconds["neonym"], 3),
        "largest_difference": int(max(np.abs(np.asarray(a, int) - np.asarray(b, int)).max() for a, b in pairs)),
    }  # fmt: skip


def their_pipeline(model, device: torch.device, dtype: torch.dtype) -> Any:
    """Return diffusers' pipeline, with weights of its own."""
    import diffusers

    kind: Any = getattr(diffusers, model.source.family.pipeline)
    pipeline = kind.from_pretrained(model.source.folder, torch_dtype=dtype).to(device)
    if device.type == "cpu":
        pipeline.unet.to(memory_format=torch.channels_last)  # faster on a CPU, for both
        pipeline.vae.to(memory_format=torch.channels_last)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def for_pipeline(tokenizer: ClipTokenizer) -> Any:
    """Return a copy of a tokenizer for diffusers' pipelines, which may change its settings."""
    from transformers import PreTrainedTokenizerFast

    backend = tokenizer.backend
    ends = {"bos_token": backend.id_to_token(tokenizer.start), "eos_token": backend.id_to_token(tokenizer.end)}
    copy = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=CHUNK + 2, **ends)
    copy.pad_token_id = tokenizer.pad
    return copy


def around(model, sampler: str = "ddim", kind: str = "") -> Any:
    """Return diffusers' pipeline with the parts of a loaded model; `kind` is "", "Img2Img" or "Inpaint"."""
    import diffusers

    parts: Any = diffusers
    tokenizers = {
        name.replace("text_encoder", "tokenizer"): for_pipeline(t.clip) for name, t in model.text.tokenizers.items()
    }
    unused = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    name = model.source.family.pipeline.replace("Pipeline", f"{kind}Pipeline")
    pipeline = getattr(parts, name)(
        **model.modules(), **tokenizers, **({} if "XL" in name else unused), scheduler=make_scheduler(model, sampler)
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--samplers", nargs="+", default=["ddim", "euler_a"])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--precision", default="no", choices=list(PRECISIONS))
    parser.add_argument("--side", type=int, help="side of the images in pixels (default: the model's)")
    parser.add_argument("--model", default="builtin:emoji")
    parser.add_argument("--models_dir", type=Path, help="where random models are kept (default: a temporary folder)")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/generate.json"))
    args = parser.parse_args()
    device, dtype = torch.device("cuda" if torch.cuda.is_available() else "cpu"), PRECISIONS[args.precision]
    args.device = device.type
    with tempfile.TemporaryDirectory() as temporary:
        model = load_model(str(model_folder(args.model, args.models_dir or Path(temporary), args)), device, dtype)
        pipeline, rows = their_pipeline(model, device, dtype), []
    for sampler in args.samplers:
        for batch in args.batch_sizes:
            side = args.side or model.source.native_size
            rows.append(compare(model, pipeline, side, args.images, batch, args.steps, sampler, args.times))
            heads = list(rows[0])
            if len(rows) == 1:
                print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
            print(f"| {' | '.join(str(rows[-1][head]) for head in heads)} |", flush=True)
    facts = {"machine": device_name(device.type), "model": args.model, "precision": args.precision}
    write_json({**facts, "pictures": args.images, "steps": args.steps, "rows": rows}, args.json)


if __name__ == "__main__":
    main()
