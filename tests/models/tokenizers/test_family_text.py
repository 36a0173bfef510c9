"""Verify the ids and masks of each family: those of diffusers' own pipelines, and those of ComfyUI.

Each case of the golden files is a test, so that other files of the same kind can take their place. The packaged
tokenizers are read.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import chain

import pytest

from neonym.models.families import anima, chroma, flux, flux2, sd3, z_image
from neonym.models.family import EncoderSpec, SequenceSpec
from neonym.models.tokenizers.clip import ClipWordTokenizer
from neonym.models.tokenizers.comfyui import embedding_file, read
from neonym.models.tokenizers.loading import tokenizer_for
from neonym.models.tokenizers.sequence import SequenceWordTokenizer
from neonym.models.tokenizers.word_tokenizer import Layout, WordTokenizer
from support.golden import golden

TURN = "<|im_start|>{}\n{}<|im_end|>\n"
ANSWER = "<|im_end|>\n<|im_start|>assistant\n"


def causal(max_length: int, system: str, **layout) -> tuple[EncoderSpec, ...]:
    """Return the text encoder of a family that is not built yet."""
    start = TURN.format("system", system) + "<|im_start|>user\n"
    spec = SequenceSpec(template=(start, ANSWER), masked=True, brackets="text", **layout)
    return (EncoderSpec("text_encoder", "", "", kind="causal_lm", max_length=max_length, layout=spec),)


def pixart(max_length: int) -> tuple[EncoderSpec, ...]:
    layout = SequenceSpec(masked=True, lower_case=True)
    return (EncoderSpec("text_encoder", "T5EncoderModel", "t5xxl", kind="t5", max_length=max_length, layout=layout),)


KREA2 = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the objects "
    "and background:"
)
FAMILIES = {
    "flux": flux.ENCODERS, "chroma": chroma.ENCODERS, "sd3": sd3.ENCODERS, "zimage": z_image.ENCODERS,
    "klein": (flux2.QWEN,), "klein4b": (flux2.QWEN,), "klein9b": (flux2.QWEN_LARGE,), "flux2_dev": (flux2.MISTRAL,),
    "anima": (*anima.ENCODERS, *anima.ID_READERS),
    # not built yet
    "pixart_alpha": pixart(120), "pixart_sigma": pixart(300), "krea2": causal(546, KREA2, suffix_last=True),
    "qwen_image_21": causal(
        0, "Comprehend and analyze the provided prompt.", full_length=False, padded="left", empty=" "
    ),
}  # fmt: skip
KEYS = {"clip_l": "l", "clip_g": "g"}  # key in files -> key in ComfyUI's dict


@cache
def tokenizers(family: str) -> dict[str, WordTokenizer]:
    """Return the tokenizers of a family without new words."""
    configs = {spec.name: {"vocab_size": 49408} for spec in FAMILIES[family] if spec.kind == "clip"}
    return {spec.name: tokenizer_for(spec, None, configs) for spec in FAMILIES[family]}


def run_lengths(values) -> list[list[int]]:
    """Return [value, count] of each run of equal values."""
    found: list[list[int]] = []
    for value in map(int, values):
        if found and found[-1][0] == value:
            found[-1][1] += 1
        else:
            found.append([value, 1])
    return found


def name_of(case: dict) -> str:
    return f"{case['family']}: {case['prompt'][:40]!r}"


@pytest.mark.parametrize("case", golden("n_family_text.json"), ids=name_of)
def test_ids_are_those_of_diffusers(case):
    expected = dict(case["expected"])
    if "t5_ids" in case:
        expected["t5_tokenizer"] = case["t5_ids"]
    for name, tokenizer in tokenizers(case["family"]).items():
        found, wanted = tokenizer(case["prompt"]), expected.pop(name)
        (row,) = found.ids
        mask = None if found.mask is None else run_lengths(found.mask[0])
        assert (run_lengths(row), len(row), mask) == (wanted["ids_rle"], wanted["length"], wanted["mask_rle"])
    assert not expected


def tensor_of(tensors: dict[str, list[int]], key: str) -> str:
    """Return the tensor of a file that ComfyUI reads for an encoder: its own, or else the first one."""
    return key if key in tensors else next(iter(tensors))


def with_words(tokenizer: WordTokenizer, embeddings: dict[str, dict[str, list[int]]], key: str) -> WordTokenizer:
    """Return a tokenizer with the rows of files for one key."""
    layout = replace(tokenizer.layout, word_id=None)  # so that the rows are seen, where an id stands for them
    found = {"layout": layout, "words": {}}
    if isinstance(tokenizer, SequenceWordTokenizer):
        found["chunk_size"] = tokenizer.chunk_size + len(tokenizer.ends)
    own = replace(tokenizer, **found)
    for file, tensors in embeddings.items():
        shape = tensors[tensor_of(tensors, key)]
        own.add_word(file, shape[0] if len(shape) > 1 else 1)
    return own


def comfyui(case: dict, spec: EncoderSpec) -> tuple[Layout, dict[int, dict], WordTokenizer]:
    """Return what an encoder reads in ComfyUI, and which row of which file each learned id is."""
    key, files = spec.file_key or "t5xxl", case["embeddings"]
    tokenizer = with_words(tokenizers(case["family"])[spec.name], files, key)
    rows = {
        token: {"row": row, "of": file, "key": tensor_of(tensors, key)}
        for file, tensors in files.items()
        for row, token in enumerate(tokenizer.words[file])
    }

    def find(name: str):
        file = embedding_file(name, files)
        return None if file is None else tokenizer.words[file]

    return read(tokenizer, case["prompt"], find), rows, tokenizer


@pytest.mark.parametrize("case", golden("m_comfy_tokens.json"), ids=name_of)
def test_ids_are_those_of_comfyui(case):
    for spec in FAMILIES[case["family"]]:
        found, rows, tokenizer = comfyui(case, spec)
        if "error" in case["expected"]:  # ComfyUI fails; we go on without the name
            assert all(token < tokenizer.vocab for token in chain(*found.ids))
            continue
        key = KEYS.get(spec.file_key, spec.file_key or "t5xxl")
        pad = tokenizer.clip.pad if isinstance(tokenizer, ClipWordTokenizer) else tokenizer.pad
        wanted = [
            [*chunk["tokens"], *[[pad, 1.0]] * (chunk["length"] - len(chunk["tokens"]))]
            for chunk in case["expected"][key]
        ]
        ids = [[rows.get(token, token) for token in row] for row in found.ids]
        assert ids == [[token for token, _ in chunk] for chunk in wanted]
        assert found.emphasis == [pytest.approx([weight for _, weight in chunk]) for chunk in wanted]
