"""Tests of the index page: nothing in it becomes HTML that should be text, and its columns sort."""

from __future__ import annotations

import re
import shutil

import pytest
from PIL import Image

from neonym.fleet.page import COLUMNS, index_page
from neonym.fleet.progress import FleetProgress
from neonym.fleet.words import Outcome, Word

EVIL = "<script>alert('1')</script>&\"'"


def verdict(word: str, share: float, **more: object) -> dict[str, object]:
    return {"word": word, "reason": f"because {EVIL}", "advice": "", "share": share, "obedience": 0.5, **more}


@pytest.fixture
def page() -> str:
    """Return the page of four words."""
    words = [Word(name, name, {"pretrained_model_name_or_path": EVIL}, "") for name in ("b10", "b9", "c", EVIL)]
    progress = FleetProgress(words)
    files = ("b10/b10 #1.safetensors",)
    progress.end(
        Outcome("b10", "learned", verdict=verdict("LEARNED", 0.02), step=10, files=files, sheet="b10/sample/s.png")
    )
    progress.end(Outcome("b9", "not learned", verdict=verdict("NOT LEARNED", 0.1, advice="more steps"), step=200))
    progress.end(Outcome(EVIL, "failed", f"words[3]: {EVIL}"))
    return index_page(words, progress, EVIL)


def test_texts_are_escaped(page):
    assert page.count("<script>") == 1  # the page's own
    assert "alert(&#x27;1&#x27;)" in page
    assert "href='b10/b10%20%231.safetensors'" in page
    assert not re.search(r"(?:src|href)=['\"]?(?:https?:)?//", page)


def test_a_word_shows_its_verdict_sheet_and_advice(page):
    rows = re.findall(r"<tr>.*?</tr>", page, re.DOTALL)
    assert len(rows) == 5
    assert "LEARNED" in rows[1]
    assert "<img src='b10/sample/s.png'" in rows[1]
    assert "2.0 %" in rows[1]
    assert "Advice: more steps" in rows[2]
    assert "WAITING" in rows[3]
    assert "FAILED" in rows[4]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_the_columns_sort_in_a_browser(page, tmp_path):
    from playwright.sync_api import sync_playwright

    (tmp_path / "index.html").write_text(page)
    (tmp_path / "b10" / "sample").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "b10" / "sample" / "s.png")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page()
        shown.goto((tmp_path / "index.html").as_uri())

        def first_cells() -> list[str]:
            return [text.strip() for text in shown.locator("tbody tr td:first-child").all_inner_texts()]

        shown.get_by_role("button", name="word", exact=True).click()
        assert first_cells()[-3:] == ["b9", "b10", "c"]
        shown.get_by_role("button", name="word", exact=True).click()
        assert first_cells()[:3] == ["c", "b10", "b9"]
        shown.get_by_role("button", name="steps").click()
        assert [cell for cell in first_cells() if cell.startswith("b")] == ["b10", "b9"]
        heads = shown.locator("th[aria-sort]")
        assert heads.count() == 1
        assert heads.first.get_attribute("aria-sort") == "ascending"
        assert shown.locator("th").count() == len(COLUMNS)
        browser.close()
