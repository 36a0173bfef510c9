"""Verify that embedding files are recognised by content: odd extensions, numpy values, several words, lists."""

import io
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file

from neonym.cli.main import main
from neonym.config.generate import GenerateSettings
from neonym.errors import FormatError
from neonym.formats import read_embedding, read_words, write_embedding
from neonym.generation.request.prepare import prepare
from neonym.types import Embedding

ROWS = torch.randn(3, 768, generator=torch.Generator().manual_seed(0))
WIDE = torch.randn(3, 1280, generator=torch.Generator().manual_seed(1))
WEB = {"string_to_token": {"*": 265}, "string_to_param": {"*": ROWS}, "name": "zyzzo", "step": 7}


class Call:
    """An object that pickles to a call of any function by name, followed by the state to set."""

    def __init__(self, function, *args, state=None):
        self.function, self.args, self.state = function, args, state

    def __reduce__(self):
        return (self.function, self.args) if self.state is None else (self.function, self.args, self.state)


def on_a_mac(rows: torch.Tensor, modules: str = "numpy.core") -> bytes:
    """Return a tensor as torch pickles it on the device mps: as an array and a function that rebuilds the tensor."""
    arguments = (rows.numpy(), rows.dtype, "mps:0", False)
    content = WEB | {"string_to_param": {"*": Call(torch._utils._rebuild_device_tensor_from_numpy, *arguments)}}
    return archive(content, modules)


def archive(content, modules: str = "numpy.core", old: bool = False) -> bytes:
    """Return what torch.save writes, with numpy's functions under the names of another numpy version."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not old)
    here = b"numpy._core" if np.__version__ >= "2" else b"numpy.core"
    if here.decode() == modules:
        return file.getvalue()
    if old:
        return file.getvalue().replace(b"c" + here, b"c" + modules.encode())
    from zipfile import ZipFile, ZipInfo

    other = io.BytesIO()
    with ZipFile(file) as source, ZipFile(other, "w") as target:
        for name in source.namelist():
            target.writestr(ZipInfo(name), source.read(name).replace(b"c" + here, b"c" + modules.encode()))
    return other.getvalue()


@pytest.mark.parametrize("modules", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("old", [False, True])
def test_numpy_scalars_and_arrays_are_read_as_data(tmp_path, modules, old):
    path = tmp_path / "zyzzo.pt"
    for step in (np.int64(7), np.float32(7), np.array(7), 7):
        path.write_bytes(archive(WEB | {"step": step}, modules, old))
        found = read_embedding(path)
        assert torch.equal(found.vectors["text_encoder"], ROWS)
        assert found.metadata.get("neonym.steps", "7").startswith("7")
    path.write_bytes(on_a_mac(ROWS, modules))
    assert torch.equal(read_embedding(path).vectors["text_encoder"], ROWS)
    for array in (ROWS.numpy(), ROWS.numpy().astype(">f4"), np.asfortranarray(ROWS.numpy()), ROWS.numpy().astype("f8")):
        path.write_bytes(archive(WEB | {"string_to_param": OrderedDict({"*": array})}, modules, old))
        assert torch.equal(read_embedding(path).vectors["text_encoder"], ROWS)
        path.write_bytes(archive({"<cat>": array}, modules, old))
        assert read_embedding(path).token == "<cat>"


def test_arrays_that_are_not_plain_numbers_are_refused(tmp_path):
    """Arrays of objects, strings or records are refused, and one that claims more bytes than the file has."""
    path, mark = tmp_path / "bad.pt", tmp_path / "ran"
    objects = np.empty(2, object)
    objects[0] = Call(mark.write_text, "x")
    reconstruct, state = np.zeros(1).__reduce__()[0], (1, (1 << 40,), np.dtype("f4"), False, b"\0" * 4)
    for array in (
        objects, np.array(["a"]), np.zeros(2, [("a", "f4")]), np.zeros(2, "M8[s]"),
        Call(reconstruct, np.ndarray, (1 << 40,), b"f", state=state),
        Call(reconstruct, np.ndarray, (1 << 40,), b"O"), Call(np.dtype, "O8"), Call(np.ndarray, (1 << 40,)),
    ):  # fmt: skip
        path.write_bytes(archive({"string_to_param": {"*": array}}))
        with pytest.raises(FormatError, match=r"bad\.pt"):
            read_embedding(path)
    assert not mark.exists()


def test_parameters_of_the_first_torch_versions_are_read(tmp_path):
    """The original implementation's table is read as torch 1.x pickled it, without names that newer versions store."""
    inner = torch.nn.ParameterDict({"*": torch.nn.Parameter(ROWS)})
    inner.__dict__.pop("_keys")
    path = tmp_path / "zyzzo.pt"
    torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": inner}, path)
    assert torch.equal(read_embedding(path).vectors["text_encoder"], ROWS)
    assert main(["inspect", str(path)]) == 0


