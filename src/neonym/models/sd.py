"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a U-Net with cross-attention, a VAE with factor 8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neonym.errors import ModelError
from neonym.models import single_file
from neonym.models.family import BUILTIN_MODELS, ModelSource
from neonym.models.process import Diffusion, Key, keyed_noise
from neonym.models.text import EmbeddingWithRows, WordTokenizer, clip_hidden, join_chunks
from neonym.models.weights import read_header

ENCODER = "text_encoder"
TOKENIZER = BUILTIN_MODELS / "emoji" / "tokenizer"  # CLIP's whole vocabulary
GUIDANCE = 7.5
WORD_SPREAD = 0.0133  # of CLIP ViT-L's vocabulary; a model folder may say its own in neonym.json


def recognise(name: str, folder: Path, configs: dict[str, dict[str, Any]]) -> ModelSource | None:
    """One text encoder of CLIP's kind and a four-channel U-Net with text cross-attention; else None."""
    unet, text = configs.get("unet", {}), configs.get(ENCODER, {})
    single = "text_encoder_2" not in configs and unet.get("addition_embed_type") is None
    prediction_type = configs.get("scheduler", {}).get("prediction_type", "epsilon")
    if unet.get("_class_name") != "UNet2DConditionModel" or not single or text.get("model_type") != "clip_text_model":
        return None
    if unet.get("in_channels", 4) != 4 or prediction_type not in ("epsilon", "v_prediction"):
        return None
    return ModelSource(
        name=name,
        folder=folder,
        module=__name__,
        family="sd2" if text.get("hidden_size") == 1024 else "sd1",
        configs=configs,
        native_size=8 * int(unet.get("sample_size") or 64),
        prediction_type=prediction_type,
        text_layers=int(text.get("num_hidden_layers", 12)),
        guidance=float(configs.get("neonym", {}).get("guidance", GUIDANCE)),
        word_spread=float(configs.get("neonym", {}).get("word_spread", WORD_SPREAD)),
    )


