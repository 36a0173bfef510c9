"""Verify that no file, whatever its name or content, breaks a page, and that links lead nowhere."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, expect
from safetensors.torch import save_file

from neonym.web.home import Home
from neonym.web.images import query
from neonym.web.library import other_files, read_word, words_in
from support.data_sets import png

LATIN = os.fsdecode(b"caf\xe9")  # a name in an encoding of the past
SHOWN = "caf?"


def word_file(folder: Path, name: str, metadata: dict[str, str] | None = None) -> Path:
    """Write a word for the built-in model into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"emb_params": torch.ones(2, 128)}, folder / "written", {"neonym.base_model": "x", **(metadata or {})})
    return (folder / "written").rename(folder / f"{name}.safetensors")


def with_header(file: Path, header: object) -> Path:
    """Write a .safetensors file with any header, and room for the vectors of a word."""
    data = json.dumps(header).encode()
    file.write_bytes(len(data).to_bytes(8, "little") + data + bytes(2 * 128 * 4))
    return file


def opened(tab: Page, url: str, text: str) -> None:
    """Open a page, and wait for a text on it."""
    tab.goto(url)
    expect(tab.get_by_text(text).first).to_be_visible()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_unicode_break_no_page(start, tab: Page, tmp_path):
    home = Home(tmp_path / "home")
    outputs, images = home.folder("outputs"), tmp_path / "images"
    file = word_file(outputs, LATIN, {"token": "waddlo"})
    word_file(outputs / LATIN, "within")
    word_file(outputs, "plain")
    (outputs / f"{LATIN}.md").write_text("the card")
    Image.new("RGB", (8, 8)).save(outputs / "sheet.png")
    (outputs / "sheet.png").rename(outputs / f"{LATIN}.png")
    for folder in (images, images / LATIN, home.folder("datasets") / LATIN):
        folder.mkdir(parents=True)
        (folder / f"{LATIN}.png").write_bytes(png())
        (folder / f"{LATIN}.txt").write_bytes(b"a mychar4 caf\xe9")
    (home.folder("models") / LATIN).mkdir()
    (home.folder("models") / LATIN / "model_index.json").write_text("{}")
    home.add_folder("datasets", str(images))
    home.write("draft.json", {"train_data_dir": str(images), "token_string": "mychar4"})
    server = start()
    responses: list[tuple[int, str]] = []
    tab.on("response", lambda response: responses.append((response.status, response.url)))
    opened(tab, server.url, "waddlo")
    tab.get_by_role("link", name="waddlo").click()
    expect(tab.get_by_text("In other programs")).to_be_visible()
    expect(tab.get_by_text(f"{SHOWN}.safetensors").first).to_be_visible()
    tab.get_by_role("button", name="Usage card").click()
    expect(tab.get_by_text("the card")).to_be_visible()
    tab.get_by_role("button", name="Close").click()
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download").click()
    assert Path(download.value.path()).read_bytes() == file.read_bytes()
    tab.get_by_role("button", name="Train it again").click()
    expect(tab.get_by_label("New word", exact=True)).to_be_visible()
    home.write("draft.json", {"train_data_dir": str(images), "token_string": "mychar4"})
    opened(tab, f"{server.url}/new", "1 image in images")
    picture = tab.get_by_alt_text(f"image {SHOWN}.png")
    expect(picture).to_be_visible()
    picture.scroll_into_view_if_needed()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    field = tab.get_by_label(f"{SHOWN}.png")
    field.fill("a mychar4 in a café")
    field.blur()
    expect(tab.get_by_text("no captions without mychar4")).to_be_visible()
    expect(tab.get_by_text("Checking...")).to_be_hidden()
    assert (images / f"{LATIN}.txt").read_text("utf-8") == "a mychar4 in a café\n"
    opened(tab, f"{server.url}/compare?{query(file=[file, outputs / 'plain.safetensors'])}", "Try it")
    tab.goto(f"{server.url}/word?{query(file=file)}")
    tab.get_by_role("button", name="Delete").click()
    tab.get_by_role("button", name="Move to the bin").click()
    tab.wait_for_url(f"{server.url}/")
    opened(tab, f"{server.url}/bin", f"{SHOWN}.safetensors")
    tab.get_by_role("button", name="Restore").click()
    expect(tab.get_by_text("Restored:")).to_be_visible()
    assert file.is_file()
    assert not [response for response in responses if response[0] >= 400]
    assert errors_in(server.log.read_text()) == []


