"""Warn about names of embedding files, which nearly all programs use as the word."""

from __future__ import annotations

import re


def name_warnings(name: str, vectors: int) -> list[str]:
    """Return warnings about what programs cannot do with a word of this name and number of vectors."""
    warnings = []
    if name != name.lower() and vectors > 1:
        warnings.append("diffusers loses all but the first vector of a name with capitals")
    if any(c.isspace() for c in name):
        warnings.append("ComfyUI cannot use a name with blanks")
    if set(name) & set("<>[]()"):
        warnings.append("ComfyUI cuts names at brackets, and in prompts they are weights")
    if not re.fullmatch(r"[A-Za-z0-9., _-]*", name):
        warnings.append("InvokeAI takes names of ASCII letters, digits, blanks and . , _ - only")
    elif "," in name:
        warnings.append("InvokeAI splits prompts at commas, and does not find a name with one")
    if re.search(r'[<>:"/\\|?*\x00-\x1f]|[. ]$', name) or re.fullmatch(
        r"(?i)(con|nul|aux|prn|com\d|lpt\d)(\..*)?", name
    ):
        warnings.append("Windows has no files of such a name")
    if name.startswith("."):
        warnings.append("files whose names begin with a dot are hidden")
    return warnings
