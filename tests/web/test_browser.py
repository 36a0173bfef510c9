"""Verify in a real browser what users and attackers do to the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, expect
from safetensors.torch import save_file

import neonym
from neonym.web.bin import to_bin
from neonym.web.draft import Draft
from neonym.web.home import Home
from neonym.web.queue import Queue
from support.data_sets import make_images, png

HOSTILE = '<img src=x onerror="window.harmed=1"><script>window.harmed=1</script>'
LONG = 180_000  # milliseconds


def word_file(home: Path, name: str, metadata: dict[str, str] | None = None) -> Path:
    """Write a word for the built-in model into the output folder."""
    (home / "outputs").mkdir(parents=True, exist_ok=True)
    file = home / "outputs" / f"{name}.safetensors"
    rows = 0.3 * torch.randn(2, 128, generator=torch.Generator().manual_seed(1))
    save_file({"emb_params": rows}, file, {"neonym.base_model": "builtin:emoji", **(metadata or {})})
    return file


def use_data_set(home: Path, folder: Path, **values: object) -> None:
    """Let the form of a new word begin with a data set."""
    Home(home).add_folder("datasets", str(folder))
    Home(home).write("draft.json", {"train_data_dir": str(folder), "token_string": "mychar4", **values})


def test_hostile_names_captions_and_metadata_are_text(start, tab: Page, tmp_path):
    home = tmp_path / "home"
    name = "<img src=x onerror=harmed=1>"
    word_file(home, name, {"token": HOSTILE, "neonym.base_model": HOSTILE, "neonym.init_word": HOSTILE})
    (home / "outputs" / f"{name}.md").write_text(HOSTILE)
    run_folder = home / "outputs" / f"{name}-run"
    run_folder.mkdir()
    verdict = {"token": name, "word": HOSTILE, "reason": HOSTILE, "advice": HOSTILE}
    (run_folder / "verdict.json").write_text(json.dumps([verdict]))
    images = make_images(tmp_path / "images", count=2, caption=HOSTILE)
    Image.new("RGB", (8, 8)).save(images / f"{name}.png")
    use_data_set(home, images, init_word=HOSTILE, token_string=HOSTILE)
    server = start(home=home)
    requested: list[str] = []
    tab.on("request", lambda request: requested.append(request.url))
    tab.goto(server.url)
    expect(tab.get_by_text(HOSTILE).first).to_be_visible()
    tab.get_by_role("link", name=HOSTILE).click()
    expect(tab.get_by_text("In other programs")).to_be_visible()
    tab.get_by_role("button", name="Usage card").click()
    expect(tab.get_by_text(HOSTILE).last).to_be_visible()
    tab.goto(f"{server.url}/new")
    expect(tab.get_by_label(f"{name}.png")).to_be_visible()
    expect(tab.get_by_text("Checking...")).to_be_hidden()
    assert tab.evaluate("window.harmed") is None
    assert all(url.startswith((server.url, server.url.replace("http", "ws"), "data:", "blob:")) for url in requested)
    assert not [url for url in requested if url.endswith("/x")]


def test_captions_are_edited_and_replaced_in_their_files(start, tab: Page, tmp_path):
    images = make_images(tmp_path / "images", count=3, caption="a thing")
    use_data_set(tmp_path / "home", images)
    server = start()
    tab.goto(f"{server.url}/new")
    expect(tab.get_by_text("3 captions without mychar4")).to_be_visible()
    expect(tab.get_by_text("none of the 3 captions contains the word").first).to_be_visible()
    expect(tab.get_by_role("button", name="Train", exact=True)).to_be_disabled()
    files = sorted(images.glob("*.txt"))
    field = tab.get_by_label(f"{files[0].stem}.png")
    field.fill("a mychar4 on a table")
    field.blur()
    expect(tab.get_by_text("2 captions without mychar4")).to_be_visible()
    assert files[0].read_text().strip() == "a mychar4 on a table"
    tab.get_by_role("button", name="Add the word to all").click()
    expect(tab.get_by_text("no captions without mychar4")).to_be_visible()
    tab.get_by_label("Find").fill("thing")
    tab.get_by_label("Replace by").fill("toy")
    tab.get_by_role("button", name="Replace in all").click()
    expect(tab.get_by_text("2 captions changed.")).to_be_visible()
    assert files[1].read_text().strip() == "mychar4, a toy 1"
    expect(tab.get_by_text("Ready to train.")).to_be_visible()


def test_a_disk_that_refuses_to_pause_the_queue_is_told_and_the_switch_shows_that_it_is_not(start, tab: Page):
    server = start()
    (server.home / "queue.json").mkdir()  # in the place of the file
    tab.goto(f"{server.url}/runs")
    switch, error = tab.get_by_role("switch", name="Pause the queue"), tab.get_by_text("queue.json cannot be written")
    for _ in range(2):
        switch.click()
        expect(error).to_be_visible()
        expect(switch).not_to_be_checked()
        tab.get_by_role("button", name="Close").click()
        expect(error).to_be_hidden()
    tab.wait_for_timeout(3000)
    expect(error).to_be_hidden()  # it is told once
    (server.home / "queue.json").rmdir()
    switch.click()
    expect(switch).to_be_checked()
    queue = Queue(Home(server.home), ["cpu"])
    assert queue.paused
    queue.pause(False)  # another tab
    expect(switch).not_to_be_checked()


def test_images_in_folders_with_repeats_are_shown_captioned_and_kept(start, tab: Page, tmp_path):
    make_images(tmp_path / "images" / "10_mychar4 toy", count=2, caption=None)
    make_images(tmp_path / "images" / "2_thing", count=1, caption=None)
    use_data_set(tmp_path / "home", tmp_path / "images")
    server = start()
    tab.goto(f"{server.url}/new")
    expect(tab.get_by_text("3 images in images: 10_mychar4 toy (10 times), 2_thing (2 times)")).to_be_visible()
    expect(tab.get_by_text("1 caption without mychar4")).to_be_visible()
    field = tab.get_by_label("2_thing/00.png")
    expect(field).to_have_attribute("placeholder", "thing")
    field.fill("a mychar4 thing")
    field.blur()
    expect(tab.get_by_text("no captions without mychar4")).to_be_visible()
    assert (tmp_path / "images" / "2_thing" / "00.caption").read_text() == "a mychar4 thing\n"
    expect(tab.get_by_text("Ready to train.")).to_be_visible()
    tab.get_by_role("button", name="Show the command").click()
    expect(tab.get_by_text("neonym train --")).to_contain_text(f"--train_data_dir={tmp_path / 'images'}")


def test_a_folder_with_models_that_the_user_names_is_offered(start, tab: Page, tmp_path):
    shutil.copytree(Path(neonym.__file__).parent / "models" / "builtin" / "emoji", tmp_path / "program" / "mine")
    server = start()
    tab.goto(f"{server.url}/new")
    tab.get_by_role("button", name="Add a folder with models").click()
    tab.get_by_label("Folder, such as").fill(str(tmp_path / "program"))
    tab.get_by_role("button", name="Add folder").click()
    tab.wait_for_timeout(2000)  # until it was looked through
    tab.get_by_label("Model:").click()
    tab.get_by_role("option", name="mine, Stable Diffusion 1.x (program)").click()
    expect(tab.get_by_text("Stable Diffusion 1.x, 128 x 128 pixels")).to_be_visible()


def test_two_browsers_see_the_same_queue_and_keep_their_own_forms(start, browser, tmp_path):
    images = make_images(tmp_path / "images", count=2, caption="a mychar4")
    home = Home(tmp_path / "home")
    queue = Queue(home, ["cpu"])
    queue.pause(True)
    entry = queue.add(Draft({"train_data_dir": str(images), "token_string": "mychar4", "max_train_steps": 5}))
    server = start()
    one, two = browser.new_context().new_page(), browser.new_context().new_page()
    for page in (one, two):
        page.goto(f"{server.url}/runs")
        expect(page.get_by_text("waiting", exact=True)).to_be_visible()
    one.get_by_role("button", name="stop mychar4").click()
    for page in (one, two):
        expect(page.get_by_text("stopped", exact=True)).to_be_visible()
    two.get_by_role("button", name="remove from the list: mychar4").click()
    two.get_by_role("button", name="Remove", exact=True).click()
    for page in (one, two):
        expect(page.get_by_text("No runs yet")).to_be_visible()
    assert queue.entry(entry.id) is None
    for page, word in ((one, "first"), (two, "second")):
        page.goto(f"{server.url}/new")
        page.get_by_label("New word", exact=True).fill(word)
    expect(one.get_by_label("New word", exact=True)).to_have_value("first")
    expect(two.get_by_label("New word", exact=True)).to_have_value("second")
    for page in (one, two):
        page.context.close()


def test_a_run_goes_on_when_the_page_is_killed_and_is_shown_again(start, tab: Page, tmp_path):
    images = make_images(tmp_path / "images", count=2, caption="a mychar4")
    values = {
        "train_data_dir": str(images),
        "token_string": "mychar4",
        "max_train_steps": 2000,
        "cpu": True,
        "eval_samples": 8,
    }
    Queue(Home(tmp_path / "home"), ["cpu"]).add(Draft(values))
    first = start()
    tab.goto(f"{first.url}/runs")
    expect(tab.get_by_text(re.compile(r"step \d+ of 2000"))).to_be_visible(timeout=LONG)
    (entry,) = Queue(Home(first.home), ["cpu"]).entries()
    first.kill()
    assert entry.process.running()
    second = start()
    tab.goto(f"{second.url}/run/{entry.id}")
    expect(tab.get_by_text(re.compile(r"step \d+ of 2000"))).to_be_visible(timeout=LONG)
    tab.get_by_role("button", name="Stop").click()
    expect(tab.get_by_role("button", name="Go on")).to_be_visible(timeout=LONG)
    tab.get_by_role("button", name="Go on").click()
    expect(tab.get_by_text(re.compile(r"step \d+ of 2000"))).to_be_visible(timeout=LONG)
    subprocess.run(["rm", "-rf", entry.run_folder], check=True)  # somebody deletes the folder of the run
    tab.get_by_role("button", name="Stop").click()
    expect(tab.get_by_role("button", name="Go on")).to_be_visible(timeout=LONG)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible(start, tab: Page, tmp_path, scheme):
    """Axe finds nothing on any page, in both colour schemes, and nothing is wider than 400 pixels."""
    home = tmp_path / "home"
    words = [word_file(home, name) for name in ("one", "two")]
    images = make_images(tmp_path / "images", count=2, caption="a mychar4")
    use_data_set(home, images)
    queue = Queue(Home(home), ["cpu"])
    queue.pause(True)
    entry = queue.add(Draft({"train_data_dir": str(images), "token_string": "mychar4"}))
    to_bin(Home(home), [word_file(home, "deleted")])
    fleet = Home(home).folder("outputs")
    (fleet / "fleet.jsonl").write_text('{"event": "started", "words": ["one", "two"]}\n')
    server = start(home=home)
    tab.emulate_media(color_scheme=scheme)
    pages = {
        "/": "one", "/new": "Ready to train.", "/runs": "waiting", f"/run/{entry.id}": "Loss", "/bin": "Empty the bin",
        f"/fleet?folder={fleet}": "waiting", f"/word?file={words[0]}": "In other programs", f"/compare?file={words[0]}&file={words[1]}": "Try it",
    }  # fmt: skip
    found = {}
    for path, text in pages.items():
        tab.set_viewport_size({"width": 1200, "height": 900})
        tab.goto(server.url + path)
        expect(tab.get_by_text(text, exact=True).first).to_be_visible()
        results = Axe().run(tab).response["violations"]
        found[path] = [(each["id"], [node["html"][:200] for node in each["nodes"]][:3]) for each in results]
        tab.set_viewport_size({"width": 400, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 400, path
    assert not {path: own for path, own in found.items() if own}


def test_the_form_is_filled_by_keyboard_alone(start, tab: Page, tmp_path):
    use_data_set(tmp_path / "home", make_images(tmp_path / "images", count=2, caption="a mychar4"), token_string="")
    server = start()
    tab.goto(f"{server.url}/new")
    tab.get_by_label("New word", exact=True).wait_for()
    for _ in range(20):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.getAttribute('aria-label')") == "New word":
            break
    tab.keyboard.type("mychar4")
    tab.keyboard.press("Tab")
    tab.keyboard.type("cat")
    expect(tab.get_by_text("Its vectors start from: cat")).to_be_visible()
    expect(tab.get_by_text("Ready to train.")).to_be_visible()


def peak_memory(pid: int) -> int:
    """Return the most bytes that a process has used at once, where the system tells it, else those that it uses now."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    peak = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
    return peak or psutil.Process(pid).memory_info().rss


