"""Settings of what a run computes with: precision, memory and speed, and the cache of encoded images."""

from typing import Literal

from neonym.config.schema import Section, setting

Precision = Literal["auto", "bf16", "fp8", "int8", "nf4"]


class ComputeSettings(Section):
    """The settings of precision, memory and speed."""

    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = setting(
        "auto",
        "The precision of the frozen model and its arithmetic; the word is always float32. auto: on a CUDA device what "
        "the model suggests, bf16 for Stable Diffusion, or, without bf16, fp16 and for 2.x float32; bf16 on a CPU with "
        "units for it; else float32, as for the built-in model.",
    )
    fit: Literal["auto", "off"] = setting(
        "auto",
        "Whether settings are chosen so that a step fits a GPU, by an estimate of the memory that it needs: the next five, if "
        "none of them is given, and --micro_batch_size, if it is not given. Precision depends on the memory that the GPU has, "
        "all else on what is free. For models with a U-Net, nothing is chosen on a CPU.",
    )
    base_precision: Precision = setting(
        "auto",
        "How the denoiser's frozen weights are kept: fp8 and int8 (8 bits) and nf4 (4 bits) are slightly less exact, "
        "and slower; bf16 is the precision of --mixed_precision.",
    )
    encoder_precision: Precision = setting(
        "auto",
        "The same for T5 and language models as text encoders (default: as --base_precision). CLIP and the tables of "
        "all tokens are never quantized.",
    )
    gradient_checkpointing: bool = setting(
        False,
        "Recompute the activations of the denoiser, and of T5 and language models, to save memory; a step then takes "
        "about 50 % longer.",
    )
    blocks_to_swap: int | None = setting(
        None,
        "How many blocks of the denoiser wait in the memory of the CPU and are copied to the device when they are "
        "used (default: 0). This adds --gradient_checkpointing.",
        least=0,
    )
    cache_text_encoder_outputs: bool = setting(
        False,
        "Let T5 wait in the memory of the CPU if it learns nothing (FLUX.1 and Stable Diffusion 3 with --train_encoders), "
        "and keep its states of each caption. Captions that change in every step make this slow.",
    )
    xformers: bool = setting(False, "Accepted from sd-scripts: PyTorch's own attention is used, with the same result.")
    sdpa: bool = setting(False, "PyTorch's scaled dot-product attention; always on.")
    mem_eff_attn: bool = setting(False, "Accepted from sd-scripts: PyTorch's own attention saves memory already.")
    micro_batch_size: int | None = setting(
        None,
        "The largest number of samples that go through the model at once (default: the batch size, or as many as --fit finds "
        "to fit a GPU). It only changes how much memory is used.",
        least=1,
    )
    lanes: int | None = setting(
        None,
        "How many words learn at the same time if there are several (default: as many as fill a micro-batch, whose size "
        "the memory of the device decides, measured with the first word). It does not change what they learn.",
        least=1,
    )
    torch_compile: bool = setting(
        False,
        "Compile the blocks of the denoiser with torch.compile: the first steps are slower, all others faster. What was "
        "compiled is kept on disk for the next run.",
    )
    dynamo_backend: str = setting("inductor", "The backend of torch_compile.")
    cuda_graphs: Literal["auto", "off"] = setting(
        "auto",
        "Record the kernels of a step once for each shape of a micro-batch, and replay them on a CUDA device, which saves "
        "the host the time of launching each. What cannot be recorded runs without.",
    )
    deterministic: bool = setting(
        False,
        "Let a GPU compute each step in the same order, so that the same command gives the same word, bit for bit, and a "
        "resumed run too, as always on a CPU. Steps take longer.",
    )
    ddp_timeout: int | None = setting(
        None,
        "How many minutes processes wait for each other (default: 10, or 120 with sample images).",
        least=0,
        most=1_000_000,
    )
    cpu: bool = setting(False, "Use the CPU even if there is a GPU.")


class CacheSettings(Section):
    """The settings of the cache of encoded images."""

    cache_latents: bool = setting(False, "Accepted from sd-scripts: images are always encoded once, before training.")
    cache_latents_to_disk: bool = setting(False, "Keep the encoded images on disk for the next run.")
    latent_cache_dir: str | None = setting(
        None, "The folder for encoded images (default: `neonym` in the user's cache folder)."
    )
