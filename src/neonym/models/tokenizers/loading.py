"""Load the tokenizers of a model from its folder. This module does not need torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from neonym.errors import ModelError
from neonym.io.memo import memoized, versions
from neonym.io.pickles import first_line
from neonym.models.family import EncoderSpec
from neonym.models.loading.folder import check_tokenizer
from neonym.models.source import BUILTIN_MODELS, ModelSource
from neonym.models.tokenizers.clip import CHUNK, MOST_CHUNKS, ClipTokenizer, ClipWordTokenizer
from neonym.models.tokenizers.sequence import SequenceWordTokenizer
from neonym.models.tokenizers.word_tokenizer import WordTokenizer

CLIP = BUILTIN_MODELS / "emoji" / "tokenizer"  # the complete vocabulary of CLIP


def load_tokenizers(source: ModelSource, max_token_length: int = CHUNK) -> dict[str, WordTokenizer]:
    """Return the tokenizer of each text encoder. CLIP captions have up to `max_token_length` ids. Raises ModelError."""
    found = {}
    for encoder in source.family.encoders:
        try:
            if encoder.kind == "clip":
                found[encoder.name] = clip_tokenizer(source, encoder, max_token_length)
            else:
                found[encoder.name] = sequence_tokenizer(source, encoder)
        except Exception as error:  # invalid files can fail in any way
            raise ModelError(f"its tokenizer cannot be read ({first_line(error)})", source.name) from error
    return found


def clip_tokenizer(source: ModelSource, encoder: EncoderSpec, max_token_length: int) -> ClipWordTokenizer:
    """Return a CLIP tokenizer, from the model's folder or, for a single-file checkpoint, from this package.

    Padding is that of the encoder: the end, or id 0. Invalid files raise any exception.
    """
    config = source.configs[encoder.name]
    if source.file is None:
        folder = source.folder / encoder.tokenizer
        check_tokenizer(folder)
        clip = read_clip(folder, id_zero_pads=encoder.id_zero_pads)
    else:
        clip = read_clip(CLIP, "!" if config.get("pad_token_id") == 0 else None, encoder.id_zero_pads)
    vocab, chunks = int(config["vocab_size"]), max_token_length // CHUNK
    return ClipWordTokenizer(vocab, CHUNK, chunks, MOST_CHUNKS, clip=clip)


def sequence_tokenizer(source: ModelSource, encoder: EncoderSpec) -> SequenceWordTokenizer:
    """Return a tokenizer of one sequence. Invalid files raise any exception."""
    folder, vocab = source.folder / encoder.tokenizer, int(source.configs[encoder.name]["vocab_size"])
    table = memoized(
        "tokenizers", [versions("transformers", "tokenizers"), hashes_in(folder)], lambda: read_sequence(folder)
    )
    tokenizer = Tokenizer.from_str(table["tokenizer"])
    return SequenceWordTokenizer(vocab, encoder.max_length - 1, tokenizer=tokenizer, end=table["end"], pad=table["pad"])


def hashes_in(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}


def read_sequence(folder: Path) -> dict[str, Any]:
    """Return the facts that `sequence_tokenizer` needs, as JSON, from the tokenizer that transformers loads."""
    from transformers import AutoTokenizer

    whole = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return {"tokenizer": whole.backend_tokenizer.to_str(), "end": whole.eos_token_id, "pad": whole.pad_token_id}


def read_clip(folder: Path, pad: str | None = None, id_zero_pads: bool = False) -> ClipTokenizer:
    """Return a CLIP tokenizer as transformers loads it. The result is cached, since transformers is slow to import.

    With `id_zero_pads`, padding is id 0, which is not a token: tokenizer files name it "!", and would then read the "!"
    in captions as padding. Invalid files raise any exception.
    """
    key = [versions("transformers", "tokenizers"), hashes_in(folder), pad, id_zero_pads]
    table = memoized("tokenizers", key, lambda: read_clip_with_transformers(folder, pad, id_zero_pads))
    return ClipTokenizer(Tokenizer.from_str(table["tokenizer"]), table["start"], table["end"], table["pad"])


def read_clip_with_transformers(folder: Path, pad: str | None, id_zero_pads: bool) -> dict[str, Any]:
    """Return the fields of a `ClipTokenizer`, as JSON, from the tokenizer that transformers loads."""
    from transformers import CLIPTokenizer

    more: dict[str, Any] = {} if pad is None else {"pad_token": pad}
    whole = CLIPTokenizer.from_pretrained(folder, local_files_only=True, **more)
    table = json.loads(whole.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}
    if id_zero_pads:
        table["added_tokens"] = [token for token in table["added_tokens"] if token["id"] != 0]
    pad_id = 0 if id_zero_pads else whole.pad_token_id
    return {"tokenizer": json.dumps(table), "start": whole.bos_token_id, "end": whole.eos_token_id, "pad": pad_id}
