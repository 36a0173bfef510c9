"""Compare the speed and memory of a training step with a plain loop that does what common example scripts do.

    python -m benchmarks.step --model builtin:emoji --batch_sizes 1 4
    python -m benchmarks.step --model sd15 --resolution 256 --batch_sizes 1 --steps 2

`sd15` is Stable Diffusion 1.5 at full size with random weights, created in memory. The plain loop trains the whole
vocabulary with AdamW, copies the old rows back after each step, and encodes the images with the VAE each time.
Each case runs in its own process, so that peak memory is its own; both loops of a case run in the same session.
"""

import argparse
import dataclasses
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.nn import functional as F

from neonym.models.encoders.rows import Rows
from neonym.models.loading.identify import identify
from neonym.models.model import load_model
from neonym.models.tokenizers.loading import load_tokenizers
from neonym.optim.optimizers import make_optimizer, record_of
from neonym.training.concept import Concept, initial_rows
from neonym.training.objective import Objective
from neonym.training.state import TrainState, tensors_of
from neonym.training.step import train_step
from neonym.types import Batch, TextCond, Work

STARTED = psutil.Process().create_time()  # before any import, in seconds since the epoch
CAPTION, WORD, VECTORS = "a photo of a neoword on a table", "neoword", 4
SD15_UNET = {
    "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768,
    "attention_head_dim": 8,
}  # fmt: skip
SD15_TEXT = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "projection_dim": 768, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407,
}  # fmt: skip


def make_model(name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a loaded model, or Stable Diffusion 1.5 with random weights if the name is `sd15`."""
    if name != "sd15":
        return load_model(name, device, dtype)
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    from neonym.models.families.stable_diffusion_network import StableDiffusion, StableDiffusionText
    from neonym.models.process.diffusion import Diffusion
    from neonym.models.vae import Vae

    parts: Any = diffusers
    builtin = identify("builtin:emoji")
    source = dataclasses.replace(builtin, name="sd15", facts=dataclasses.replace(builtin.facts, native_size=512))
    torch.manual_seed(0)
    with torch.device(device):
        unet = parts.UNet2DConditionModel(**SD15_UNET).to(dtype)
        vae = parts.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        )  # fmt: skip
        text = CLIPTextModel(CLIPTextConfig(**SD15_TEXT)).to(dtype)
    if device.type == "cpu":
        unet = unet.to(memory_format=torch.channels_last)
    scheduler = parts.DDPMScheduler.from_pretrained(builtin.folder, subfolder="scheduler")
    text_side = StableDiffusionText({"text_encoder": text}, load_tokenizers(builtin), clip_skip=1)
    process = Diffusion(scheduler.alphas_cumprod.float(), scheduler.config.prediction_type)
    return StableDiffusion(source, unet, text_side, Vae(vae, 0.18215), process, scheduler.config)


def synchronise(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(step: Any, steps: int, device: torch.device) -> tuple[float, float]:
    """Return the seconds from the start of the program to the end of the first step, and the mean of later steps."""
    step(0)
    synchronise(device)
    first = time.time() - STARTED
    begun = time.monotonic()
    for i in range(1, steps + 1):
        step(i)
    synchronise(device)
    return first, (time.monotonic() - begun) / steps


def neonym_case(args: argparse.Namespace) -> dict:
    """Measure Neonym's step: learned rows beside the frozen table, with moments that are encoded once."""
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision=args.precision, cpu=args.device == "cpu")
    device, model = accelerator.device, make_model(args.model, accelerator.device, weight_dtype(args))
    start = initial_rows(model, "picture", VECTORS)
    rows = {name: Rows(values.clone()) for name, values in start.items()}
    model.text.add_word(WORD, dict(rows))
    optimizer, record = make_optimizer(rows.values()), record_of("AdamW")
    concept = Concept(WORD, "picture", 0, rows, start, optimizer, record, lambda _: 5e-3, 1.0)
    pixels = torch.rand(args.batch, 3, args.resolution, args.resolution, generator=torch.Generator().manual_seed(0))
    moments = torch.cat([model.vae.encode(p[None].to(device) * 2 - 1) for p in pixels])
    model.vae.to("cpu")
    text = model.text.batch([CAPTION] * args.batch)
    ones = torch.ones(args.batch, device=device)

    def step(i: int) -> None:
        keys = [(0, i, slot) for slot in range(args.batch)]
        levels = [(slot + 0.5) / args.batch for slot in range(args.batch)]
        batch = Batch(moments, text, keys, levels, torch.zeros(args.batch, dtype=torch.int64, device=device), ones)
        work = Work(i, [], args.batch, args.batch, True)
        train_step(model, [concept], [work], [batch], Objective(), accelerator)

    first, mean = timed(step, args.steps, device)
    state = sum(t.nbytes for t in tensors_of(TrainState(concept, {})).values())
    return {"time_to_first_step_s": first, "images_per_s": args.batch / mean, "state_bytes": state}