def load_tokenizers(source: ModelSource, max_token_length: int) -> dict[str, WordTokenizer]:
    """The one tokenizer, under the encoder's name. A single file has none of its own: the package's is CLIP's."""
    from transformers import CLIPTokenizer

    folder = source.folder / "tokenizer"
    more: dict[str, Any] = {}
    if source.file is not None:
        folder = TOKENIZER
        more = {"pad_token": "!"} if source.configs[ENCODER].get("pad_token_id") == 0 else {}
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True, **more)
    except (OSError, ValueError) as error:
        raise ModelError(f"its tokenizer cannot be read ({error})", source.name) from error
    vocab = int(source.configs[ENCODER]["vocab_size"])
    return {ENCODER: WordTokenizer(tokenizer, vocab, chunks=max_token_length // 75)}


class StableDiffusion:
    """A frozen SD 1.x/2.x with learned rows beside its token table."""

    def __init__(
        self, source: ModelSource, unet: Any, vae: Any, text_encoder: Any, scheduler: Any,
        tokenizers: dict[str, WordTokenizer], clip_skip: int,
    ):  # fmt: skip
        self.source, self.clip_skip, self.tokenizers = source, clip_skip, tokenizers
        self.unet, self.vae, self.text_encoder, self.scheduler = unet, vae, text_encoder, scheduler
        self.process = Diffusion(scheduler.alphas_cumprod.float(), scheduler.config.prediction_type)
        for module in self.modules().values():
            module.requires_grad_(False).eval()
        self.table = EmbeddingWithRows(text_encoder.get_input_embeddings())
        text_encoder.set_input_embeddings(self.table)

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def modules(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "vae": self.vae, ENCODER: self.text_encoder}

    def vocabulary(self, encoder: str) -> Tensor:
        """The frozen token table. -> [V,W]"""
        assert encoder == ENCODER
        return self.table.frozen.weight

    def add_word(self, token: str, rows: dict[str, Tensor]) -> None:
        """Let `token` read `rows` ({encoder: float32 [n,W]}), now and as they change."""
        self.tokenizers[ENCODER].add_word(token, len(rows[ENCODER]))
        self.table.rows.append(rows[ENCODER])

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
        return {ENCODER: self.tokenizers[ENCODER](caption).ids}

    def emphasis(self, caption: str) -> dict[str, Tensor] | None:
        """-> {encoder: float32 [K,77]}, or None if captions are not weighted"""
        tokenizer = self.tokenizers[ENCODER]
        return {ENCODER: tokenizer(caption).weights} if tokenizer.weighted else None

    def encode_text(self, tokens: dict[str, Tensor], emphasis: dict[str, Tensor] | None = None) -> Tensor:
        """The only way from ids to the rows. {encoder: [B,K,77]} -> [B,S,D], each state times its weight"""
        ids = tokens[ENCODER]
        hidden = clip_hidden(self.text_encoder, ids.flatten(0, 1), self.clip_skip)  # [B*K,77,D]
        if emphasis is not None:
            hidden = hidden * emphasis[ENCODER].flatten(0, 1)[..., None].to(hidden.dtype)
        return join_chunks(hidden, ids.shape[1])

    def denoise(self, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """The U-Net's prediction, in float32. -> [B,C,h,w]"""
        return self.unet(x_t.to(self.unet.dtype), t, text.to(self.unet.dtype)).sample.float()

    def enable_gradient_checkpointing(self) -> None:
        """Of the U-Net: the text side is under 2 % of a step."""
        self.unet.enable_gradient_checkpointing()


def load(
    source: ModelSource, device: torch.device, dtype: torch.dtype, max_token_length: int, clip_skip: int
) -> StableDiffusion:
    """Read the weights. The VAE stays in float32. Raises ModelError."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    parts: Any = diffusers
    try:
        unet, text_encoder = load_from_file(source, dtype) if source.file else load_from_folder(source, dtype)
        vae = load_vae(source)
        scheduler = parts.DDPMScheduler.from_config(source.configs["scheduler"])
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"its weights cannot be read ({error})", source.name, "Is it complete?") from error
    if device.type == "cpu":
        unet, vae = unet.to(memory_format=torch.channels_last), vae.to(memory_format=torch.channels_last)
    tokenizers = load_tokenizers(source, max_token_length)
    return StableDiffusion(
        source, unet.to(device), vae.to(device), text_encoder.to(device), scheduler, tokenizers, clip_skip
    )


def load_from_folder(source: ModelSource, dtype: torch.dtype) -> tuple[Any, Any]:
    """-> (U-Net, text encoder)"""
    import diffusers
    import transformers

    parts: Any = diffusers
    options = {"dtype": dtype, "local_files_only": True, "variant": source.variant}
    unet = parts.UNet2DConditionModel.from_pretrained(source.folder, subfolder="unet", **options)
    parts = transformers
    return unet, parts.CLIPTextModel.from_pretrained(source.folder, subfolder=ENCODER, **options)


def load_from_file(source: ModelSource, dtype: torch.dtype) -> tuple[Any, Any]:
    """-> (U-Net, text encoder). Raises ModelError."""
    assert source.file is not None
    unet = single_file.load_unet(source.file, source.configs["unet"], dtype)
    return unet, single_file.load_text_encoder(source.file, source.configs[ENCODER], dtype)


def load_vae(source: ModelSource) -> Any:
    """The model's VAE, or the one that the user named instead, in float32. Raises ModelError."""
    import diffusers

    parts: Any = diffusers
    own = source.vae or source.file
    if own is None or own.is_dir():
        folder = own or source.folder / "vae"
        variant = source.variant if own is None else None
        return parts.AutoencoderKL.from_pretrained(folder, dtype=torch.float32, local_files_only=True, variant=variant)
    header = read_header(own)
    start = single_file.VAE if header.has(single_file.VAE) else ""
    if not header.has(f"{start}encoder.down."):
        raise ModelError("holds no VAE", str(own), "Name a VAE with --vae, or leave it out")
    return single_file.load_vae(own, single_file.vae_config(header, start), start)
