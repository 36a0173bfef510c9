"""Verify that what is deleted can be restored, and that restoring overwrites nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from neonym import UserError
from neonym.web.bin import ORIGINS, contents_of_bin, empty_bin, restore, to_bin
from neonym.web.home import Home


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


def word(folder: Path, text: str = "mine") -> list[Path]:
    """Make the files of a word."""
    (folder / "word-run").mkdir(parents=True)
    (folder / "word-run" / "events.jsonl").write_text(text)
    (folder / "word.safetensors").write_text(text)
    return [folder / "word.safetensors", folder / "word-run"]


def test_what_is_deleted_is_restored_to_where_it_was(home, tmp_path):
    home.make_and_add_folder("outputs", str(tmp_path / "other"))
    for folder in (home.folder("outputs"), home.folder("outputs") / "more", tmp_path / "other"):
        files = word(folder)
        to_bin(home, files)
        assert not any(file.exists() for file in files)
        (deleted,) = contents_of_bin(home)
        assert (deleted.title, deleted.size > 8) == ("word.safetensors", True)
        assert sorted(restore(home, deleted.folder)) == sorted(files)
        assert (folder / "word-run" / "events.jsonl").read_text() == "mine"
        assert contents_of_bin(home) == []
        assert list(home.folder("bin").iterdir()) == []


def test_names_with_a_leading_dot_are_restored_and_what_was_half_written_is_not(home):
    hidden = home.folder("outputs") / ".foo.safetensors"
    hidden.write_text("mine")
    folder = to_bin(home, [hidden])
    (folder / ".origins.json.123.part").touch()
    (deleted,) = contents_of_bin(home)
    assert deleted.title == ".foo.safetensors"
    assert restore(home, folder) == [hidden]
    assert (hidden.read_text(), folder.exists()) == ("mine", False)


def test_files_elsewhere_are_not_deleted(home, tmp_path):
    (elsewhere := tmp_path / "elsewhere.safetensors").write_text("not mine")
    (home.folder("outputs") / "link.safetensors").symlink_to(elsewhere)
    folder = to_bin(home, [home.folder("outputs") / "link.safetensors", elsewhere])
    assert elsewhere.read_text() == "not mine"
    assert [path.name for path in folder.iterdir() if path.name != ORIGINS] == ["link.safetensors"]


def test_restoring_overwrites_nothing(home):
    old = word(home.folder("outputs"), "old")
    to_bin(home, old)
    word(home.folder("outputs"), "new")
    to_bin(home, [home.folder("outputs") / "word.safetensors"])
    word_file = home.folder("outputs") / "word.safetensors"
    word_file.symlink_to("missing")  # a dead link is something, too
    newer, older = contents_of_bin(home)
    for deleted, text in ((older, "old"), (newer, "new")):
        restored = restore(home, deleted.folder)
        assert {path.parent.parent for path in restored} == {home.folder("outputs")}
        assert next(path for path in restored if path.suffix).read_text() == text
    assert word_file.is_symlink()
    assert (home.folder("outputs") / "word-run" / "events.jsonl").read_text() == "new"


@pytest.mark.parametrize("origin", ["/etc", "", "relative", "missing", 5, "a\0b"])
def test_what_came_from_elsewhere_is_restored_among_the_words(home, origin, tmp_path):
    folder = to_bin(home, word(home.folder("outputs")))
    where = str(tmp_path / origin) if origin == "missing" else origin
    (folder / ORIGINS).write_text(json.dumps({"word.safetensors": where, "word-run": where}))
    assert {path.parent for path in restore(home, folder)} == {home.folder("outputs") / folder.name}


def test_damaged_origins_lose_nothing(home):
    folder = to_bin(home, word(home.folder("outputs")))
    (folder / ORIGINS).write_bytes(b"\xff[")
    (home.folder("bin") / "stray.txt").touch()
    (home.folder("bin") / "empty").mkdir()
    (deleted,) = contents_of_bin(home)
    assert len(restore(home, deleted.folder)) == 2


def test_only_folders_in_the_bin_are_restored(home, tmp_path):
    word(tmp_path / "other")
    for folder in (tmp_path / "other", home.folder("bin") / "gone", home.folder("bin") / ".." / ".." / "other"):
        with pytest.raises(UserError, match="is not in the bin any more"):
            restore(home, folder)
    assert (tmp_path / "other" / "word.safetensors").is_file()


def test_emptying_deletes_no_more_than_the_bin(home, tmp_path):
    word(tmp_path / "other")
    to_bin(home, word(home.folder("outputs")))
    to_bin(home, word(home.folder("outputs")))
    (home.folder("bin") / "link").symlink_to(tmp_path / "other")
    empty_bin(home)
    assert list(home.folder("bin").iterdir()) == []
    assert (tmp_path / "other" / "word.safetensors").is_file()


def test_a_word_is_restored_and_the_bin_is_emptied_on_the_page(start, tab: Page, tmp_path):
    home = Home(tmp_path / "home")
    for _ in range(2):
        to_bin(home, word(home.folder("outputs")))
    server = start()
    tab.goto(server.url)
    tab.get_by_role("link", name="Bin").click()
    expect(tab.get_by_text("2 deleted words")).to_be_visible()
    tab.get_by_role("button", name="restore word.safetensors").first.click()
    expect(tab.get_by_text(re.compile(r"Restored: .*outputs.word\.safetensors"))).to_be_visible()
    assert (home.folder("outputs") / "word.safetensors").is_file()
    tab.reload()
    expect(tab.get_by_text("1 deleted word,")).to_be_visible()
    tab.get_by_role("button", name="Empty the bin").click()
    tab.get_by_role("button", name="Cancel").click()
    assert len(contents_of_bin(home)) == 1
    tab.get_by_role("button", name="Empty the bin").click()
    tab.get_by_role("button", name="Delete for good").click()
    expect(tab.get_by_text("The bin is empty.")).to_be_visible()
    assert contents_of_bin(home) == []
    assert (home.folder("outputs") / "word.safetensors").is_file()