def test_ten_thousand_images_of_which_many_are_large_are_shown_a_page_at_a_time(start, tab: Page, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    large, small = png((6000, 4000), "RGBA"), png((64, 64))
    for i in range(10_000):
        (images / f"{i}.png").write_bytes(large if i < 24 else small)
    use_data_set(tmp_path / "home", images)
    server = start()
    started = time.monotonic()
    tab.goto(f"{server.url}/new")
    expect(tab.get_by_text("10000 images in")).to_be_visible()
    assert time.monotonic() - started < 20
    expect(tab.get_by_text("1 to 24 of 10000")).to_be_visible()
    for i in range(24):
        picture = tab.get_by_alt_text(f"image {i}.png", exact=True)
        picture.scroll_into_view_if_needed()
        expect(picture).to_have_js_property("naturalWidth", 320, timeout=LONG)
    tab.get_by_role("button", name="next images").click()
    expect(tab.get_by_text("25 to 48 of 10000")).to_be_visible()
    assert 24 <= len(list((server.home / "cache").glob("*.webp"))) <= 48
    tab.locator("input[type=file]").set_input_files([str(images / "0.png")])
    expect(tab.get_by_text("1 image in mychar4")).to_be_visible()
    peak = peak_memory(server.process.pid)
    print(f"the server used at most {peak / 2**20:.0f} MB")
    assert peak < 300 * 2**20


def test_a_second_page_is_one_paragraph(start, tmp_path):
    server = start()
    port = server.url.rpartition(":")[2]
    for flags, said in (([f"--folder={tmp_path / 'other'}", f"--port={port}"], "cannot be listened on"),
                        ([f"--folder={server.home}", "--port=0"], "is the home folder of another page")):  # fmt: skip
        second = subprocess.run([sys.executable, "-m", "neonym", "web", *flags], capture_output=True, text=True)
        assert second.returncode == 2
        assert said in second.stderr
        assert "Traceback" not in second.stderr


def test_a_word_is_deleted_to_the_bin_and_two_are_compared(start, tab: Page, tmp_path):
    home = tmp_path / "home"
    for name in ("one", "two"):
        word_file(home, name)
        (home / "outputs" / f"{name}-run").mkdir()
        (home / "outputs" / f"{name}-run" / "verdict.json").write_text(json.dumps([{"token": name, "word": "WEAK"}]))
    server = start(home=home)
    tab.goto(server.url)
    tab.get_by_label("compare one").click()
    tab.get_by_label("compare two").click()
    tab.get_by_role("button", name="Compare two words").click()
    tab.get_by_label("Seeds").fill("2")
    tab.get_by_role("button", name="More").click()
    tab.get_by_label("Steps").fill("2")
    tab.get_by_role("button", name="Generate").click()
    expect(tab.get_by_alt_text("sheet of all images")).to_be_visible(timeout=LONG)
    expect(tab.get_by_alt_text(re.compile("(one|two), a photo of (one|two), seed [12]"))).to_have_count(4)
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download the sheet").click()
    assert download.value.suggested_filename == "one-two-sheet.png"
    with Image.open(download.value.path()) as sheet:
        assert sheet.size == (4 + 2 * 132, 4 + 16 + 2 * (16 + 132))
    tab.goto(server.url)
    tab.get_by_role("link", name="one", exact=True).click()
    tab.get_by_role("button", name="Delete").click()
    tab.get_by_role("button", name="Move to the bin").click()
    expect(tab.get_by_role("link", name="two", exact=True)).to_be_visible()
    expect(tab.get_by_role("link", name="one", exact=True)).to_have_count(0)
    assert sorted(path.name for path in (home / "bin").glob("*/one*")) == ["one-run", "one.safetensors"]


def test_a_command_is_imported_and_a_recipe_is_taken_from_a_word(start, tab: Page, tmp_path):
    images = make_images(tmp_path / "images", count=2, caption="a waddlo")
    settings = json.dumps({"learning_rate": "0.007", "train_data_dir": str(images), "max_train_steps": 33})
    file = word_file(tmp_path / "home", "old", {"neonym.settings": settings, "neonym.init_word": "bird"})
    server = start()
    tab.goto(f"{server.url}/new")
    tab.get_by_role("button", name="Import settings").click()
    command = f"accelerate launch train_textual_inversion.py --token_string=waddlo --train_data_dir={images} --max_train_steps=50"
    tab.get_by_label("Command or file").fill(command)
    tab.get_by_role("button", name="Import", exact=True).click()
    expect(tab.get_by_label("New word", exact=True)).to_have_value("waddlo")
    expect(tab.get_by_label("Steps")).to_have_value("50")
    tab.get_by_role("button", name="Show the command").click()
    expect(tab.get_by_text("neonym train --")).to_contain_text("--token_string=waddlo")
    tab.goto(f"{server.url}/word?file={file}")
    tab.get_by_role("button", name="Train it again").click()
    expect(tab.get_by_label("Starts as")).to_have_value("bird")
    expect(tab.get_by_label("Learning rate")).to_have_value("0.007")
    expect(tab.get_by_label("Steps")).to_have_value("33")


def test_all_settings_are_those_that_act_on_the_model(start, tab: Page):
    server = start()
    tab.goto(f"{server.url}/new")
    expect(tab.get_by_text("Stable Diffusion 1.x, 128 x 128 pixels")).to_be_visible()
    tab.get_by_role("button", name="All settings").click()
    tab.get_by_role("button", name="Loss and noise").click()
    expect(tab.get_by_label("min snr gamma")).to_be_visible()
    assert tab.get_by_label("discrete flow shift").count() == 0
    tab.get_by_label("min snr gamma").fill("many")
    expect(tab.get_by_text("min_snr_gamma").first).to_be_visible()
    tab.get_by_label("Model:").click()
    tab.get_by_role("option", name="builtin:emoji-flow").click()
    expect(tab.get_by_text("Z-Image, 128 x 128 pixels")).to_be_visible()
    tab.get_by_role("button", name="All settings").click()
    tab.get_by_role("button", name="Loss and noise").click()
    expect(tab.get_by_label("discrete flow shift")).to_be_visible()
    assert tab.get_by_label("min snr gamma").count() == 0