@pytest.mark.parametrize("name", ["x.pti", "x.emb", "x", "x.bin", "x.pt", "x.safetensors", "x.png", "X.PT", "x.jpg"])
@pytest.mark.parametrize("kind", ["safetensors", "pt", "old.pt", "card", "webp"])
def test_first_bytes_decide_the_layout(tmp_path, name, kind, capsys):
    path, word = tmp_path / name, Embedding("zyzzo", {"text_encoder": ROWS})
    if kind in ("card", "webp"):
        from PIL import Image

        card = write_embedding(word, tmp_path / "card.png")
        if kind == "webp":
            with Image.open(card) as opened:
                opened.convert("RGB").save(path, "WEBP", lossless=True)
        else:
            card.rename(path)
    else:
        content = save({"emb_params": ROWS}) if kind == "safetensors" else archive(WEB, old=kind == "old.pt")
        path.write_bytes(content)
    assert torch.equal(read_embedding(path).vectors["text_encoder"], ROWS)
    assert main(["inspect", str(path)]) == 0
    reported = capsys.readouterr().out
    fits = {"safetensors": ".safetensors", "pt": (".pt", ".bin"), "old.pt": (".pt", ".bin")}.get(kind, ".png")
    if path.suffix in ("", ".pti", ".emb", ".jpg"):
        assert "AUTOMATIC1111: ignores" in reported
    elif not name.lower().endswith(fits):
        assert "AUTOMATIC1111: refuses it: its extension does not match" in reported
    else:
        assert "AUTOMATIC1111: refuses it: its extension" not in reported


