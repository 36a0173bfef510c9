"""Fixtures for the generation tests: a model with its pipeline, a photo and a mask."""

import pytest
from PIL import Image

from neonym.generation.pipeline import Pipeline
from neonym.models.model import load_model


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def pipeline(model):
    return Pipeline(model)


@pytest.fixture
def photo(tmp_path):
    """Return the file of an image whose left half is red and whose right half is green."""
    image = Image.new("RGB", (64, 64), (200, 40, 40))
    image.paste((40, 160, 60), (32, 0, 64, 64))
    image.save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.fixture
def mask(tmp_path):
    """Return the file of a mask whose left half is regenerated."""
    image = Image.new("L", (64, 64), 0)
    image.paste(255, (0, 0, 32, 64))
    image.save(tmp_path / "mask.png")
    return str(tmp_path / "mask.png")
