"""Helpers that run commands as users type them, and read the images that they write."""

import json
import re

import numpy as np
from PIL import Image

from neonym.cli.main import main

SMALL = ("--steps", "2", "--W", "64", "--H", "64", "--seed", "5")  # an image that takes little time


def caption(*words) -> int:
    """Run `neonym caption ...`, and return its exit code."""
    return main(["caption", *map(str, words)])


def pixels(image):
    """Return the pixels of an image as integers, [H,W,C]."""
    return np.asarray(image).astype(int)


def generate(tmp_path, *argv, code=0):
    """Run `neonym generate ...`, and return the files that it wrote, sorted by name."""
    out = tmp_path / "images"
    before = set(out.rglob("*")) if out.exists() else set()
    assert main(["generate", "--outdir", str(out), *map(str, argv)]) == code
    return sorted(p for p in set(out.rglob("*")) - before if p.is_file()) if out.exists() else []


def shown(file):
    """Return the image of a file, which is closed."""
    with Image.open(file) as image:
        image.load()
        return image


def read_parameters(text):
    """Parse a block of generation parameters as AUTOMATIC1111 does: prompt, negative prompt, `Name: value` pairs."""
    pair = r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)'
    *lines, last = text.strip().split("\n")
    if len(re.findall(pair, last)) < 3:
        lines, last = [*lines, last], ""
    texts, now = {"prompt": [], "negative": []}, "prompt"
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            now, line = "negative", line.removeprefix("Negative prompt:").strip()
        texts[now].append(line)
    values = {name: json.loads(value) if value.startswith('"') else value for name, value in re.findall(pair, last)}
    return "\n".join(texts["prompt"]), "\n".join(texts["negative"]), values