def test_other_files_are_refused_by_name(tmp_path):
    for name, content, words in (
        ("page.safetensors", b"<!DOCTYPE html><html>", "a web page"),
        ("pointer.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:", "Git LFS pointer"),
        ("noise.emb", b"\x07\x08" * 90, "noise.emb"),
        ("empty", b"", "empty"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FormatError, match=words):
            read_embedding(tmp_path / name)
    with pytest.raises(FormatError, match="is a folder"):
        read_embedding(tmp_path)


SEVERAL = {
    "string_to_param.pt": (WEB | {"string_to_param": {"*": ROWS, "@": ROWS + 1}}, {"zyzzo": 0, "@": 1}),
    "learned_embeds.bin": ({"<cat>": ROWS, "<dog>": ROWS + 1, "ünï": ROWS + 2}, {"<cat>": 0, "<dog>": 1, "ünï": 2}),
    "flat.pt": ({"<cat>": ROWS[0], "<dog>": ROWS[1]}, {"<cat>": None, "<dog>": None}),
    "tables.pt": ({"<cat>": {"clip_l": ROWS, "clip_g": WIDE}, "<dog>": {"clip_l": ROWS + 1, "clip_g": WIDE}}, {"<cat>": 0, "<dog>": 1}),
    "several.safetensors": ({"<cat>": ROWS, "<dog>": (ROWS + 1).bfloat16()}, {"<cat>": 0, "<dog>": None}),
}  # fmt: skip


@pytest.mark.parametrize("name", SEVERAL)
def test_every_word_in_a_file_is_read(tmp_path, name, capsys):
    content, wanted = SEVERAL[name]
    path = tmp_path / name
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    found = {word.token: word for word in read_words(path)[0]}
    assert set(found) == set(wanted)
    for token, more in wanted.items():
        assert more is None or torch.equal(found[token].vectors["text_encoder"], ROWS + more)
        assert torch.equal(read_embedding(path, token).vectors["text_encoder"], found[token].vectors["text_encoder"])
    with pytest.raises(FormatError, match=f"holds {len(wanted)} words .*--word"):
        read_embedding(path)
    assert main(["inspect", str(path)]) == 0
    reported = capsys.readouterr().out
    assert all(f"word: {token}\n" in reported for token in wanted)
    assert main(["convert", str(path), str(tmp_path / "all"), "--to", "safetensors"]) == 0
    assert {file.stem for file in (tmp_path / "all").iterdir()} == set(wanted)
    token = list(wanted)[-1]
    assert main(["convert", str(path), str(tmp_path / "one.safetensors"), "--word", token]) == 0
    assert read_embedding(tmp_path / "one.safetensors").token == token
    assert main(["convert", str(path), str(tmp_path / "none.pt"), "--word", "gnu"]) == 2
    assert "has no word `gnu`" in capsys.readouterr().err


def test_lists_and_bare_tensors_are_one_word(tmp_path):
    """All vectors of one width in a list are one word, as in ComfyUI."""
    for content, shape in (
        ([{"*": ROWS}, {"x": ROWS + 1}], (6, 768)), ([ROWS[0], ROWS[1]], (2, 768)), (ROWS, (3, 768)), (ROWS[0], (1, 768)),
    ):  # fmt: skip
        torch.save(content, tmp_path / "word.pt")
        found = read_embedding(tmp_path / "word.pt")
        assert found.token == "word"
        assert found.vectors["text_encoder"].shape == shape
    torch.save([{"a": ROWS, "b": WIDE}], tmp_path / "word.pt")
    assert set(read_embedding(tmp_path / "word.pt").vectors) == {"text_encoder", "text_encoder_2"}


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2", "bfloat16", "float16", "float64"])
def test_every_precision_becomes_float32(tmp_path, kind, capsys):
    rows = ROWS.to(getattr(torch, kind))
    save_file({"emb_params": rows}, tmp_path / "a.safetensors")
    torch.save({"a": rows, "same": rows.clone()}, tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pt"):
        found = read_embedding(tmp_path / name).vectors["text_encoder"]
        assert found.dtype == torch.float32
        assert torch.equal(found, rows.float())
        assert main(["inspect", str(tmp_path / name)]) == 0
        assert f"{kind} [3, 768]" in capsys.readouterr().out


def test_tensors_of_other_types_are_described_and_refused(tmp_path, capsys):
    for name, rows in {"int": ROWS.int(), "bool": ROWS > 0, "complex": ROWS.to(torch.complex64)}.items():
        path = tmp_path / f"{name}.safetensors"
        save_file({"emb_params": rows}, path)
        assert main(["inspect", str(path)]) == 2
        reported = capsys.readouterr()
        assert f"[{3}, 768]" in reported.out
        assert "vectors cannot be of the type" in reported.err
    save_file({"emb_params": ROWS, "step": torch.tensor([700])}, tmp_path / "step.safetensors")
    assert read_embedding(tmp_path / "step.safetensors").left_out == ("step",)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"emp_params": 0 * ROWS, "emp_params_out": ROWS}, "emp_params_out"),
        ({"emp_params_out": ROWS}, "emp_params_out"),
        ({"clip_l": 0 * ROWS, "clip_g": 0 * WIDE, "clip_l_out": ROWS, "clip_g_out": WIDE}, "clip_g_out, clip_l_out"),
        ({"clip_l_out": ROWS, "clip_g_out": WIDE}, "clip_g_out, clip_l_out"),
        ({"clip_l": 0 * ROWS, "clip_g": WIDE}, "clip_l: all its numbers are zero"),
        ({"emb_params": 0 * ROWS}, "emb_params: all its numbers are zero"),
        ({"bundle_emb.x.emp_params_out": ROWS}, "emp_params_out"),
    ],
)
def test_output_embeddings_and_zeros_are_refused(tmp_path, content, named, capsys, images):
    """Output embeddings apply after the text encoder: in front of it they would be another word, or none."""
    path = tmp_path / "out.safetensors"
    save_file(content, path)
    assert main(["inspect", str(path)]) == 2
    reported = capsys.readouterr()
    assert named in reported.err
    assert all(name in reported.out for name in content)
    flags = ["--train_data_dir", str(images), "--token_string", "mychar4", "--weights", str(path)]
    for command in (
        ["convert", str(path), str(tmp_path / "new.pt")], ["verify", str(path)], ["check", *flags],
        ["generate", "--prompt", "a out", "--textual_inversion_embeddings", str(path), "--outdir", str(tmp_path)],
    ):  # fmt: skip
        assert main(command) == 2
        reported = capsys.readouterr()
        assert named in reported.out + reported.err
    assert not (tmp_path / "new.pt").exists()


