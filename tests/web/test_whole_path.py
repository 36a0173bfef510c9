"""Verify in a real browser the path from an empty home folder to an image with the word."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from support.accessibility import check_accessible

LONG = 180_000  # milliseconds: a run of a few steps on a busy machine


def name_of(file: Path) -> str:
    """Return the name of a file, which tells its step."""
    return file.name


def train_example(tab: Page, url: str, steps: int) -> None:
    """Start a run of the example images from the empty library."""
    tab.goto(url)
    tab.get_by_role("button", name="Try it with the example images").click()
    expect(tab.get_by_text("8 images in")).to_be_visible()
    expect(tab.get_by_text("Stable Diffusion 1.x, 128 x 128 pixels")).to_be_visible()
    tab.get_by_label("Steps").fill(str(steps))
    tab.get_by_label("Prompts, one").fill("a photo of {word} --s 4")
    expect(tab.get_by_text("Ready to train.")).to_be_visible()
    tab.get_by_role("button", name="Train", exact=True).click()
    tab.wait_for_url(re.compile("/run/"))


def test_from_an_empty_home_to_an_image_with_the_word(start, tab: Page):
    server = start()
    tab.goto(server.url)
    expect(tab.get_by_text("No words yet")).to_be_visible()
    train_example(tab, server.url, 12)
    expect(tab.get_by_text(re.compile(r"step \d+ of 12"))).to_be_visible(timeout=LONG)
    tab.get_by_role("button", name="Save now").click()
    expect(tab.get_by_role("button", name="Look at the word, and try it")).to_be_visible(timeout=LONG)
    expect(tab.get_by_text("Sample images", exact=True)).to_be_visible()
    expect(tab.get_by_role("button", name="use the word of step").first).to_be_visible()
    word = server.home / "outputs" / "nutkin.safetensors"
    last, step = word.read_bytes(), min((server.home / "outputs").rglob("nutkin-step*.safetensors"), key=name_of)
    tab.get_by_role("button", name="use the word of step").first.click()
    expect(tab.get_by_text("is now the word of")).to_be_visible()
    assert word.read_bytes() == step.read_bytes() != last
    tab.get_by_role("button", name="Look at the word, and try it").click()
    tab.get_by_label("Prompts, one").fill("a {word} on a red background")
    tab.get_by_label("Seeds").fill("2")
    tab.get_by_role("button", name="More").click()
    tab.get_by_label("Steps").fill("4")
    tab.get_by_role("button", name="Generate").click()
    sheet = tab.get_by_alt_text("sheet of all images")
    expect(sheet).to_be_visible(timeout=LONG)
    assert sheet.evaluate("image => image.decode().then(() => image.naturalWidth)") == 4 + 2 * 132
    expect(tab.get_by_alt_text(re.compile("a nutkin on a red background, seed"))).to_have_count(2)
    check_accessible(tab)
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download", exact=True).click()
    assert Path(download.value.path()).read_bytes() == word.read_bytes()
    tab.goto(server.url)
    expect(tab.get_by_role("link", name="nutkin", exact=True)).to_be_visible()
    assert server.stop() in (0, 130, -2)
