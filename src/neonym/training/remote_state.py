"""Run states on the Hugging Face Hub, from which `--resume_from_huggingface` continues."""

from __future__ import annotations

from pathlib import Path

from neonym.config.output_settings import HubSettings
from neonym.errors import UserError


def fetch_state(text: str, settings: HubSettings, file: str) -> Path:
    """Download `file` of a state folder, and return the folder in the hub's cache. Raises UserError.

    `text` is `owner/repo/path`, optionally followed by `:revision` and `:repository type`.
    """
    from huggingface_hub import hf_hub_download

    place, revision, kind = [*text.split(":"), "", ""][:3]
    owner, _, rest = place.partition("/")
    name, _, folder = rest.partition("/")
    try:
        found = hf_hub_download(
            f"{owner}/{name}", f"{folder}/{file}" if folder else file, revision=revision or None,
            repo_type=kind or None, token=settings.huggingface_token,
        )  # fmt: skip
    except Exception as error:  # the library's, its HTTP library's, the system's
        fix = "Write owner/repo/folder, or owner/repo/folder:revision"
        raise UserError(f"the state cannot be downloaded ({error})", f"--resume {text}", fix) from error
    return Path(found).parent
