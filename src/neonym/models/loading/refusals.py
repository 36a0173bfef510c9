"""Say why a file cannot be the model to learn words for: a LoRA, a lone part, a transformer that is not supported."""

from __future__ import annotations

from neonym.errors import ModelError
from neonym.models.families.signatures import SIGNATURES
from neonym.models.loading.file_roles import FileFacts
from neonym.models.registry import family_of_file, supported
from neonym.models.signatures import BY_USER, Assumed, Refusal

OF_MODEL = "Name the model that it belongs to"
LABELS = {signature.family: signature.label for signature in SIGNATURES}


def refuse_version(version: str | None, assumed: Assumed | None, label: str, name: str) -> None:
    """Raise ModelError if the version that the user names is none of those that a model can be, or is refused."""
    if version is None or assumed is None:
        return
    if assumed.reason != BY_USER:
        *first, last = assumed.names
        what, fix = f"there is no such version of {label}", f"Choose {', '.join(first)} or {last}"
        raise ModelError(what, f"--model_version {version}", fix)
    if assumed.choice.refused is not None:
        raise refusal_error(assumed.choice.refused, name, assumed.reason)


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
        is_assumed = facts.assumed is not None and facts.assumed.choice.refused is refusal
        raise refusal_error(refusal, name, facts.assumed.reason if facts.assumed and is_assumed else "")
    if facts.signature is not None and family_of_file(facts.family, facts.variant) is None:
        what = f"is a {facts.signature.label} transformer, for which words cannot be learned yet"
        raise ModelError(what, name, f"Words can be learned for {supported()}")


def refusal_error(refusal: Refusal, name: str, reason: str) -> ModelError:
    """Return the error about a model that is refused; `reason` is why it is taken for that one, if it is assumed."""
    why = f" ({reason})" if reason else ""
    return ModelError(f"{refusal.what}{why}", name, refusal.fix or f"Words can be learned for {supported()}")
