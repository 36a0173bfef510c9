"""`neonym demo`: its files, its report, and its errors."""

import json
import signal
from html.parser import HTMLParser

import pytest
from PIL import Image

from neonym.cli.main import main
from neonym.cli.report import curve
from neonym.formats import read_embedding
from neonym.runs import console
from neonym.runs.console import Terminal
from neonym.runs.events import Event, Stepped

VOID = {"meta", "img", "path", "polyline", "circle"}


class Page(HTMLParser):
    """A parser of a page that requires every element to be closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.links, self.text, self.sources = [], [], [], "", []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        values = dict(attrs)
        self.sources += [values[name] for name in ("src", "srcset", "data") if name in values]
        self.images += [values] if tag == "img" else []
        self.links += [values["href"]] if "href" in values else []

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


class Interrupted(Terminal):
    """A terminal that sends Ctrl-C after the first step."""

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if isinstance(event, Stepped) and event.word == "nutkin":
            signal.raise_signal(signal.SIGINT)


def test_the_demo_resumes_and_writes_files_sheets_and_a_self_contained_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # the examples are found from any folder
    out = tmp_path / "demo"
    flags = ["demo", f"--output_dir={out}", "--max_train_steps=2", "--steps=2"]
    with monkeypatch.context() as patch:
        patch.setattr(console, "Terminal", Interrupted)
        assert main(flags) == 130
    code, (out_text, err_text) = main(flags), capsys.readouterr()
    assert "run the same command again without --restart to continue" in err_text
    assert "continuing from step 1" in err_text
    verdicts = [
        v for word in ("nutkin", "notoish") for v in json.loads((out / f"{word}-run" / "verdict.json").read_text())
    ]
    assert code == (3 if any(v["word"] == "NOT LEARNED" for v in verdicts) else 0)
    for name in ("report.html", "nutkin-before-after.png", "notoish-before-after.png", "nutkin.safetensors"):
        assert f"  {out / name}\n" in out_text
    assert read_embedding(out / "notoish.safetensors").vectors["text_encoder"].shape == (2, 128)
    with Image.open(out / "nutkin-before-after.png") as sheet:
        assert sheet.width > 6 * 128
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    assert len(page.images) == 2 * 3 * 6  # learned from, before and after
    assert all(image["alt"] for image in page.images)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert set(page.links) <= {p.name for p in out.iterdir()}
    for verdict in verdicts:
        assert verdict["word"] in page.text
        assert f"{verdict['loss_before']:.5f} → {verdict['loss_after']:.5f}" in page.text
    assert "an umbrella, notoish, white background" in page.text
    assert any(image["alt"].startswith("Before, with vegetable") for image in page.images)


def test_an_output_folder_that_cannot_be_written_is_an_error(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert main(["demo", f"--output_dir={tmp_path / 'out'}"]) == 2
    assert "Choose another --output_dir" in capsys.readouterr().err


@pytest.mark.parametrize("course", [[(0, 0.5)], [(0, 0.2), (4, 0.2)], [(0, 0.3), (5, 0.2), (9, 0.25)]])
def test_a_curve_stays_in_its_frame(course):
    svg = curve(course, 420, 130)
    ys = [float(point.split(",")[1]) for point in svg.split("points='")[1].split("'")[0].split()]
    assert all(0 <= y <= 130 for y in ys)
