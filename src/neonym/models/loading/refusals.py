"""Say why a file cannot be the model to learn words for: a LoRA, a lone part, a transformer that is not supported."""

from __future__ import annotations

from neonym.errors import ModelError
from neonym.models.families.signatures import SIGNATURES
from neonym.models.loading.file_roles import FileFacts
from neonym.models.registry import family_of_file, supported

OF_MODEL = "Name the model that it belongs to"
LABELS = {signature.family: signature.label for signature in SIGNATURES}


def refuse(facts: FileFacts, name: str) -> None:
    """Raise ModelError if a file is known to be something for which no words can be learned."""
    if facts.role == "lora":
        label = f" for {LABELS[facts.family]}" if facts.family in LABELS else ""
        raise ModelError(f"is a LoRA{label}, not a model", name, OF_MODEL)
    if facts.role == "text_encoder":
        fix = "Pass it with --text_encoders, together with a transformer"
        raise ModelError(f"is a text encoder alone ({facts.variant})", name, fix)
    if facts.role == "vae":
        raise ModelError(f"is a VAE alone ({facts.variant})", name, "Pass it with --vae, together with a model")
    if refusal := facts.refusal:
        why = f" ({facts.assumed.reason})" if facts.assumed and facts.assumed.choice.refused is refusal else ""
        raise ModelError(f"{refusal.what}{why}", name, refusal.fix or f"Words can be learned for {supported()}")
    if facts.signature is not None and family_of_file(facts.family, facts.variant) is None:
        what = f"is a {facts.signature.label} transformer, for which words cannot be learned yet"
        raise ModelError(what, name, f"Words can be learned for {supported()}")
