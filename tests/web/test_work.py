"""Verify the processes beside the server: they end with it, and give their memory back."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, expect
from safetensors.torch import save_file

from neonym.web import work
from neonym.web.home import Home
from neonym.web.work import Workers
from support.coroutines import finished
from support.data_sets import make_images

SECONDS = 60.0
BUSY = """
import asyncio, os, time
from neonym.web.home import Home
from neonym.web.work import Workers

def spin():
    end = time.monotonic() + 600
    while time.monotonic() < end:
        pass

async def serve():
    workers = Workers()
    pids = [await workers.do(pool, os.getpid) for pool in ("checks", "images")]
    work = [asyncio.create_task(workers.do("images", {busy}))]
    await asyncio.sleep(1)
    print(*pids, flush=True)
    await asyncio.gather(*work)

if __name__ == "__main__":
    asyncio.run(serve())
"""


@pytest.mark.parametrize("busy", ["spin", "time.sleep, 600"])
def test_workers_end_when_the_server_is_killed_whatever_they_do(tmp_path, busy):
    script = tmp_path / "server.py"
    script.write_text(BUSY.replace("{busy}", busy))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        pids = server.stdout.readline().split()
        workers = [psutil.Process(int(pid)) for pid in pids]
        assert len(workers) == 2
        server.kill()
        gone, alive = psutil.wait_procs(workers, timeout=SECONDS)
        for process in alive:
            process.kill()
    assert (len(gone), alive) == (2, [])


def word_file(folder: Path) -> Path:
    file = folder / "zyzzo.safetensors"
    save_file({"emb_params": 0.3 * torch.ones(2, 128)}, file, {"neonym.base_model": "builtin:emoji"})
    return file


def test_a_model_that_nobody_uses_is_released_and_loaded_again(tmp_path):
    request = {"prompts": ["a zyzzo"], "words": [str(word_file(tmp_path))], "model": "builtin:emoji", "steps": 1}

    async def use() -> None:
        workers = Workers()
        pids = []
        for i in range(2):
            found = await workers.generate(request, tmp_path / f"{i}", "cpu")
            assert found.error == ""
            pids.append(await workers.do("images", os.getpid))
            assert not workers.release()  # it was used just now
            assert not workers.release({"cuda:0"})
            waiting = asyncio.create_task(workers.generate(request, tmp_path / "more", "cpu"))
            await asyncio.sleep(0)
            assert not workers.release(idle=0.0)  # it works
            await waiting
            assert workers.release({"cpu"}) if i else workers.release(idle=0.0)
            assert not workers.release(idle=0.0)  # there is nothing to release
            gone, _ = await asyncio.to_thread(psutil.wait_procs, processes_of(pids[-1:]), SECONDS)
            assert [process.pid for process in gone] in ([], pids[-1:])
            assert not psutil.pid_exists(pids[-1])
        assert pids[0] != pids[1]
        workers.close()

    finished(use())
    images = [Image.open(tmp_path / f"{i}" / "00.png").tobytes() for i in range(2)]
    assert images[0] == images[1]


def processes_of(pids: list[int]) -> list[psutil.Process]:
    """Return the processes that still run."""
    return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_too_little_memory_is_one_paragraph(tmp_path, monkeypatch, error):
    import neonym

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(neonym, "load_model", fails, raising=False)
    found = work.generate({"prompts": ["a"], "words": [], "model": "builtin:emoji"}, tmp_path, "cuda:0")
    assert found.error.startswith("builtin:emoji: there is not enough memory on cuda:0 to generate this.")


def test_a_sheet_of_files_that_cannot_be_read_is_a_message(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    made = work.sheet([("a", [tmp_path / "broken.png"])], [], tmp_path / "sheet.png")
    assert "broken.png" in made.error
    assert not (tmp_path / "sheet.png").exists()


def test_a_model_that_captions_images_ends_when_the_server_is_killed(start, tab: Page, tmp_path):
    model, home = tmp_path / "model", Home(tmp_path / "home")
    model.mkdir()
    os.mkfifo(model / "selected_tags.csv")  # the command waits for its content, which never comes
    folder = home.add_folder("datasets", str(make_images(tmp_path / "images", 1, caption=None)))
    home.write("draft.json", {"train_data_dir": str(folder)})
    server = start()
    tab.goto(f"{server.url}/new")
    tab.get_by_role("button", name="Caption with a local model").click()
    tab.get_by_label("Kind of model").click()
    tab.get_by_role("option", name="tags").click()
    tab.get_by_label("Folder of the model").fill(str(model))
    tab.get_by_role("button", name="Caption", exact=True).click()
    expect(tab.get_by_text("The model captions the images.")).to_be_visible()
    children = psutil.Process(server.process.pid).children()
    (captioner,) = (child for child in children if "caption" in child.cmdline())
    with pytest.raises(psutil.TimeoutExpired):
        captioner.wait(5)
    server.kill()
    gone, alive = psutil.wait_procs([captioner], timeout=SECONDS)
    for process in alive:
        process.kill()
    assert (gone, alive) == ([captioner], [])
