"""Verify that truncated, altered or malicious embedding files are refused in one sentence, at once."""

import base64
import json
import os
import pickle
import random
import resource
import struct
import time
import zipfile
import zlib

import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save, save_file

from neonym.cli.main import main
from neonym.config.resolve import read_table
from neonym.errors import FormatError
from neonym.formats import read_embedding, write_embedding
from neonym.formats.png_card import with_data
from neonym.types import Embedding

ROWS = torch.randn(2, 768, generator=torch.Generator().manual_seed(0))
PAIR = {"text_encoder": ROWS, "text_encoder_2": torch.randn(2, 1280, generator=torch.Generator().manual_seed(1))}


def good_file(tmp_path, kind: str) -> bytes:
    """Return a valid file of each kind."""
    name, _, ending = kind.rpartition(".")
    path = tmp_path / f"good.{ending}"
    if name == "ours":
        write_embedding(Embedding("zyzzo", {"text_encoder": ROWS}), path)
    elif name == "pair":
        write_embedding(Embedding("zyzzo", PAIR), path)
    elif name == "bare":  # a card without its text chunk
        write_embedding(Embedding("zyzzo", {"text_encoder": ROWS}), tmp_path / "card.png")
        with Image.open(tmp_path / "card.png") as card:
            card.convert("RGB").save(path, **({"lossless": True} if ending == "webp" else {}))
    else:
        inner = torch.nn.ParameterDict({"*": torch.nn.Parameter(ROWS)}) if name == "original" else {"*": ROWS}
        torch.save(
            {"string_to_param": inner, "name": "x", "step": 3}, path, _use_new_zipfile_serialization=name != "old"
        )
    return path.read_bytes()


