"""Which family a model belongs to, by its configs. Needs no torch: a family's own file, which computes with it, is imported later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neonym.errors import ModelError, Problem
from neonym.models.defaults import PUBLISHED_SPREAD
from neonym.models.loading import single_file
from neonym.models.loading.unsupported import SUPPORTED, UNET_KIND, refiner, refuse_channels
from neonym.models.source import ModelSource

Configs = dict[str, dict[str, Any]]  # per component

OTHER_SCHEDULES = ("EDM", "FlowMatch")  # how their names in diffusers begin: Playground 2.5, CosXL, rectified flows
FIRST, SECOND = "text_encoder", "text_encoder_2"  # of SDXL: CLIP ViT-L, OpenCLIP ViT-bigG
GUIDANCE, XL_GUIDANCE = 7.5, 7.0


def stable_diffusion(name: str, folder: Path, configs: Configs) -> ModelSource | None:
    """1.x and 2.x: one text encoder of CLIP's kind and a four-channel U-Net with text cross-attention; else None."""
    unet, text, own = configs.get("unet", {}), configs.get(FIRST, {}), configs.get("neonym", {})
    told_more = any(unet.get(n) is not None for n in ("addition_embed_type", "class_embed_type", "num_class_embeds"))
    single = SECOND not in configs and not told_more  # unCLIP is told a picture
    if not draws_from_noise(configs) or not single or text.get("model_type") != "clip_text_model":
        return None
    return ModelSource(
        name=name,
        folder=folder,
        module="neonym.models.families.stable_diffusion",
        family="sd2" if text.get("hidden_size") == 1024 or text.get("hidden_act") == "gelu" else "sd1",  # OpenCLIP's
        configs=configs,
        native_size=8 * int(unet.get("sample_size") or 64),
        prediction_type=prediction_type(configs),
        prediction_from=prediction_from(configs),
        text_kinds={FIRST: "CLIPTextModel"},
        text_layers=int(text.get("num_hidden_layers", 12)),
        guidance=float(own.get("guidance", GUIDANCE)),
        word_spread=spread_said(configs),
    )


def stable_diffusion_xl(name: str, folder: Path, configs: Configs) -> ModelSource | None:
    """Two text encoders of CLIP's kind and a four-channel U-Net that is told text and sizes; else None."""
    unet, both = configs.get("unet", {}), all(encoder in configs for encoder in (FIRST, SECOND))
    if not draws_from_noise(configs) or not both or unet.get("addition_embed_type") != "text_time":
        return None
    return ModelSource(
        name=name,
        folder=folder,
        module="neonym.models.families.sdxl",
        family="sdxl",
        configs=configs,
        native_size=8 * int(unet.get("sample_size") or 128),
        prediction_type=prediction_type(configs),
        prediction_from=prediction_from(configs),
        text_kinds={FIRST: "CLIPTextModel", SECOND: "CLIPTextModelWithProjection"},
        text_layers=int(configs[FIRST].get("num_hidden_layers", 12)),
        guidance=float(configs.get("neonym", {}).get("guidance", XL_GUIDANCE)),
        unread_padding=(SECOND,),
        word_spread=spread_said(configs),
    )


def spread_said(configs: Configs) -> float:
    """Return the spread of the vocabulary that the model's neonym.json says, CLIP ViT-L's otherwise. Raises ValueError."""
    spread = float(configs.get("neonym", {}).get("word_spread", PUBLISHED_SPREAD))
    if not 0 < spread < float("inf"):
        raise ValueError(f"neonym.json: `word_spread` cannot be {spread}")
    return spread


def draws_from_noise(configs: Configs) -> bool:
    """Whether its U-Net is given a noised latent and nothing beside it, and predicts noise or v."""
    unet = configs.get("unet", {})
    known = unet.get("_class_name") == UNET_KIND and unet.get("in_channels", 4) == 4
    return known and prediction_type(configs) in ("epsilon", "v_prediction")


def prediction_type(configs: Configs) -> str:
    return configs.get("scheduler", {}).get("prediction_type", "epsilon")


def prediction_from(configs: Configs) -> str:
    """What says the prediction type, empty if nothing does."""
    return str(configs["said"]["prediction"]) if "said" in configs else "its scheduler's config"


def as_told(configs: Configs, v_parameterization: bool | None) -> Configs:
    """A scheduler's config that does not say what is predicted says what the user says."""
    scheduler = configs.get("scheduler", {})
    if v_parameterization and "prediction_type" not in scheduler:
        return {
            **configs,
            "scheduler": {**scheduler, "prediction_type": "v_prediction"},
            "said": {"prediction": single_file.BY_USER},
        }
    return configs


def recognised(name: str, folder: Path, configs: Configs) -> ModelSource:
    """By the first family that knows it. Raises ModelError."""
    refuse_relatives(name, configs)
    for family in (stable_diffusion, stable_diffusion_xl):
        try:
            source = family(name, folder, configs)
            if source is not None:
                _ = source.defaults  # a neonym.json may say what no setting can be
        except (TypeError, ValueError) as error:
            raise ModelError(f"its configs are odd ({error})", name, "Fetch them again") from error
        if source is not None:
            if "scheduler" not in configs:
                raise ModelError("scheduler/scheduler_config.json is missing", name, "Is the folder complete?")
            schedule = str(configs["scheduler"].get("_class_name", ""))
            if schedule.startswith(OTHER_SCHEDULES):
                raise ModelError(f"was made for another noise schedule ({schedule})", name, SUPPORTED)
            return source
    kind = str(configs.get("model_index", {}).get("_class_name") or "a model without a name")
    what = f"is a {kind}, of no family that is supported yet (text-to-image Stable Diffusion 1.x, 2.x and XL are)"
    raise ModelError(what, name)


def refuse_relatives(name: str, configs: Configs) -> None:
    """What belongs to a family, but draws no pictures from text alone. Raises ModelError."""
    unet = configs.get("unet", {})
    if unet.get("_class_name") == UNET_KIND:
        refuse_channels(unet.get("in_channels", 4), name)
    if unet.get("addition_embed_type") == "text_time" and SECOND in configs and FIRST not in configs:
        raise refiner(name)


def source_notes(source: ModelSource) -> Iterator[Problem]:
    """What is said of a model that does not say itself whether it predicts noise or v, and of a variant of a file."""
    if source.variant is not None and source.file is not None:
        yield Problem("warning", "a checkpoint file has no variants: it has no effect", f"--variant {source.variant}")
    silent = "it does not say whether it predicts noise or v"
    if source.prediction_from == single_file.BY_USER:
        yield Problem("note", f"{silent}: v, as --v_parameterization says", source.name)
    if source.family == "sd2" and not source.prediction_from:
        fix = "If it is a 768-v model, give --v_parameterization"
        yield Problem("warning", f"{silent}; it is taken to predict noise", source.name, fix)
