"""Verify that the latents of images are cached by content."""

import shutil

import pytest
import torch
from PIL import Image

from neonym.data.buckets import BucketRules
from neonym.data.datasets import Dataset, Folder
from neonym.data.latent_cache import cache_moments
from neonym.data.latent_keys import entry_name, latent_keys
from neonym.data.records import scan
from neonym.types import ImageRules
from support.data_sets import make_images

WHOLE = BucketRules((128, 128))


@pytest.mark.parametrize("readers", [0, 4])
def test_the_cache_is_keyed_by_content(tmp_path, readers):
    folder, cache = make_images(tmp_path / "a", 3), tmp_path / "cache"
    sets = [Dataset((Folder(folder, 0, image_rules=ImageRules(flip=True)),), 4, WHOLE)]
    encoded, complaints = [], []

    def encode(pixels):
        encoded.append(pixels)
        return torch.nn.functional.avg_pool2d(pixels, 8)

    def run(vae_hash="v"):
        encoded.clear()
        records, _ = scan(sets, lambda p: None)
        return cache_moments(
            records, encode, vae_hash, cache, lambda done, total: None, complaints.append, complaints.append, readers=readers
        )  # fmt: skip

    first = run()
    assert len(encoded) == 6  # three images and their mirror images
    again = run()
    assert not encoded
    assert all(torch.equal(first[place], again[place]) for place in first)
    shutil.copy(folder / "02.png", folder / "00.png")  # another image under the old name
    run()
    assert len(encoded) == 0  # its content is known
    Image.new("RGB", (128, 128), "orange").save(folder / "01.png")
    run()
    assert len(encoded) == 2
    (plain,) = complaints  # both ways round it is one image
    assert "1 image of a single colour, with nothing to see (01.png)" in plain
    run()
    assert complaints == [plain]
    run("another VAE")
    assert len(encoded) == 4  # 00 and 02 are the same content
    records, _ = scan(sets, lambda p: None)
    damaged = cache / entry_name(records[0].content, latent_keys(records)[0][1], "v")
    whole = damaged.read_bytes()
    for content in (whole[:-40], whole[:-40] + bytes(40), b""):
        damaged.write_bytes(content)
        run()
        assert len(encoded) == 1
    assert damaged.read_bytes() == whole
    assert set(complaints) == {plain}
    assert not list(cache.glob("*.part"))
    shutil.rmtree(cache)
    cache.write_text("a file where the folder should be")
    run()
    assert len(encoded) == 4
    assert sum("cannot be written to" in complaint for complaint in complaints) == 1
