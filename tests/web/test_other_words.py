"""Verify that the page of a run of several words shows each of them."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from neonym.web.draft import Draft
from neonym.web.home import Home
from neonym.web.queue import Queue
from support.data_sets import make_images

LONG = 180_000  # milliseconds
WORDS = ("mychar4", "zyzzo", "notoish")


def test_the_words_of_a_data_set_file_are_followed_on_one_page(start, tab: Page, tmp_path):
    concepts = "".join(f'[[concepts]]\ntoken_string = "{word}"\n' for word in WORDS)
    folders = {word: make_images(tmp_path / word, 2, caption=f"a {word}") for word in WORDS}
    subsets = "".join(f"[[datasets.subsets]]\nimage_dir = '{folders[word]}'\nconcept = '{word}'\n" for word in WORDS)
    (tmp_path / "data.toml").write_text(f"{concepts}[[datasets]]\n{subsets}")
    values = {"dataset_config": str(tmp_path / "data.toml"), "max_train_steps": 4, "cpu": True, "eval_samples": 8}
    home = Home(tmp_path / "home")
    queue = Queue(home, ["cpu"])
    queue.pause(True)
    entry = queue.add(Draft(values))
    server = start()
    tab.goto(f"{server.url}/run/{entry.id}")
    expect(tab.get_by_role("heading", name="mychar4 and 2 more")).to_be_visible()
    expect(tab.get_by_role("heading", name="Other words of this run")).to_be_visible()
    expect(tab.get_by_text("waiting", exact=True)).to_have_count(3)
    expect(tab.get_by_role("button", name="look at zyzzo")).to_be_hidden()
    queue.pause(False)
    ends = tab.get_by_text(re.compile(r"^(LEARNED|WEAK|NOT LEARNED).*, step 4 of 4, queued"))
    expect(ends).to_have_count(3, timeout=LONG)
    tab.get_by_role("button", name="look at zyzzo").click()
    expect(tab.get_by_role("heading", name="zyzzo").first).to_be_visible()
    expect(tab.get_by_text("In other programs")).to_be_visible()
