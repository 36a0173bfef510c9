"""`neonym generate` as a process: typed prompts, completion of words, and interruptions."""

import os
import signal
import subprocess
import sys
import time
from select import select

from PIL import Image

from support import ROOT
from support.commands import SMALL, generate, shown


def script(*argv, **options):
    """Start the command under sd-scripts' name, as a process that Ctrl-C stops, even if the tests ignore it."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    options.setdefault("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    return subprocess.Popen(
        [sys.executable, str(ROOT / "gen_img_diffusers.py"), *map(str, argv)], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def test_typed_prompts_are_generated(word, tmp_path):
    typed = "a zyzzo --d 7\n\n# nothing\na cat --zz 1\na {e$$red|blue} zyzzo\n"
    process = script("--interactive", "--textual_inversion_embeddings", word, "--outdir", tmp_path / "o", *SMALL)
    out, err = process.communicate(typed, timeout=120)
    assert process.returncode == 0, err
    assert [shown(line).text["prompt"] for line in out.splitlines()] == ["a zyzzo", "a red zyzzo", "a blue zyzzo"]
    assert "`--zz` is not an inline option" in err


def test_words_are_completed_at_a_terminal(word, tmp_path):
    """Tab completes `zy` in every spelling, an arrow key recalls the line, and the end of the input quits."""
    ours, theirs = os.openpty()
    argv = ["--interactive", "--textual_inversion_embeddings", word, "--outdir", tmp_path / "o", *SMALL]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "gen_img_diffusers.py"), *map(str, argv)], stdin=theirs, stdout=theirs,
        stderr=theirs, env={**os.environ, "TERM": "dumb"}, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        for typed in (b"", b"a zy\t, <zy\t> embedding:zy\t\n", b"\x1b[A\n", b"\x04"):
            os.write(ours, typed)
            output, deadline = b"", time.monotonic() + 240
            while not output.endswith(b"prompt> ") and typed != b"\x04" and time.monotonic() < deadline:
                if select([ours], [], [], 0.2)[0]:
                    output += os.read(ours, 4096)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    texts = [shown(file).text["prompt"] for file in sorted((tmp_path / "o").iterdir())]
    assert texts == ["a zyzzo, <zyzzo> embedding:zyzzo"] * 2


def test_finished_images_are_kept_after_an_interruption(tmp_path):
    out = tmp_path / "o"
    process = script("--prompt", "a cat", "--images_per_prompt", 500, "--outdir", out, *SMALL)
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and len(list(out.glob("*.png")) if out.exists() else ()) < 3:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    images = list(out.iterdir())
    assert f"{len(images)} images finished" in err
    assert all(shown(p).size == (64, 64) for p in images)  # none is half-written


def test_an_image_that_is_not_saved_does_not_count_as_finished(tmp_path, capsys, monkeypatch):
    """The command is stopped while it saves the second image."""
    original = Image.Image.save

    def save(image, file, *rest, **more):
        if "_001_" in str(file):
            raise KeyboardInterrupt
        original(image, file, *rest, **more)

    monkeypatch.setattr(Image.Image, "save", save)
    (first,) = generate(tmp_path, "--prompt", "a", "b", "--batch_size", 2, *SMALL, code=130)
    assert "_000_" in first.name
    assert "interrupted: 1 image finished" in capsys.readouterr().err
