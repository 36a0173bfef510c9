"""A layout is a record in one file: this one keeps words in NumPy's .npz, which the package does not know."""

from zipfile import BadZipFile

import numpy as np
import pytest
import torch

from neonym.cli.main import main
from neonym.errors import FormatError
from neonym.formats import read_embedding, write_embedding
from neonym.formats.content import FileContent, ending_of
from neonym.formats.layout import Layout, Target
from neonym.formats.layouts import register, unregister, writers
from neonym.types import Embedding


def read(path) -> FileContent:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            tensors = {name: torch.from_numpy(file[name]) for name in file.files if name != "token"}
            return FileContent(ending_of(path), "zip", tensors, {"token": str(file["token"])})
    except (OSError, ValueError, BadZipFile) as error:
        raise FormatError(f"is damaged ({error})", str(path)) from error


def write(embedding: Embedding, target: Target) -> None:
    with target.path.open("wb") as file:
        np.savez(file, emb_params=embedding.vectors["text_encoder"].numpy(), token=np.array(embedding.token))


NPZ = Layout("NumPy's .npz", read, write, lambda start: start.startswith(b"PK") and b".npy" in start, ("npz",))


@pytest.fixture
def npz():
    register(NPZ)
    yield NPZ
    unregister(NPZ)


def test_a_word_is_converted_to_a_new_layout_and_back(npz, word, tmp_path, capsys):
    there, back = tmp_path / "there.npz", tmp_path / "back.safetensors"
    assert main(["convert", str(word), str(there)]) == 0
    assert main(["convert", str(there), str(back)]) == 0
    assert read(there).tensors["emb_params"].shape == (2, 128)
    first, second = read_embedding(word), read_embedding(back)
    assert torch.equal(first.vectors["text_encoder"], second.vectors["text_encoder"])
    assert first.token == second.token == "zyzzo"
    capsys.readouterr()
    assert main(["inspect", str(there)]) == 0
    assert "zyzzo" in capsys.readouterr().out


def test_a_model_reads_a_word_in_a_new_layout(npz, word, tmp_path):
    file = write_embedding(read_embedding(word), tmp_path / "zyzzo.npz")
    flags = ["--textual_inversion_embeddings", str(file), "--W=64", "--H=64", "--steps=1", "--outdir", str(tmp_path)]
    assert main(["generate", "--prompt", "a zyzzo", *flags]) == 0


def test_a_damaged_file_in_a_new_layout_is_reported(npz, word, tmp_path):
    file = write_embedding(read_embedding(word), tmp_path / "zyzzo.npz")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(FormatError, match="is damaged"):
        read_embedding(file)


def test_an_extension_has_one_writer(npz):
    with pytest.raises(ValueError, match=r"another layout writes pt files"):
        register(Layout("another", read, write, extensions=("pt",)))
    assert set(writers()) == {"safetensors", "pt", "ckpt", "bin", "png", "npz"}


def test_an_unregistered_layout_is_unknown(word, tmp_path):
    with pytest.raises(FormatError, match=r"`\.npz` is not a known file extension"):
        write_embedding(read_embedding(word), tmp_path / "zyzzo.npz")