def test_output_embeddings_beside_a_word_are_left_out_with_a_note(tmp_path, capsys):
    path = tmp_path / "both.safetensors"
    save_file({"emp_params": ROWS, "emp_params_out": ROWS.clone()}, path)
    assert main(["convert", str(path), str(tmp_path / "new.safetensors")]) == 0
    assert "left out: OneTrainer's output embeddings (emp_params_out)" in capsys.readouterr().out
    assert torch.equal(load_file(tmp_path / "new.safetensors")["emb_params"], ROWS)
    assert main(["inspect", str(path)]) == 0
    assert "note: left out: OneTrainer's output embeddings (emp_params_out)" in capsys.readouterr().out


def test_pickles_of_every_protocol_are_refused_in_one_line(tmp_path, capsys):
    for protocol in range(6):
        path: Path = tmp_path / f"{protocol}.pt"
        path.write_bytes(pickle.dumps({"string_to_param": {"*": ROWS.tolist()}}, protocol))
        assert main(["inspect", str(path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_generate_selects_one_word_of_several(tmp_path, capsys):
    """`WORD=FILE` selects a word; without it, the message explains how to."""
    path, rows = tmp_path / "learned_embeds.bin", torch.randn(1, 128)
    torch.save({"<cat>": rows, "gnu": rows + 1}, path)
    draw = [
        "generate",
        "--prompt",
        "a <cat> and a gnu",
        "--steps",
        "1",
        "--W",
        "64",
        "--H",
        "64",
        "--outdir",
        str(tmp_path / "o"),
    ]
    assert main([*draw, "--textual_inversion_embeddings", str(path)]) == 2
    assert f"Write WORD={path} with one of them as WORD" in capsys.readouterr().err
    assert main([*draw, "--textual_inversion_embeddings", f"dog={path}"]) == 2
    assert "has no word `dog`, but <cat>, gnu" in capsys.readouterr().err
    assert main([*draw, "--textual_inversion_embeddings", f"<cat>={path}", f"gnu={path}"]) == 0
    assert "no prompt uses" not in capsys.readouterr().err
    save_file({"emp_params": rows, "emp_params_out": rows.clone()}, tmp_path / "gnu.safetensors")
    given = GenerateSettings(prompt=("a gnu",), textual_inversion_embeddings=(str(tmp_path / "gnu.safetensors"),))
    reported = "left out: OneTrainer's output embeddings (emp_params_out), which apply after the text encoder"
    assert reported in [problem.what for problem in prepare(given).problems]