def plain_case(args: argparse.Namespace) -> dict:
    """Measure the plain step: the whole vocabulary trained, old rows restored, images encoded each time."""
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision=args.precision, cpu=args.device == "cpu")
    device, model = accelerator.device, make_model(args.model, accelerator.device, weight_dtype(args))
    text = model.text.encoders["text_encoder"].float()
    frozen = model.text.vocabulary("text_encoder")
    table = torch.nn.Embedding(len(frozen) + VECTORS, frozen.shape[1], device=device)
    with torch.no_grad():
        table.weight[: len(frozen)] = frozen
        table.weight[len(frozen) :] = frozen[1674]
    text.set_input_embeddings(table)
    table.requires_grad_(True)
    old = table.weight.detach().clone()
    optimizer = torch.optim.AdamW([table.weight], lr=5e-3)
    keep = torch.ones(len(table.weight), dtype=torch.bool)
    keep[len(frozen) :] = False
    model.vae.to(device, weight_dtype(args))
    pixels = (
        torch.rand(args.batch, 3, args.resolution, args.resolution, device=device, dtype=weight_dtype(args)) * 2 - 1
    )
    model.text.tokenizers["text_encoder"].add_word(WORD, VECTORS)
    ids = model.text.tokenize(CAPTION).ids["text_encoder"].expand(args.batch, -1).to(device)
    alphas = model.process.alphas_cumprod.to(device)

    def step(_: int) -> None:
        with torch.no_grad():
            latents = model.vae.module.encode(pixels).latent_dist.sample().float() * model.vae.scale
        noise, t = torch.randn_like(latents), torch.randint(0, 1000, (args.batch,), device=device)
        alpha = alphas[t][:, None, None, None]
        with accelerator.autocast():
            hidden = text(ids).last_hidden_state
            prediction = model.predict(alpha.sqrt() * latents + (1 - alpha).sqrt() * noise, t, TextCond(hidden))
        loss = F.mse_loss(prediction.float(), noise)
        accelerator.backward(loss)
        if accelerator.scaler is not None:
            accelerator.scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_([table.weight], 1.0)
        if accelerator.scaler is not None:
            accelerator.scaler.step(optimizer)
            accelerator.scaler.update()
        else:
            optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            table.weight[keep] = old[keep]
        loss.item()

    first, mean = timed(step, args.steps, device)
    state = sum(t.nbytes for values in optimizer.state.values() for t in values.values())
    return {
        "time_to_first_step_s": first,
        "images_per_s": args.batch / mean,
        "state_bytes": state + table.weight.nbytes,
    }


def weight_dtype(args: argparse.Namespace) -> torch.dtype:
    """Return the dtype of the frozen weights: on a GPU, that of the mixed precision, for both loops."""
    if args.device == "cpu":
        return torch.float32
    return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(args.precision, torch.float32)


def peak_memory(device: str) -> float:
    """Return the peak memory in MiB: of the GPU, or of the process on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def processor_name() -> str:
    """Return the name of the GPU, or of the CPU with its number of threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    facts = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in facts if line.startswith("model name")), platform.processor())
    return f"{name}, {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:emoji", help="builtin:emoji, a Diffusers folder, or sd15")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--precisions", nargs="+", default=["no"], choices=["no", "fp16", "bf16"])
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", choices=["neonym", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="no", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        figures = {"neonym": neonym_case, "plain": plain_case}[args.case](args)
        print(json.dumps({**figures, "peak_mib": peak_memory(args.device)}))
        return
    rows = []
    for precision in args.precisions:
        for batch in args.batch_sizes:
            row: dict[str, Any] = {"model": args.model, "device": args.device, "precision": precision, "batch": batch}
            for case in ("plain", "neonym"):
                command = [sys.executable, "-m", "benchmarks.step", "--case", case, "--batch", str(batch)]
                command += ["--precision", precision, "--model", args.model, "--device", args.device]
                command += ["--resolution", str(args.resolution), "--steps", str(args.steps)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                row[case] = json.loads(done.stdout.splitlines()[-1])
            row["speed_ratio"] = row["neonym"]["images_per_s"] / row["plain"]["images_per_s"]
            rows.append(row)
            print(json.dumps(row), flush=True)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        result = {"machine": processor_name(), "torch": torch.__version__, "resolution": args.resolution, "rows": rows}
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
