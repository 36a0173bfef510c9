"""Plain training loops to compare with, on diffusers' and transformers' own modules.

`plain` does what diffusers' example does: it trains the whole vocabulary with AdamW, copies the old rows back after
each step, and encodes the images with the VAE each time. `cached` does the same with latents that are encoded once, as
sd-scripts does with --cache_latents.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

VECTORS = 4  # new rows
WORD = "neoword"
CAPTION = "a photo of a {} on a table"
START = "picture"  # whose row the new ones start from
PRECISIONS = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class PlainLoop:
    """A plain loop on the model in a Diffusers folder, with one or two CLIP encoders.

    It learns from `pixels` [N,3,H,W], from -1 to 1, and a caption of each, which contains WORD.
    """

    def __init__(
        self, args: argparse.Namespace, pixels: Tensor, captions: Sequence[str], is_cached: bool,
        vectors: int = VECTORS, learning_rate: float = 5e-3,
    ):  # fmt: skip
        from accelerate import Accelerator
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

        folder, half, self.batch = args.folder, PRECISIONS[args.precision], args.batch
        self.accelerator = Accelerator(mixed_precision=args.precision, cpu=args.device == "cpu")
        self.device = self.accelerator.device
        # as in diffusers' example, the frozen parts are in half precision, and the trained encoders in float32
        unet: Any = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=half)
        self.unet = unet.requires_grad_(False).to(self.device)
        vae: Any = AutoencoderKL.from_pretrained(folder, subfolder="vae")
        self.vae = vae.requires_grad_(False).to(self.device)
        self.alphas = DDPMScheduler.from_pretrained(folder, subfolder="scheduler").alphas_cumprod.to(self.device)
        self.texts = [PlainText(folder, name, captions, vectors, self.device) for name in encoders_in(folder)]
        self.optimizer = torch.optim.AdamW([text.table.weight for text in self.texts], lr=learning_rate)
        self.pixels = pixels.to(self.device)
        self.cached = self.encode(self.pixels) if is_cached else None  # [N,C,h,w]
        if is_cached:
            self.vae.to("cpu")

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Return latents [B,C,h,w] of images [B,3,H,W]."""
        return self.vae.encode(pixels).latent_dist.sample() * self.vae.config.scaling_factor

    def loss(self) -> Tensor:
        """Return the loss of one step on a batch of random images."""
        which = torch.randint(len(self.pixels), (self.batch,), device=self.device)
        latents = self.encode(self.pixels[which]) if self.cached is None else self.cached[which]
        noise, t = torch.randn_like(latents), torch.randint(0, 1000, (len(latents),), device=self.device)
        alpha = self.alphas[t][:, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        with self.accelerator.autocast():
            states = [text.states(which) for text in self.texts]  # (hidden [B,77,W], pooled [B,P]) of each encoder
            hidden = torch.cat([hidden for hidden, _ in states], dim=-1)
            prediction = self.unet(noisy, t, hidden, added_cond_kwargs=self.added(states)).sample
        return F.mse_loss(prediction.float(), noise)

    def added(self, states: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor] | None:
        """Return SDXL's further conditions."""
        if len(states) == 1:
            return None
        height, width = self.pixels.shape[2:]
        sizes = torch.tensor([height, width, 0, 0, height, width], device=self.device).repeat(self.batch, 1)
        return {"text_embeds": states[-1][1], "time_ids": sizes}

    def step(self, _: int) -> None:
        """Take a step."""
        loss = self.loss()
        self.accelerator.backward(loss)
        scaler, weights = self.accelerator.scaler, [text.table.weight for text in self.texts]
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        self.optimizer.zero_grad()
        for text in self.texts:
            text.restore()
        loss.item()

    def state_bytes(self) -> int:
        """Return the bytes of what training changes, with the optimizer's state."""
        states = [tensor for values in self.optimizer.state.values() for tensor in values.values()]
        return sum(tensor.nbytes for tensor in [*states, *(text.table.weight for text in self.texts)])


class PlainText:
    """A text encoder whose whole vocabulary is trained."""

    def __init__(self, folder: Path, name: str, captions: Sequence[str], vectors: int, device: torch.device):
        import transformers

        kind: Any = transformers.CLIPTextModelWithProjection if name.endswith("2") else transformers.CLIPTextModel
        self.model = kind.from_pretrained(folder, subfolder=name, torch_dtype=torch.float32).to(device)
        self.model.requires_grad_(False)
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / name.replace("text_encoder", "tokenizer"))
        words = [f"{WORD}{i}" for i in range(vectors)]
        (start,) = tokenizer(START, add_special_tokens=False).input_ids
        tokenizer.add_tokens(words)
        texts = [caption.replace(WORD, " ".join(words)) for caption in captions]
        ids = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
        self.ids = ids.to(device)  # [N,77]
        frozen = self.model.get_input_embeddings().weight
        self.table = torch.nn.Embedding(len(frozen) + vectors, frozen.shape[1], device=device)
        with torch.no_grad():
            self.table.weight[: len(frozen)] = frozen
            self.table.weight[len(frozen) :] = frozen[start]
        self.model.set_input_embeddings(self.table)
        self.old = self.table.weight.detach().clone()
        self.keep = torch.arange(len(self.old), device=device) < len(frozen)

    def states(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """Return the hidden states [B,77,W] and the pooled states [B,P] of captions with these indices [B]."""
        found = self.model(self.ids[which], output_hidden_states=True)
        if hasattr(found, "text_embeds"):
            return found.hidden_states[-2], found.text_embeds
        return found.last_hidden_state, found.pooler_output

    def rows(self) -> Tensor:
        """Return the new rows, [n,W]."""
        return self.table.weight[~self.keep].detach()

    @torch.no_grad()
    def restore(self) -> None:
        """Copy the old rows back."""
        self.table.weight[self.keep] = self.old[self.keep]


def encoders_in(folder: Path) -> list[str]:
    """Return the names of the text encoders in a Diffusers folder."""
    return [name for name in ("text_encoder", "text_encoder_2") if (folder / name).is_dir()]