@pytest.mark.parametrize(
    "kind",
    ["ours.safetensors", "ours.pt", "ours.bin", "ours.png", "pair.safetensors", "pair.pt", "pair.png", "bare.png", "bare.webp",
     "torch.pt", "old.pt", "original.pt"],
)  # fmt: skip
def test_truncated_and_altered_files_are_refused_or_read_soundly(tmp_path, kind):
    """Files are changed at many offsets, mostly near their beginning and end.

    Whatever is still read has valid vectors.
    """
    content, rng = good_file(tmp_path, kind), random.Random(kind)
    path = tmp_path / f"bad.{kind.rpartition('.')[2]}"
    cut = [content[: len(content) * i // 25] for i in range(25)] + [content[:-n] for n in (1, 2, 3, 8, 22)]
    changed = []
    for _ in range(60):
        changed.append(bytearray(content))
        start, stop = rng.choice([(0, 64), (0, 600), (len(content) - 600, len(content)), (0, len(content))])
        for _ in range(rng.choice([1, 1, 3])):
            changed[-1][rng.randrange(start, stop)] = rng.choice([0, 255, rng.randrange(256)])
    for bad in [*cut, *changed]:
        path.write_bytes(bad)
        started, said = time.monotonic(), str(path)
        try:
            found = read_embedding(path)
            assert all(rows.ndim == 2 and rows.isfinite().all() for rows in found.vectors.values())
        except FormatError as error:
            said = str(error)
        assert str(path) in said
        assert "\n" not in said
        assert len(said) < 300 + len(str(path))
        assert time.monotonic() - started < 5
    if kind.endswith(".safetensors"):
        for bad in cut:
            path.write_bytes(bad)
            with pytest.raises(FormatError, match="damaged"):
                read_embedding(path)


def test_an_altered_number_in_an_archive_is_detected(tmp_path):
    content = bytearray(good_file(tmp_path, "ours.pt"))
    content[content.index(ROWS.numpy().tobytes()[:16]) + 100] ^= 1
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(FormatError, match="checksum"):
        read_embedding(tmp_path / "bad.pt")


def card(text: str | bytes, path, zipped: bool = False):
    chunks = PngImagePlugin.PngInfo()
    content = text.encode() if isinstance(text, str) else text
    chunks.add_text("sd-ti-embedding", base64.b64encode(content).decode(), zip=zipped)
    Image.new("RGB", (64, 64), "red").save(path, pnginfo=chunks)


def header(content: dict, data: bytes = b"") -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text + data


def old_pickle(size: bytes) -> bytes:
    """Return a file in the old serialisation that claims another number of elements."""
    from io import BytesIO

    file = BytesIO()
    torch.save({"*": torch.ones(4)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue().replace(b"K\x04", size)


def bytearray_file(path, packed: bool):
    """Write a file with the only call that torch's safe loader allows and that allocates any amount of memory."""
    content = b"\x80\x02c__builtin__\nbytearray\n" + b"\x8a\x05" + struct.pack("<q", 2**30)[:5] + b"\x85R."
    if not packed:
        path.write_bytes(content)
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")


def nested_tuples(levels: int) -> bytes:
    """Return a pickle of a table whose key is (t, t), t being (u, u), and so on: hashing it takes 2 ** levels steps."""
    pairs = b"".join(b"h%c\x86q%c" % (n, n + 1) for n in range(1, levels))
    return b"\x80\x02}q\x00K\x01K\x02\x86q\x01" + pairs + b"K\x05s."


TENSOR = '{"string_to_param": {"*": {"TORCHTENSOR": %s}}}'
HARMFUL = {  # a few kilobytes that claim to be gigabytes, texts nested without end, tensors that are none
    "claims.pt": lambda p: torch.save({"*": torch.ones(1).expand(40000, 40000)}, p),
    "claims-more.pt": lambda p: torch.save({"*": torch.ones(1).expand(10**6, 10**6)}, p),
    "claims-old.pt": lambda p: torch.save({"*": torch.ones(1).expand(40000, 40000)}, p, _use_new_zipfile_serialization=False),
    "claims-both.bin": lambda p: torch.save({k: torch.ones(1).expand(40000, 40000) for k in "ab"}, p),
    "claims-2-to-36.pt": lambda p: p.write_bytes(old_pickle(b"\x8a\x05" + struct.pack("<q", 2**36)[:5])),
    "claims-2-to-31.pt": lambda p: p.write_bytes(old_pickle(b"J" + struct.pack("<i", 2**31 - 1))),
    "sparse.pt": lambda p: torch.save({"a": ROWS.to_sparse()}, p),
    "nowhere.pt": lambda p: torch.save({"a": ROWS.to("meta")}, p),
    "many.pt": lambda p: torch.save({str(i): ROWS[0, :1] for i in range(5000)}, p),
    "nested_tuples.pt": lambda p: p.write_bytes(nested_tuples(40)),
    "nested.pt": lambda p: p.write_bytes(b"\x80\x02" + b"]" * 50000 + b"a" * 49999 + b"."),
    "bytearray_file.pt": lambda p: bytearray_file(p, packed=True),
    "bytearray_file-plain.bin": lambda p: bytearray_file(p, packed=False),
    "long.pt": lambda p: p.write_bytes(b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"abc."),
    "nested.safetensors": lambda p: p.write_bytes((50000).to_bytes(8, "little") + b'{"a":' + b"[" * 49995),
    "claims.safetensors": lambda p: p.write_bytes(header({"a": {"dtype": "F32", "shape": [2**33, 2**33], "data_offsets": [0, 0]}})),
    "odd.safetensors": lambda p: p.write_bytes(header({"a": {"dtype": "F4", "shape": [2, 768], "data_offsets": [0, 768]}}, bytes(768))),
    "large.safetensors": lambda p: p.write_bytes(save({"a": torch.ones(6000, 768)})),
    "many.safetensors": lambda p: p.write_bytes(save({str(i): torch.ones(1) for i in range(2000)})),
    "llama.safetensors": lambda p: save_file({"clip_l": ROWS, "clip_g": PAIR["text_encoder_2"], "llama": torch.ones(2, 4096)}, p),
    "nested.png": lambda p: card("[" * 100000, p),
    "nested-deeper.png": lambda p: card(TENSOR % ("[" * 50000 + "]" * 50000), p),
    "ragged.png": lambda p: card(TENSOR % "[[1, 2], [3]]", p),
    "words.png": lambda p: card(TENSOR % '[["a"]]', p),
    "great.png": lambda p: card(TENSOR % f"[[1{'0' * 400}, 2]]", p),
    "endless.png": lambda p: card(TENSOR % "[[Infinity, NaN]]", p),
    "list.png": lambda p: card('{"string_to_param": [1]}', p),
    "unpacked.png": lambda p: card(TENSOR % ("[[" + "0," * 9_000_000 + "0]]"), p),
    "packed.png": lambda p: card(b"0" * 40_000_000, p, zipped=True),
    "pixels.png": lambda p: with_data(Image.new("RGB", (64, 512), "red"), zlib.compress(b"[" + b"0," * 20_000_000 + b"0]")).save(p),
    "large.png": lambda p: Image.new("1", (9000, 9000)).save(p),
    "larger.png": lambda p: Image.new("1", (20000, 20000)).save(p),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMFUL)
def test_malicious_files_are_refused_at_once(tmp_path, name, capsys):
    path = tmp_path / name
    HARMFUL[name](path)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert main(["inspect", str(path)]) == 2
    assert time.monotonic() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10  # KiB
    said = capsys.readouterr().err
    assert name in said
    assert said.count("\n") == 1
    assert len(said) < 300 + len(str(path))


@pytest.mark.parametrize("protocol", range(6))
def test_the_code_that_a_pickle_would_run_is_named(tmp_path, protocol, capsys, recwarn):
    """This holds for pickles of every protocol, some of which torch cannot parse, given as an embedding and as a model."""

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    for name in ("word.pt", "model.ckpt"):
        (tmp_path / name).write_bytes(pickle.dumps({"a": [((Evil(),),)]}, protocol))
    assert main(["inspect", str(tmp_path / "word.pt")]) == 2
    assert main(["generate", "--prompt=x", f"--outdir={tmp_path}", f"--ckpt={tmp_path / 'model.ckpt'}"]) == 2
    said = capsys.readouterr().err
    assert said.count("wants to run code (posix.system)") == said.count("\n") == 2
    assert not (tmp_path / "ran").exists()
    assert not recwarn.list


def test_hostile_metadata_has_no_effect(tmp_path, capsys):
    """Names that are paths, control characters for terminals, and settings of the wrong type do no harm."""
    out = tmp_path / "out"
    out.mkdir()
    card(
        json.dumps({"string_to_param": {"*": {"TORCHTENSOR": ROWS.tolist()}}, "name": "../../evil"}), tmp_path / "a.png"
    )
    assert main(["convert", str(tmp_path / "a.png"), str(out), "--to", "pt"]) == 0
    assert [p.name for p in out.iterdir()] == [".._.._evil.pt"]
    for name in (None, 5, ["x"], {}, "", "  ", "x" * 5000, "two\nlines", "\x1b[2Jx"):
        content = {
            "string_to_param": {"*": {"TORCHTENSOR": ROWS.tolist()}},
            "name": name,
            "step": name,
            "sd_checkpoint": name,
        }
        card(json.dumps(content), tmp_path / "plain.png")
        assert read_embedding(tmp_path / "plain.png").token == "plain"
    bad = tmp_path / "bad.safetensors"
    save_file({"emb_params": ROWS}, bad, {"token": "x\x1b[2J", "note\x1b": "\x1b[31m red", "neonym.settings": "{"})
    capsys.readouterr()
    assert main(["inspect", str(bad)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    for texts in ("{", "[" * 5000, '{"no_such_setting": 1}', '{"seed": {"a": 1}}', "5"):
        save_file({"emb_params": ROWS}, bad, {"neonym.settings": texts, "neonym.vectors": "many"})
        assert main(["recipe", str(bad)]) == 2
        assert "settings" in capsys.readouterr().err
    for texts in ("{", "5", "[5]", "[{}]", '[{"subsets": [{"no_such_key": 1}]}]', '[{"subsets": [{"image_dir": {}}]}]'):
        save_file({"emb_params": ROWS}, bad, {"neonym.settings": "{}", "neonym.datasets": texts})
        assert main(["recipe", str(bad)]) == 2


@pytest.mark.parametrize(
    "settings",
    ['{"seed": NaN}', '{"learning_rate": Infinity}', '{"learning_rate": 1e999}', '{"optimizer_args": [null]}',
     '{"optimizer_args": [["a"], [null]]}', '{"optimizer_type": "\\ud800"}', '{"optimizer_args": ["\\udfff"]}', "null"],
)  # fmt: skip
def test_a_recipe_that_is_not_a_config_file_is_refused(tmp_path, settings, capsys):
    for texts in (
        {"neonym.settings": settings},
        {"neonym.settings": "{}", "neonym.datasets": f'[{{"subsets": [{settings}]}}]'},
    ):
        save_file({"emb_params": ROWS}, tmp_path / "word.safetensors", texts)
        assert main(["recipe", str(tmp_path / "word.safetensors")]) == 2
        assert capsys.readouterr().out == ""


def test_a_recipe_is_a_valid_config_file_whatever_its_texts_contain(tmp_path, capsys):
    odd = "".join(map(chr, range(1, 0xA1))) + "\u2028\ufeff\U0001f600"
    texts = {
        "optimizer_type": odd,
        "optimizer_args": [odd, "\x7f"],
        "learning_rate": 1e-05,
        "seed": 2**40,
        "loss_type": None,
    }
    tables = [{"subsets": [{"caption_prefix": odd, "class_tokens": "x"}]}]
    facts = {"neonym.settings": json.dumps(texts), "neonym.datasets": json.dumps(tables), "neonym.init_word": odd,
             "neonym.base_model": odd, "neonym.base_model_hash": odd}  # fmt: skip
    save_file({"emb_params": ROWS}, tmp_path / "word.safetensors", facts)
    assert main(["recipe", str(tmp_path / "word.safetensors")]) == 0
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(capsys.readouterr().out, encoding="utf-8", newline="")
    table = read_table(recipe)
    assert (table["optimizer_type"], table["optimizer_args"], table["init_word"]) == (odd, [odd, "\x7f"], odd)
    assert (table["seed"], table["learning_rate"], "loss_type" in table) == (2**40, 1e-05, False)
