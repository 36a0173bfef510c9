"""Make the screenshots of docs/web.md: a page on an empty home folder, on which a word is taught in a real Chromium.

The last picture is of the example fleet, which a command trains into the same output folder.

    python -m tools.web_screenshots [--folder docs/web]

It needs `neonym[web]`, playwright and Chromium, and takes some minutes.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from neonym.web.home import Home

STEPS = 100
LONG = 20 * 60_000  # milliseconds
SIZE = {"width": 1100, "height": 800}
COLOURS = 128  # of a picture: it stays small


@contextmanager
def served(home: Path) -> Iterator[str]:
    """Serve a page, and yield its URL."""
    command = [sys.executable, "-m", "neonym", "web", f"--folder={home}", "--port=0", "--no_token"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1].rstrip("/")
    finally:
        process.terminate()
        process.wait()


def shoot(page: Page, file: Path) -> None:
    """Take a picture of a whole page."""
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")  # the head stays at the top of the window
    time.sleep(1)  # animations
    with Image.open(BytesIO(page.screenshot(full_page=True))) as shot:
        shot.convert("RGB").quantize(COLOURS).save(file, optimize=True)


def teach(page: Page, url: str, folder: Path) -> None:
    """Teach the example word, and take pictures of the form and of the run."""
    page.goto(url)
    page.get_by_role("button", name="Try it with the example images").click()
    page.get_by_label("Prompts, one").fill("a 3d render of a nutkin on a blue background\na nutkin on a red background")
    expect(page.get_by_text("Ready to train.")).to_be_visible(timeout=LONG)
    shoot(page, folder / "new-word.png")
    page.get_by_role("button", name="Train", exact=True).click()
    page.wait_for_url(re.compile("/run/"))
    expect(page.get_by_text("step 60", exact=True).first).to_be_visible(timeout=LONG)
    shoot(page, folder / "running.png")
    expect(page.get_by_role("button", name="Look at the word, and try it")).to_be_visible(timeout=LONG)
    shoot(page, folder / "finished.png")


def try_word(page: Page, url: str, folder: Path) -> None:
    """Try the word that was learned, and take pictures of its page and of the list of words."""
    page.goto(url)
    page.get_by_role("link", name="nutkin", exact=True).last.click()
    page.get_by_label("Prompts, one").fill("a 3d render of a {word} on a yellow background")
    page.get_by_role("switch", name="compare strengths").click()
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_alt_text("sheet of all images")).to_be_visible(timeout=LONG)
    shoot(page, folder / "word.png")
    page.goto(url)
    expect(page.get_by_role("link", name="nutkin", exact=True).first).to_be_visible()
    shoot(page, folder / "words.png")


def watch_fleet(page: Page, url: str, home: Path, folder: Path) -> None:
    """Train the example fleet, and take a picture of its page while the last word learns."""
    output = Home(home).folder("outputs")
    command = [sys.executable, "-m", "neonym", "fleet", "examples/fleet/plan.toml", f"--output_dir={output}"]
    process = subprocess.Popen([*command, "--workers=1", "--shard=1"], stdout=subprocess.DEVNULL)
    try:
        while not (output / "fleet.jsonl").exists() and process.poll() is None:
            time.sleep(1)
        page.goto(f"{url}/fleet?folder={output}")
        expect(page.get_by_text(re.compile("3 words: 1 running, "))).to_be_visible(timeout=LONG)
        shoot(page, folder / "fleet.png")
        process.wait()
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Write the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("docs/web"))
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with TemporaryDirectory() as home, served(Path(home)) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)  # pyright: ignore[reportArgumentType]
        teach(page, url, folder)
        try_word(page, url, folder)
        watch_fleet(page, url, Path(home), folder)
        browser.close()


if __name__ == "__main__":
    main()
