"""Load the tokenizers of a model from its folder. This module does not need torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from neonym.errors import ModelError
from neonym.io.memo import memoized, versions
from neonym.io.pickles import first_line
from neonym.models.family import Configs, EncoderSpec
from neonym.models.loading.folder import TOKENIZER, check_tokenizer
from neonym.models.source import BUILTIN_MODELS, ModelSource
from neonym.models.tokenizers.clip import CHUNK, MOST_CHUNKS, ClipTokenizer, ClipWordTokenizer
from neonym.models.tokenizers.sequence import NO_LIMIT, SequenceWordTokenizer
from neonym.models.tokenizers.shipped import SequenceTokenizer, shipped
from neonym.models.tokenizers.word_tokenizer import WordTokenizer

MOST_UNUSED = 1024  # rows of a table that its tokenizer never uses: T5 has 28, Qwen3 267
CLIP = BUILTIN_MODELS / "emoji" / "tokenizer"  # the complete vocabulary of CLIP


def load_tokenizers(source: ModelSource, max_token_length: int = CHUNK) -> dict[str, WordTokenizer]:
    """Return the tokenizer of each text encoder. CLIP captions have up to `max_token_length` ids. Raises ModelError."""
    found = {}
    for encoder in all_readers(source):
        try:
            own = replace(encoder, max_length=source.facts.text_lengths.get(encoder.name, encoder.max_length))
            found[encoder.name] = tokenizer_for(own, folder_for(source, encoder), source.configs, max_token_length)
        except Exception as error:  # invalid files can fail in any way
            raise ModelError(f"its tokenizer cannot be read ({first_line(error)})", source.name) from error
    return found


def with_tokenizers(source: ModelSource, folder: str | None) -> ModelSource:
    """Return the model with the tokenizers of a folder instead of its own. Raises ModelError."""
    if folder is None:
        return source
    home = Path(folder)
    needed = [encoder.tokenizer for encoder in all_readers(source)]
    if not has_tokenizer(home) and not any(has_tokenizer(home / name) for name in needed):
        what = "has no tokenizer" if home.is_dir() else "there is no such folder"
        fix = f"It needs a tokenizer.json, itself or in a folder {' or '.join(needed)}"
        raise ModelError(what, f"--tokenizer {folder}", fix)
    return replace(source, tokenizers=home)


def all_readers(source: ModelSource) -> tuple[EncoderSpec, ...]:
    """Return all that need a tokenizer: the text encoders, and what else reads ids."""
    return (*source.encoder_specs, *source.family.id_readers)


def folder_for(source: ModelSource, encoder: EncoderSpec) -> Path | None:
    """Return the folder of an encoder's tokenizer, or None if the package's is used.

    A folder of tokenizers may hold one tokenizer itself, which is not CLIP's. A model may lack those that the package has;
    that of CLIP comes with every folder.
    """
    home = source.tokenizers
    if home is not None and has_tokenizer(home / encoder.tokenizer):
        return home / encoder.tokenizer
    if home is not None and has_tokenizer(home) and encoder.kind != "clip":
        return home
    folder = source.folder / encoder.tokenizer
    own = source.file is None if encoder.kind == "clip" else has_tokenizer(folder)
    return folder if own else None


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has the files of a tokenizer."""
    return (folder / "tokenizer.json").is_file() or all((folder / name).is_file() for name in TOKENIZER)


def tokenizer_for(
    encoder: EncoderSpec, folder: Path | None, configs: Configs, max_token_length: int = CHUNK
) -> WordTokenizer:
    """Return a tokenizer from a folder, or from the package. Invalid files raise any exception.

    Padding is that of the encoder: the end, or id 0.
    """
    config = configs.get(encoder.name, {})
    if folder is not None:
        check_tokenizer(folder)
    if encoder.kind == "clip":
        pad = "!" if folder is None and (config.get("pad_token_id") == 0 or encoder.layout.pads_with == 0) else None
        clip = read_clip(folder or CLIP, pad, encoder.id_zero_pads)
        chunks, most = (1, 1) if encoder.max_length else (max_token_length // CHUNK, MOST_CHUNKS)
        return ClipWordTokenizer(int(config["vocab_size"]), CHUNK, chunks, most, layout=encoder.layout, clip=clip)
    own = read_sequence(folder) if folder else shipped("t5" if encoder.kind == "t5" else encoder.vocabulary)
    used = own.backend.get_vocab_size()
    vocab = int(config.get("vocab_size", used))
    if folder is None and not used <= vocab < used + MOST_UNUSED:
        raise ValueError(f"the package has none for a vocabulary of {vocab}; name its folder with --tokenizer")
    return SequenceWordTokenizer(
        vocab,
        encoder.max_length or NO_LIMIT,
        layout=encoder.layout,
        tokenizer=own.backend,
        end=own.end if encoder.kind == "t5" else None,
        pad=own.pad,
        keeps_spaces=encoder.kind == "causal_lm",
    )


def hashes_in(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}


def read_sequence(folder: Path) -> SequenceTokenizer:
    """Return a tokenizer as transformers loads it. The result is cached, since transformers is slow to import."""

    def read() -> dict[str, Any]:
        from transformers import AutoTokenizer

        whole = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return {"tokenizer": whole.backend_tokenizer.to_str(), "end": whole.eos_token_id, "pad": whole.pad_token_id}

    table = memoized("tokenizers", [versions("transformers", "tokenizers"), hashes_in(folder)], read)
    return SequenceTokenizer(Tokenizer.from_str(table["tokenizer"]), table["end"], table["pad"])


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
