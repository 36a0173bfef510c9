"""The real CLIP vocabulary, from the MIT-licensed package `open-clip-torch`, and the small text encoder.

python -m tools.builtin_model.text --work work/emoji     (needs pip)
"""

import argparse
import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path

from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

BPE = "open_clip/bpe_simple_vocab_16e6.txt.gz"
MERGES = 49152 - 256 - 2  # how many of the file's merges CLIP uses


def vocabulary(lines: list[str]) -> tuple[dict[str, int], list[str]]:
    """The file's merges -> (token -> id, merges): 256 bytes, 256 bytes that end a word, merges, two specials."""
    merges = [line for line in lines[1 : MERGES + 1] if line]
    letters = list(bytes_to_unicode().values())
    tokens = letters + [c + "</w>" for c in letters] + ["".join(m.split()) for m in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}, merges


def write_tokenizer(work: Path) -> Path:
    """Download the package's wheel (nothing of it is run) and write `tokenizer/` in Diffusers' layout."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "open-clip-torch", "-d", str(work)]
    subprocess.run(command, check=True)
    wheel = next(work.glob("open_clip_torch-*.whl"))
    text = gzip.decompress(zipfile.ZipFile(wheel).read(BPE)).decode()
    ids, merges = vocabulary(text.split("\n"))
    assert len(ids) == 49408, len(ids)
    folder = work / "tokenizer"
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return folder


def load_tokenizer(work: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(work / "tokenizer")


def make_text_encoder() -> CLIPTextModel:
    """Width 128, 2 layers, over all 49,408 tokens and 77 positions."""
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=128, intermediate_size=512, projection_dim=128, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=77, hidden_act="quick_gelu",
        bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
    )  # fmt: skip
    return CLIPTextModel(config)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/emoji"))
    print(write_tokenizer(parser.parse_args().work))
