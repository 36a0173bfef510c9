"""Commands as users type them, and the images that they write."""

import json
import re

import numpy as np
from PIL import Image

from neonym.cli.main import main

SMALL = ("--steps", "2", "--W", "64", "--H", "64", "--seed", "5")  # an image that is quickly drawn


def caption(*words) -> int:
    """`neonym caption ...`. -> exit code"""
    return main(["caption", *map(str, words)])


def pixels(image):
    return np.asarray(image).astype(int)


def generate(tmp_path, *argv, code=0):
    """-> the image files, in the order of their making"""
    out = tmp_path / "images"
    before = set(out.rglob("*")) if out.exists() else set()
    assert main(["generate", "--outdir", str(out), *map(str, argv)]) == code
    return sorted(p for p in set(out.rglob("*")) - before if p.is_file()) if out.exists() else []


def shown(file):
    """The image, read and closed."""
    with Image.open(file) as image:
        image.load()
        return image


def read_parameters(text):
    """AUTOMATIC1111's block, read by its rules: -> prompt, negative prompt, `Name: value` pairs"""
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
