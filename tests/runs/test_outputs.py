"""Tests of the files that a run writes: names are tried first, deleted folders are recreated, leftovers are removed."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neonym import train
from neonym.cli.main import main
from neonym.errors import UserError
from neonym.io.atomic import atomic_write, clear_leftovers, held, part_of, refused_names
from neonym.runs.events import Event, Stepped
from support.data_sets import make_images

LONGEST = os.pathconf("/tmp", "PC_NAME_MAX")
ENDING = len(".safetensors")


def check(tmp_path: Path, capsys, *more: str) -> tuple[int, str]:
    """Run `neonym check`, verify that it leaves no files behind, and return its exit code and output."""
    images = tmp_path / "pictures"
    if not images.exists():
        make_images(images, 2)
    before = sorted(tmp_path.rglob("*"))
    flags = [f"--train_data_dir={images}", "--token_string=mychar4", f"--output_dir={tmp_path / 'out'}", *more]
    code = main(["check", *flags])
    assert sorted(tmp_path.rglob("*")) == before
    return code, capsys.readouterr().out


@pytest.mark.parametrize(
    ("length", "excess", "more"),
    [
        (LONGEST - ENDING, 0, []),
        (LONGEST - ENDING, -3, ["--save_model_as=png"]),
        (LONGEST - ENDING + 1, 1, []),
        (LONGEST - ENDING, 13, ["--save_every_n_steps=5"]),
        (LONGEST - ENDING, 7, ["--save_every_n_epochs=1"]),
        (LONGEST - 8, 4, []),
        (LONGEST - 8, 11, ["--save_model_as=pt", "--save_state", "--save_every_n_steps=5"]),
    ],
)
def test_names_are_tried_with_the_longest_ending(tmp_path, capsys, length, excess, more):
    code, output = check(tmp_path, capsys, f"--output_name={'x' * length}", *more)
    assert code == (2 if excess > 0 else 0), output
    if excess > 0:
        assert "error: --output_name: a name would be xxx" in output
        assert f"{excess} byte{'s' * (excess > 1)} too long" in output
        assert output.count("error: --") == 1


def test_names_are_measured_in_bytes_including_those_of_sample_images(tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a mychar4 --d 12345678901")
    code, output = check(tmp_path, capsys, f"--output_name={'é' * 122}")
    assert (code, "1 byte too long" in output) == (2, True)
    name = f"--output_name={'x' * 215}"
    assert check(tmp_path, capsys, name)[0] == 0
    code, output = check(tmp_path, capsys, name, f"--sample_prompts={prompts}", "--sample_every_n_steps=5")
    assert code == 2
    assert "12345678901.png" in output


def test_a_token_that_is_too_long_for_a_file_name_is_refused(tmp_path, capsys):
    code, output = check(tmp_path, capsys, f"--token_string={'y' * 250}")
    assert code == 2
    assert f"the word `{'y' * 250}`: a name would be" in output
    assert "--output_name gives its file another name" in output


@pytest.mark.parametrize("flag", ["--output_name", "--token_string", "--output_dir"])
def test_names_that_are_not_unicode_are_refused(tmp_path, capsys, flag):
    code, output = check(tmp_path, capsys, f"{flag}=a\udcff")
    assert code == 2
    assert "is not valid Unicode" in output


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--output_dir", "y" * 300 + "/b", "--output_dir: a name would be yyy"),
        ("--output_dir", "d/" * 2100, "longer than the system allows"),
        ("--output_dir", "a-file", "a-file is a file, but a folder with this name is needed"),
        ("--output_dir", "a-file/below", "a-file is not a folder that can be written to"),
        ("--output_dir", "dangling", "dangling is a file, but a folder"),
        ("--logging_dir", "a-file/below", "--logging_dir: "),
        ("--console_log_file", "y" * 300, "--console_log_file: a name would be yyy"),
        ("--console_log_file", "taken", "--console_log_file: "),
        ("--output_dir", "taken", "mychar4.md is a folder, but a file"),
        ("--output_dir", "taken", "verdict.json is a folder, but a file"),
    ],
)
def test_folders_and_paths_are_tried(tmp_path, capsys, flag, value, words):
    (tmp_path / "a-file").write_text("x")
    (tmp_path / "taken" / "mychar4.md").mkdir(parents=True)
    (tmp_path / "taken" / "mychar4-run" / "verdict.json").mkdir(parents=True)
    (tmp_path / "dangling").symlink_to("nowhere")
    code, output = check(tmp_path, capsys, f"{flag}={tmp_path}/{value}")
    assert code == 2
    assert words in output


def test_log_prefixes_are_tried(tmp_path, capsys):
    code, output = check(tmp_path, capsys, f"--logging_dir={tmp_path / 'logs'}", f"--log_prefix={'p' * 245}")
    assert code == 2
    assert "--log_prefix: a name would be ppp" in output


def test_all_problems_of_outputs_are_reported_at_once(tmp_path, capsys):
    (tmp_path / "a-file").write_text("x")
    code, output = check(
        tmp_path, capsys, f"--logging_dir={tmp_path}/a-file", f"--output_name={'x' * 300}", "--learning_rate=-1"
    )
    assert code == 2
    assert all(flag in output for flag in ("--logging_dir: ", "--output_name: ", "--learning_rate"))


def train_command(tmp_path: Path, *more: str) -> list[str]:
    """Return the command line of a short run into `out` in a process of its own."""
    flags = [
        f"--train_data_dir={make_images(tmp_path / 'pictures', 2)}", "--token_string=mychar4", "--cpu", "--eval_samples=8",
        f"--output_dir={tmp_path / 'out'}", "--max_train_steps=14", "--train_batch_size=1", "--resolution=64", "--learning_rate=0.01",
        "--state_every_n_steps=1", f"--logging_dir={tmp_path / 'logs'}", "--save_state_on_train_end", *more,
    ]  # fmt: skip
    return [sys.executable, "-m", "neonym", "train", *flags]


def disturbed(tmp_path: Path, disturb, *more: str) -> tuple[int, str]:
    """Run a training process, call `disturb` after its first saved state, and return its exit code and output."""
    process = subprocess.Popen(
        train_command(tmp_path, *more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    state = tmp_path / "out" / "mychar4-run" / "state.safetensors"
    while not state.exists() and process.poll() is None:
        time.sleep(0.01)
    disturb(tmp_path)
    output = process.communicate(timeout=500)[0]
    assert "Traceback" not in output
    return process.returncode, output


def remove(home: Path) -> None:
    """Remove the output and log folders."""
    for folder in ("out", "logs"):
        shutil.rmtree(home / folder, ignore_errors=True)


def replace(home: Path) -> None:
    """Replace the output and log folders by files, so that they cannot be recreated."""
    remove(home)
    for folder in ("out", "logs"):
        (home / folder).write_text("in the way")


def test_folders_deleted_during_a_run_are_recreated_or_the_state_is_saved_elsewhere(tmp_path):
    """A run recreates deleted folders; if files are in the way, its final state is saved in a temporary folder."""
    homes = {name: tmp_path / name for name in ("removed", "replaced")}
    for home in homes.values():
        home.mkdir()
    code, output = disturbed(homes["removed"], remove)
    assert code in (0, 3), output
    out = homes["removed"] / "out"
    assert {p.name for p in out.iterdir()} == {"mychar4.safetensors", "mychar4.md", "mychar4-run", "mychar4-state"}
    names = {"finished.safetensors", "verdict.json", "events.jsonl"}
    assert {p.name for p in (out / "mychar4-run").iterdir()} == names
    assert list((homes["removed"] / "logs").rglob("events.out*"))

    code, output = disturbed(homes["replaced"], replace)
    assert code == 2, output
    assert "warning: logging ends" in output
    (kept,) = homes["replaced"].glob("neonym-*")
    assert f"what was learned until step 14 is kept in {kept / 'state.safetensors'}" in output
    assert f"--resume {kept}" in output
    (homes["replaced"] / "out").unlink()
    (homes["replaced"] / "logs").unlink()
    again = subprocess.run(
        train_command(homes["replaced"], f"--resume={kept}"), capture_output=True, text=True, timeout=500
    )
    assert again.returncode in (0, 3), again.stderr
    files = [home / "out" / "mychar4.safetensors" for home in homes.values()]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_run_gives_up_a_folder_that_another_run_replaced(run_for, tmp_path):
    """A run whose folder was replaced by another run's writes nothing to it, and saves its state elsewhere."""
    folder = tmp_path / "out" / "mychar4-run"
    code = "import sys, time; from pathlib import Path; from neonym.io.atomic import alone_in\nwith alone_in(Path(sys.argv[1])): print(flush=True); time.sleep(600)"
    others = []

    def swap(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 2:
            shutil.rmtree(folder)
            folder.mkdir()
            others.append(subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE))
            others[0].stdout.readline()

    try:
        with pytest.raises(
            UserError, match="another process is training here; what was learned until step 4 is kept in"
        ):
            train(run_for(max_train_steps=4, state_every_n_steps=1), [swap])
        assert not list(folder.iterdir())
        assert not list(tmp_path.glob("out/*.safetensors"))
    finally:
        for other in others:
            with other:
                other.kill()