HOSTILE_METADATA = {
    "lone surrogates": {"token": "a\ud800b", "neonym.base_model": "\udfff", "neonym.init_word": "\ud800"},
    "control characters": {"token": "a\0b\x1b[31m\u202e", "neonym.base_model": "a\0b", "neonym.settings": "\0"},
    "long texts": {"token": "x" * 100_000, "neonym.base_model": "y/" + "x" * 100_000, "neonym.init_word": "z" * 100_000},
    "other types": {"token": 5, "neonym.base_model": ["a"], "neonym.settings": {"a": 1}, "neonym.steps": None},
    "nested settings": {"token": "a", "neonym.settings": "[" * 100_000, "neonym.base_model": "../../../etc/passwd"},
    "settings of all kinds": {
        "token": "a",
        "neonym.settings": json.dumps({"learning_rate": {"a": 1}, "max_train_steps": [1], "num_vectors_per_token": "\ud800"}),
    },
}  # fmt: skip


def errors_in(log: str) -> list[str]:
    """Return the errors in the log of a server, without requests that the browser gave up, for example for a thumbnail."""
    found = re.findall(r"^([\w.]+(?:Error|Exception)\b.*)$", log, re.MULTILINE)
    return [error for error in found if "No response returned" not in error]


@pytest.mark.parametrize("kind", HOSTILE_METADATA)
def test_hostile_metadata_break_no_page(start, tab: Page, tmp_path, kind):
    home = Home(tmp_path / "home")
    tensors = {"emb_params": {"dtype": "F32", "shape": [2, 128], "data_offsets": [0, 1024]}}
    file = with_header(home.folder("outputs") / "odd.safetensors", {**tensors, "__metadata__": HOSTILE_METADATA[kind]})
    assert read_word(file) is not None
    (home.folder("outputs") / "odd-run").mkdir()
    verdict = {"token": "\ud800", "word": ["\ud800"], "reason": {"\ud800": 1}, "advice": "\0", "loss_before": "x"}
    (home.folder("outputs") / "odd-run" / "verdict.json").write_text(json.dumps([5, verdict]))
    server = start()
    tab.goto(server.url)
    expect(tab.locator("section.n-card")).to_have_count(1)
    opened(tab, f"{server.url}/word?{query(file=file)}", "In other programs")
    opened(tab, f"{server.url}/new?{query(like=file)}", "6. Check and train")
    expect(tab.get_by_text("Checking...")).to_be_hidden()
    assert errors_in(server.log.read_text()) == []


def test_links_to_elsewhere_are_not_shown(tmp_path):
    home = Home(tmp_path / "home")
    elsewhere = word_file(tmp_path / "elsewhere", "secret")
    (tmp_path / "elsewhere" / "verdict.json").write_text('[{"token": "secret"}]')
    (tmp_path / "elsewhere" / "secret.md").write_text("secret")
    outputs = home.folder("outputs")
    (outputs / "link.safetensors").symlink_to(elsewhere)
    word_file(outputs, "mine")
    (outputs / "mine.md").symlink_to(elsewhere.with_suffix(".md"))
    (outputs / "mine-run").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "secret.pt").touch()
    (outputs / "link.pt").symlink_to(tmp_path / "elsewhere" / "secret.pt")
    assert other_files(home) == []
    (word,) = words_in(home)
    assert (word.token, word.card, word.verdict) == ("mine", None, None)


def test_files_are_served_by_names_that_are_not_unicode_and_others_are_not(start, tmp_path):
    server = start()
    folder = server.home / "datasets" / LATIN
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "secret.png").write_bytes(png())
    (server.home / "secret.json").write_text("{}")
    from urllib.error import HTTPError
    from urllib.request import urlopen

    def status(route: str, path: object) -> int:
        try:
            return urlopen(f"{server.url}/{route}?path={quote(os.fsencode(str(path)))}", timeout=30).status
        except HTTPError as error:
            return error.code

    for route in ("thumbnail", "file"):
        assert status(route, folder / "a.png") == 200
        for path in (folder / "link.png", tmp_path / "secret.png", server.home / "token", server.home / "secret.json",
                     folder, "", "a\0.png", folder / ("x" * 5000 + ".png")):  # fmt: skip
            assert status(route, path) == 404, path
