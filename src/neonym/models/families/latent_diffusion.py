"""What all latent diffusion models with CLIP text encoders, a U-Net and a VAE have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from neonym.errors import ModelError
from neonym.io.pickles import first_line
from neonym.models.batch_invariance import make_alike
from neonym.models.encoders.rows import EmbeddingWithRows, join_chunks
from neonym.models.loading.assemble import load_part
from neonym.models.loading.weight_files import stays_on_disk
from neonym.models.model import Keep
from neonym.models.process.diffusion import Diffusion, Key, keyed_noise
from neonym.models.source import ModelSource
from neonym.models.tokenizers.clip import WordTokenizer


class LatentDiffusion:
    """A frozen model with learned rows beside the token table of each of its text encoders.

    A family adds how text is encoded and what the U-Net is told.
    """

    pipeline_class: str  # diffusers' pipeline that draws with such a model

    def __init__(
        self, source: ModelSource, unet: Any, vae: Any, encoders: dict[str, Any], scheduler: Any,
        tokenizers: dict[str, WordTokenizer], clip_skip: int,
    ):  # fmt: skip
        self.source, self.clip_skip, self.tokenizers = source, clip_skip, tokenizers
        self.unet, self.vae, self.encoders, self.scheduler = unet, vae, encoders, scheduler
        self.process = Diffusion(scheduler.alphas_cumprod.float(), scheduler.config.prediction_type)
        for module in self.modules().values():
            module.requires_grad_(False).eval()
        self.tables = {name: EmbeddingWithRows(encoder.get_input_embeddings()) for name, encoder in encoders.items()}
        for name, encoder in encoders.items():
            encoder.set_input_embeddings(self.tables[name])

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        """The U-Net's. diffusers' own property goes through every module, which takes a twentieth of a small model's step."""
        return next(self.unet.parameters()).dtype

    def modules(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "vae": self.vae, **self.encoders}

    def vocabulary(self, encoder: str) -> Tensor:
        """The frozen token table. -> [V,W]"""
        return self.tables[encoder].frozen.weight

    def add_word(self, token: str, rows: dict[str, Tensor]) -> None:
        """Let `token` read `rows` ({encoder: float32 [n,W]}), now and as they change."""
        for name, table in self.tables.items():
            self.tokenizers[name].add_word(token, len(rows[name]))
            table.rows.append(rows[name])

    def remove_word(self, token: str) -> None:
        """Forget `token`, the word that was added last."""
        for name, table in self.tables.items():
            self.tokenizers[name].remove_word(token)
            table.rows.pop()

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Posterior mean and log-variance. [B,3,H,W] in -1..1 -> [B,2C,h,w]"""
        with torch.no_grad():
            return self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist.parameters

    def draw_latents(self, moments: Tensor, keys: Sequence[Key]) -> Tensor:
        """A keyed draw from the posterior, scaled as the U-Net expects. [B,2C,h,w] -> [B,C,h,w]"""
        mean, log_variance = moments.chunk(2, dim=1)
        spread = (0.5 * log_variance.clamp(-30, 20)).exp()
        latents = mean + spread * keyed_noise(mean, keys, "posterior")
        return latents * self.vae.config.scaling_factor

    def tokenize(self, caption: str) -> dict[str, Tensor]:
        """-> {encoder: int64 [K,77]}"""
        return {name: torch.tensor(tokenizer(caption).ids) for name, tokenizer in self.tokenizers.items()}

    def emphasis(self, caption: str) -> dict[str, Tensor] | None:
        """-> {encoder: float32 [K,77]}, or None if captions are not weighted"""
        weighted = {name: tokenizer for name, tokenizer in self.tokenizers.items() if tokenizer.weighted}
        return {name: torch.tensor(tokenizer(caption).weights) for name, tokenizer in weighted.items()} or None

    def enable_gradient_checkpointing(self) -> None:
        """Of the U-Net: the text side is under 2 % of a step."""
        self.unet.enable_gradient_checkpointing()

    def compile(self, backend: str) -> None:
        """torch.compile of the U-Net; on a CPU its upsamplers stay as they are.

        Compiled by inductor in bfloat16 there, they pass on gradients of zero (torch 2.13), and shapes that are left open
        do not compile.
        """
        on_cpu = self.device.type == "cpu"
        for block in self.unet.up_blocks if on_cpu else ():
            for upsampler in block.upsamplers or ():
                upsampler.forward = torch.compiler.disable(upsampler.forward)
        self.unet.compile(backend=backend, dynamic=False if on_cpu else None)


def weigh(text: Tensor, weights: Tensor | None, keep: Keep = "none") -> Tensor:
    """Each state times its weight; then all of them times one number, so that their mean, or mean size, stays.

    [B,S,D], [B,K,77] -> [B,S,D]
    """
    if weights is None:
        return text
    each = join_chunks(weights.flatten(0, 1)[..., None], weights.shape[1])  # [B,S,1]
    weighed = text * each.to(text.dtype)
    if keep == "none":
        return weighed
    size = Tensor.abs if keep == "abs" else Tensor.clone
    before, after = (size(t.float()).mean((1, 2), keepdim=True) for t in (text, weighed))  # [B,1,1]
    return weighed * (before / after).to(text.dtype)


Kind = TypeVar("Kind", bound=LatentDiffusion)


def load(
    kind: type[Kind], source: ModelSource, tokenizers: dict[str, WordTokenizer],
    device: torch.device, dtype: torch.dtype, clip_skip: int,
) -> Kind:  # fmt: skip
    """A model of this kind with its weights, one part on its device before the next is read. Its VAE, which overflows in fp16 (SDXL's), stays in float32. Raises ModelError."""
    quiet_libraries()
    parts = {}
    for part in loading_order(source):
        precision = torch.float32 if part == "vae" else dtype
        try:
            module = load_part(source.kinds[part], source.configs[part], source.weights[part], precision, device)
        except (ModelError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # damaged weights make the libraries fail in any way
            raise ModelError(
                f"its weights cannot be read ({first_line(error)})", source.name, "Is it complete?"
            ) from error
        parts[part] = on_device(module, device)
    encoders = {name: parts[name] for name in source.encoders}
    return kind(source, parts["unet"], parts["vae"], encoders, scheduler_of(source), tokenizers, clip_skip)


def loading_order(source: ModelSource) -> list[str]:
    """The largest part, the U-Net, first: it is there twice while it is cast. But last if a file is read as a whole for
    each part, as a pickle in the old serialisation is: then what is there already adds to all of it.
    """
    parts = list(source.kinds)
    mapped = all(stays_on_disk(file) for weights in source.weights.values() for file in weights.files)
    return parts if mapped else parts[::-1]


def quiet_libraries() -> None:
    """No progress bars, no advice."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def on_device(module: Any, device: torch.device) -> Any:
    """A CPU computes each sample alike, whatever the batch. Convolutions are faster with channels last there; in fp16,
    which it does not compute in, they stay in the mapped file.
    """
    if device.type == "cpu":
        make_alike(module)
    if device.type == "cpu" and module.dtype != torch.float16:
        return module.to(memory_format=torch.channels_last)
    return module.to(device)


def scheduler_of(source: ModelSource) -> Any:
    """The noise schedule that training steps through."""
    import diffusers

    parts: Any = diffusers
    try:
        return parts.DDPMScheduler.from_config(source.configs["scheduler"])
    except Exception as error:  # whatever stands in the config
        raise ModelError(
            f"its scheduler's config is odd ({first_line(error)})", source.name, "Fetch it again"
        ) from error
