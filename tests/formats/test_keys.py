"""The keys of a word's vectors in files are those of its family's record: here of a family that the package does not know."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from neonym.errors import FormatError
from neonym.formats import read_embedding, write_embedding
from neonym.models import registry
from neonym.models.families.stable_diffusion import SD1
from neonym.models.family import EncoderSpec
from neonym.types import Embedding

ENCODERS = (
    EncoderSpec("text_encoder", "CLIPTextModel", "clip_x", width=896),
    EncoderSpec("text_encoder_2", "T5EncoderModel", "t5x", ("t5y",), kind="t5", width=2048),
)
TWO = replace(SD1, name="two", label="Two", encoders=ENCODERS, recognise=lambda configs, name: None)
ROWS = {spec.name: torch.randn(3, spec.width or 0, generator=torch.Generator().manual_seed(1)) for spec in ENCODERS}
WORD = Embedding("zyzzo", ROWS, {"neonym.family": "two"})


@pytest.fixture
def two():
    registry.register(TWO)
    yield TWO
    registry.unregister(TWO)


@pytest.mark.parametrize("ending", ["safetensors", "pt", "bin", "png"])
@pytest.mark.parametrize("metadata", [WORD.metadata, {}])
def test_a_word_is_written_under_the_keys_of_its_family_and_read_back(two, ending, metadata, tmp_path):
    file = write_embedding(replace(WORD, metadata=metadata), tmp_path / f"zyzzo.{ending}")
    if ending == "safetensors":
        assert set(load_file(file)) == {"clip_x", "t5x"}
    found = read_embedding(file).vectors
    assert found.keys() == ROWS.keys()
    assert all(torch.equal(found[name], ROWS[name]) for name in ROWS)


def test_keys_of_other_programs_and_widths_alone_are_read(two, tmp_path):
    for first, second in (("clip_x", "t5y"), ("one", "another")):
        save_file({first: ROWS["text_encoder"], second: ROWS["text_encoder_2"]}, tmp_path / "other.safetensors")
        found = read_embedding(tmp_path / "other.safetensors").vectors
        assert torch.equal(found["text_encoder_2"], ROWS["text_encoder_2"])
    save_file({"t5y": ROWS["text_encoder_2"]}, tmp_path / "alone.safetensors")
    assert read_embedding(tmp_path / "alone.safetensors").vectors.keys() == {"text_encoder_2"}


def test_widths_that_are_not_the_familys_are_refused(two, tmp_path):
    narrow = replace(WORD, vectors={**ROWS, "text_encoder_2": torch.ones(3, 1024)})
    with pytest.raises(FormatError, match="vectors of 896 and 1024 numbers.*896 and 2048 for Two"):
        write_embedding(narrow, tmp_path / "zyzzo.safetensors")


def test_without_the_family_the_word_is_refused(tmp_path):
    save_file({"clip_x": ROWS["text_encoder"], "t5x": ROWS["text_encoder_2"]}, tmp_path / "two.safetensors")
    with pytest.raises(FormatError, match="has 2 tensors .clip_x, t5x.: it is not an embedding"):
        read_embedding(tmp_path / "two.safetensors")
    with pytest.raises(FormatError, match="no other program has a text encoder for vectors of 896 and 2048 numbers"):
        write_embedding(WORD, tmp_path / "zyzzo.safetensors")
