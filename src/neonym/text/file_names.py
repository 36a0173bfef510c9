"""Warn about names of embedding files, which most programs use as the word."""

from __future__ import annotations

import re


def name_warnings(name: str, vectors: int) -> list[str]:
    """Return warnings about programs that cannot use a word of this name with this number of vectors."""
    warnings = []
    if name != name.lower() and vectors > 1:
        warnings.append("diffusers loses all but the first vector of a word with capital letters")
    if any(c.isspace() for c in name):
        warnings.append("ComfyUI cannot use a name with spaces")
    if set(name) & set("<>[]()"):
        warnings.append("ComfyUI ends names at brackets, and in prompts brackets mean emphasis")
    if not re.fullmatch(r"[A-Za-z0-9., _-]*", name):
        warnings.append("InvokeAI accepts only ASCII letters, digits, spaces and . , _ - in names")
    elif "," in name:
        warnings.append("InvokeAI splits prompts at commas, so it does not find a name with a comma")
    if re.search(r'[<>:"/\\|?*\x00-\x1f]|[. ]$', name) or re.fullmatch(
        r"(?i)(con|nul|aux|prn|com\d|lpt\d)(\..*)?", name
    ):
        warnings.append("Windows does not allow this file name")
    if name.startswith("."):
        warnings.append("files whose names start with a dot are hidden")
    return warnings
