"""Verify in a real browser the form of a new word: what it says first, what it keeps, and names that are taken."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from neonym.web.home import Home
from neonym.web.queue import Queue
from support.data_sets import make_images

LONG = 60_000  # milliseconds


def test_an_empty_form_says_what_to_do_and_keeps_what_is_typed(start, tab: Page, tmp_path):
    server = start()
    tab.goto(f"{server.url}/new")
    expect(tab.get_by_text("Name the new word (1).")).to_be_visible(timeout=LONG)
    expect(tab.get_by_text("Choose its images (2).")).to_be_visible()
    expect(tab.get_by_label("error", exact=True)).to_have_count(0)
    tab.get_by_label("New word", exact=True).fill("mychar4")
    tab.get_by_label("Prompts, one").fill("a {word} in the snow")
    expect(tab.get_by_text("Name the new word (1).")).to_have_count(0, timeout=LONG)
    expect(tab.get_by_text("Choose its images (2).")).to_be_visible()
    tab.get_by_label("Steps").fill("many")
    expect(tab.get_by_label("error", exact=True)).to_have_count(1)
    tab.reload()
    expect(tab.get_by_label("New word", exact=True)).to_have_value("mychar4")
    expect(tab.get_by_label("Prompts, one")).to_have_value("a {word} in the snow")
    tab.get_by_role("button", name="Clear").click()
    tab.get_by_role("button", name="Empty it").click()
    expect(tab.get_by_label("New word", exact=True)).to_have_value("")
    expect(tab.get_by_label("Prompts, one")).to_have_value("a photo of {word}\na {word} on a blue background")


def test_only_the_folder_of_masks_is_opened_and_not_what_is_typed_on_the_way(start, tab: Page, tmp_path):
    """A path is typed in parts, which are folders, too; what the page may read is written down."""
    home, masks = Home(tmp_path / "home"), tmp_path / "mine" / "masks"
    masks.mkdir(parents=True)
    server = start()
    tab.goto(f"{server.url}/new")
    tab.get_by_text("Masks: learn only from a part").click()
    field = tab.get_by_label("Folder of masks")
    field.fill(str(masks.parent))
    tab.wait_for_timeout(1500)
    assert home.named("datasets") == [home.folder("datasets")]
    field.fill(f"{masks}x")
    field.press("Enter")
    expect(tab.get_by_text("masksx is not a folder")).to_be_visible()
    field.fill(str(masks))
    field.blur()
    tab.wait_for_timeout(1500)
    assert home.named("datasets") == [home.folder("datasets"), masks]
    assert home.read("draft.json", {})["masks"] == str(masks)


def test_a_name_that_a_word_has_is_asked_about(start, tab: Page, tmp_path):
    images = make_images(tmp_path / "images", count=2, caption="a mychar4")
    home = Home(tmp_path / "home")
    home.add_folder("datasets", str(images))
    home.write("draft.json", {"train_data_dir": str(images), "token_string": "mychar4"})
    Queue(home, ["cpu"]).pause(True)
    word = home.folder("outputs") / "mychar4.safetensors"
    word.write_bytes(b"an earlier word")
    server = start()

    def train() -> None:
        tab.goto(f"{server.url}/new")
        expect(tab.get_by_text("Ready to train.")).to_be_visible(timeout=LONG)
        tab.get_by_role("button", name="Train", exact=True).click()

    train()
    expect(tab.get_by_text("mychar4: there is a word of this name, which the run would replace.")).to_be_visible()
    tab.get_by_role("button", name="Cancel").click()
    assert word.is_file()
    tab.get_by_role("button", name="Train", exact=True).click()
    tab.get_by_role("button", name="Keep both: name this one mychar4-2").click()
    expect(tab.get_by_role("heading", name="mychar4-2")).to_be_visible()
    train()
    expect(tab.get_by_text("mychar4: there is a word of this name")).to_be_visible()
    tab.get_by_role("button", name="Replace it").click()
    expect(tab.get_by_role("heading", name="mychar4", exact=True)).to_be_visible()
    assert not word.exists()
    assert [file.read_bytes() for file in home.folder("bin").glob("*/mychar4.safetensors")] == [b"an earlier word"]
    train()
    expect(tab.get_by_text("mychar4: this run is in the list already, and is waiting.")).to_be_visible()
    expect(tab.get_by_role("button", name="Replace it")).to_have_count(0)
    tab.get_by_role("button", name="Keep both: name this one mychar4-3").click()
    expect(tab.get_by_role("heading", name="mychar4-3")).to_be_visible()
