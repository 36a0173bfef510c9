"""Verify that the tables of docs/training.md about U-Nets are what is computed for a model of full size."""

import re

import pytest

from benchmarks.fits import chosen_line, needs_for, needs_line
from neonym.models.memory import GB, Choice, estimate
from neonym.models.storage import Storage
from support import ROOT

MODEL = "sd1"  # SDXL would take three times as long


def test_the_docs_say_what_a_model_of_full_size_needs_and_what_is_chosen_for_it():
    page = (ROOT / "docs" / "training.md").read_text("utf-8").replace("`", "").splitlines()
    assert needs_line(MODEL) in page
    assert chosen_line(MODEL) in page


def test_a_step_takes_little_more_than_the_weights():
    """The docs name the number beside a measurement: 0.86 billion weights of the U-Net and 0.12 of CLIP, in 16 bits."""
    needs = needs_for(MODEL)
    assert sum(needs.sizes.denoiser.numbers) == pytest.approx(0.8595e9, rel=1e-4)
    found = estimate(needs, Choice(Storage(), samples=1))
    stated = re.search(r"to take ([\d.]+) GB", (ROOT / "docs" / "training.md").read_text("utf-8"))
    assert stated
    assert (found.weights + found.activations) / GB == pytest.approx(float(stated[1]), abs=0.005)