def ended_process() -> int:
    """Return the id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_only_leftovers_of_killed_processes_are_removed(run_for, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gone, cache = ended_process(), tmp_path / "cache" / "neonym"
    folders = [
        tmp_path / "out",
        *(tmp_path / "out" / name for name in ("mychar4-run", "sample", "mychar4-state")),
        cache,
    ]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / f".mychar4.safetensors.{gone}.part").write_text("half")
        (folder / f".of-us-in-another-container.{os.getpid()}.part").write_text("half")
        (folder / f".mychar4.md.{os.getppid()}.part").write_text("of a living process")
        (folder / f"mychar4.safetensors.{gone}.part").write_text("another program's")
    (tmp_path / "out" / f".abc.{gone}.part").mkdir()
    with held(tmp_path / "out" / f".held.{gone}.part"):  # as if by a process on another host
        train(run_for(max_train_steps=1, save_state_on_train_end=True, cache_latents_to_disk=True))
        left = {name.name for name in (tmp_path / "out").glob("*.part")} | {
            n.name for n in (tmp_path / "out").glob(".*.part")
        }
        assert left == {f".mychar4.md.{os.getppid()}.part", f"mychar4.safetensors.{gone}.part", f".held.{gone}.part"}
    for folder in folders[1:]:
        left = {path.name for path in folder.iterdir() if path.name.endswith(".part")}
        assert left == {f".mychar4.md.{os.getppid()}.part", f"mychar4.safetensors.{gone}.part"}
    old = tmp_path / "out" / f".mychar4.md.{os.getppid()}.part"
    os.utime(old, (1e9, 1e9))  # the id belongs to another process by now
    clear_leftovers(tmp_path / "out")
    assert not old.exists()
    clear_leftovers(tmp_path / "nowhere")


def test_the_partial_file_of_a_killed_process_is_removed_by_the_next_one(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from neonym.io.atomic import atomic_write
with atomic_write(Path(sys.argv[1])) as part:
    part.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    file = tmp_path / ("x" * 240 + ".safetensors")
    for name in (file, tmp_path / "short.safetensors"):
        subprocess.run([sys.executable, "-c", code, str(name)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    clear_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(os.fsencode(part_of(file).name)) < 60
    with atomic_write(file) as part:
        part.write_bytes(b"whole")
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_a_lasting_file_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    """A lasting file is synced before it is renamed, and its folder afterwards; other files are not synced."""
    calls = []
    sync, put = os.fsync, os.rename
    monkeypatch.setattr(
        os, "fsync", lambda handle: calls.append(str(Path(f"/proc/self/fd/{handle}").readlink())) or sync(handle)
    )
    monkeypatch.setattr(os, "replace", lambda old, new: calls.append("replace") or put(old, new))
    file = tmp_path / "word.safetensors"
    for lasting in (False, True):
        with atomic_write(file, lasting=lasting) as part:
            part.write_bytes(b"x")
    assert calls == ["replace", str(part_of(file)), "replace", str(tmp_path)]


def test_states_and_embeddings_are_synced(run_for, monkeypatch):
    synced = []
    sync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: synced.append(str(Path(f"/proc/self/fd/{handle}").readlink())) or sync(handle)
    )
    run = run_for(max_train_steps=1, cache_latents_to_disk=True)
    train(run)
    names = {Path(name).name.removesuffix(f".{os.getpid()}.part") for name in synced}
    assert {".mychar4.safetensors", ".state.safetensors", ".verdict.json", "mychar4-run", "out"} <= names
    assert not [name for name in synced if "cache" in name]


def test_trying_names_leaves_no_files(tmp_path):
    refused = refused_names(tmp_path, ["good", "x" * 300, "a/b", "", "zero\0", ".."])
    assert set(refused) == {"x" * 300, "a/b", "", "zero\0", ".."}
    assert not list(tmp_path.iterdir())
