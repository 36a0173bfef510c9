"""Tell what a file of weights is from its header: its role, its family, and how its numbers are stored.

Nothing is read but the header. This module does not need torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from neonym.models.families.signatures import LORA_SIGNATURES, SIGNATURES
from neonym.models.loading.encoder_files import EncoderFacts, VaeFacts, encoder_in, vae_in
from neonym.models.loading.gguf_names import library_names
from neonym.models.loading.header import Header, Part
from neonym.models.loading.prefixes import DENOISERS, ENCODERS, VAES
from neonym.models.signatures import Assumed, LoraLayer, Naming, Quant, Refusal, Role, Signature, assume

LORA = re.compile(
    r"(?P<layer>.+?)[._](?P<leaf>lora_down|lora_up|lora_A|lora_B|lora\.down|lora\.up)(?:\.default)?\.weight"
)
LORA_STARTS = ("lora_unet_", "lora_transformer_", "transformer_", "diffusion_model_", "base_model_model_", "lycoris_")
OTHER_LORA = re.compile(r"lora_|\.lora[_.]|hada_w|lokr_w|(?:^|\.)oft_|dora_scale|bundle_emb\.")
DOWN = ("lora_down", "lora_A", "lora.down")
METADATA_QUANT = "_quantization_metadata"
SCALE_OLD, SCALE_NEW = ".scale_weight", ".weight_scale"
NF4 = ".quant_state."


@dataclass(frozen=True)
class FileFacts:
    """A frozen record of what a file of weights is."""

    role: Role
    family: str | None = None  # None: the file alone does not tell
    variant: str | None = None  # what the shapes tell; for an encoder or a VAE, its kind
    naming: Naming = "original"
    quant: Quant | None = None  # of the transformer, or of the only part; None: plain numbers
    prefix: str = ""  # of the transformer, or of the only part
    signature: Signature | None = None  # of the transformer
    encoders: Mapping[str, EncoderFacts] = field(default_factory=dict)  # prefix -> text encoder
    vae: VaeFacts | None = None
    assumed: Assumed | None = None  # which of several models of the same shapes

    @property
    def text_encoders(self) -> bool:
        """Whether the file has text encoders."""
        return bool(self.encoders)

    @property
    def refusal(self) -> Refusal | None:
        """Why words cannot be learned for this transformer, whatever the program supports; None if they may be."""
        if self.signature is None:
            return None
        chosen = self.assumed.choice.refused if self.assumed is not None else None
        return self.signature.refused.get(self.variant or "") or chosen or self.signature.unsupported


@dataclass(frozen=True)
class Scan:
    """A record of what one pass over the names of a file finds."""

    lora: Mapping[str, LoraLayer]  # layer, with `_` for every dot -> its sides; empty for anything but a LoRA
    other_lora: bool  # LoHa, LoKr, OFT
    encoders: tuple[str, ...]  # prefixes of text encoders


def facts_of(header: Header, file_name: str = "", version: str | None = None) -> FileFacts:
    """Return what the header of a file tells.

    The name of the file, and the `version` that the user gives, are asked only for what shapes cannot tell.
    """
    header = with_library_names(header)
    scan = scanned(header)
    if scan.lora or scan.other_lora:
        return lora_facts(scan)
    encoders = {start: own for start in scan.encoders if (own := encoder_in(Part(header, start))) is not None}
    vae = next((kl for start in VAES if (kl := vae_in(Part(header, start))) is not None), None)
    found = transformer_in(header)
    if found is None:
        return part_facts(header, encoders, vae)
    signature, part = found
    variant = told_variant(signature, part)
    role: Role = "model" if signature.role == "transformer" and (vae or encoders) else signature.role
    choices = signature.choices_of(variant)
    assumed = assume(choices, header.metadata, file_name, version) if choices else None
    quant = quant_of(header, part.prefix)
    return FileFacts(
        role, signature.family, variant, signature.naming, quant, part.prefix, signature, encoders, vae, assumed
    )


def with_library_names(header: Header) -> Header:
    """Return a header in which text encoders of GGUF files have their names in transformers."""
    if header.container != "gguf":
        return header
    names = library_names(header.shapes)
    shapes = {names[name]: shape for name, shape in header.shapes.items()}
    return replace(header, shapes=shapes, dtypes={names[name]: kind for name, kind in header.dtypes.items()})


def transformer_in(header: Header) -> tuple[Signature, Part] | None:
    """Return the signature of the transformer in a file, and its tensors; None if there is none that is known."""
    for prefix in DENOISERS:
        part = Part(header, prefix)
        for signature in SIGNATURES:
            if signature.recognises(part):
                return signature, part
    return None


def told_variant(signature: Signature, part: Part) -> str | None:
    """Return what the shapes tell about the variant, or None for an incomplete file."""
    try:
        return signature.variant(part)
    except (KeyError, IndexError, ValueError):
        return None


def part_facts(header: Header, encoders: Mapping[str, EncoderFacts], vae: VaeFacts | None) -> FileFacts:
    """Return what a file without a known transformer is."""
    quant = quant_of(header, "")
    if vae is not None and not encoders and all(name.startswith(vae.prefix) for name in header.shapes):
        return FileFacts("vae", None, vae.kind, vae.naming, quant, vae.prefix, vae=vae)
    own = encoders.get("") or encoder_in(Part(header)) or next(iter(encoders.values()), None)
    if own is not None and vae is None:
        return FileFacts(
            "text_encoder", None, own.kind or own.architecture, "original", quant, own.prefix, None, {own.prefix: own}
        )
    return FileFacts("other", quant=quant, encoders=encoders, vae=vae)


def scanned(header: Header) -> Scan:
    """Return what one pass over the names finds."""
    rows: dict[str, int] = {}
    columns: dict[str, int] = {}
    other, encoders = False, set()
    for name, shape in header.shapes.items():
        if name.startswith(ENCODERS):
            encoders.add(encoder_prefix(name))
        elif "lora" in name and (match := LORA.fullmatch(name)) and len(shape) > 1:
            layer, down = match["layer"].replace(".", "_"), match["leaf"] in DOWN
            (columns if down else rows)[layer] = shape[1] if down else shape[0]
        elif not other:
            other = OTHER_LORA.search(name) is not None
    layers = {layer: LoraLayer(rows.get(layer), columns.get(layer)) for layer in {**columns, **rows}}
    return Scan(layers, other, tuple(sorted(encoders)))


def encoder_prefix(name: str) -> str:
    """Return the prefix of the text encoder that a weight of a whole model belongs to."""
    kind, inner, rest = name.removeprefix(ENCODERS).partition(".transformer.")
    return f"{ENCODERS}{kind}{inner}" if rest else f"{ENCODERS}{kind.partition('.')[0]}."


def lora_facts(scan: Scan) -> FileFacts:
    """Return which family a LoRA is for."""
    layers = {without_start(layer): own for layer, own in scan.lora.items()}
    for signature in LORA_SIGNATURES:
        pattern = re.compile(signature.layer)
        for name, layer in layers.items():
            if pattern.match(name) and signature.fits(layer):
                return FileFacts("lora", signature.family, signature.variant(layers))
    return FileFacts("lora")


def without_start(layer: str) -> str:
    """Return the name of a layer without what trainers put in front."""
    for start in LORA_STARTS:
        layer = layer.removeprefix(start)
    return layer


def quant_of(header: Header, prefix: str) -> Quant | None:
    """Return how the numbers under a prefix are stored: None for plain ones."""
    if header.container == "gguf":
        return "gguf"
    if METADATA_QUANT in header.metadata:
        return "comfy_quant"
    eight = False
    for name in header.shapes:
        if not name.startswith(prefix):
            continue
        if NF4 in name:
            return "bnb_nf4"
        if name.endswith((SCALE_OLD, "scaled_fp8")):
            return "fp8_scaled_old"
        if name.endswith((SCALE_NEW, ".comfy_quant")):
            return "comfy_quant"
        eight = eight or header.dtypes.get(name, "").startswith("F8")
    return "fp8" if eight else None
