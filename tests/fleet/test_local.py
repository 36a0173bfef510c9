"""Fleets of local processes, as a user starts them: faults of every kind, and every word as it is alone, bit for bit."""

from __future__ import annotations

import signal
import time
from contextlib import suppress

import psutil

from support.fleets import (
    FAST,
    LONG,
    NAMES,
    check_words,
    ends_of,
    log_of,
    make_words,
    run_fleet,
    start_fleet,
    steps_of,
    wait_for,
    write_plan,
)


def workers_of(driver: int) -> list[psutil.Process]:
    """Return the processes that train for a driver."""
    children = psutil.Process(driver).children()
    return [child for child in children if any("spawn_main" in word for word in child.cmdline())]


def test_a_worker_that_is_killed_is_replaced(plan, tmp_path, alone):
    out = tmp_path / "out"
    process = start_fleet(plan, out, "--workers=2")
    wait_for(lambda: any(steps_of(out, name) >= 5 for name in NAMES), process)
    trained = {tuple(line["words"]): line["worker"] for line in log_of(out) if line["event"] == "shard"}
    assert set(trained.values()) == {"cpu #0", "cpu #1"}
    for worker in workers_of(process.pid):
        worker.kill()
    printed = process.communicate(timeout=120)[0]
    assert process.returncode in (0, 3), printed
    check_words(out, alone)
    died = [line for line in log_of(out) if line["event"] == "died"]
    assert [line["reason"] for line in died] == ["its process ended with SIGKILL"] * 2
    assert not log_of(out)[-1]["failed"]


def test_ctrl_c_saves_every_state_and_the_same_command_goes_on(plan, tmp_path, alone):
    out = tmp_path / "out"
    process = start_fleet(plan, out, "--workers=2")
    wait_for(lambda: steps_of(out, "alpha") >= 5, process)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    assert "stopping after this step" in printed
    assert (out / "alpha" / "alpha-run" / "state.safetensors").exists()
    assert log_of(out)[-1] | {"time": 0} == {
        "event": "stopped", "time": 0, "waiting": 3, "running": 0, "learned": 0, "weak": 0, "not learned": 0, "failed": 0
    }  # fmt: skip
    code, printed = run_fleet(plan, out)
    assert code in (0, 3), printed
    check_words(out, alone)


def test_a_signal_to_all_processes_saves_every_state(words, tmp_path):
    """A batch system signals the workers as well, which the driver then asks to stop once more."""
    plan = write_plan(tmp_path / "plan.toml", words, {**LONG, "max_train_steps": 400, "state_every_n_steps": 1000})
    out = tmp_path / "out"
    process = start_fleet(plan, out, "--workers=2", "--shard=1")
    wait_for(lambda: any(steps_of(out, name) >= 3 for name in NAMES), process)
    busy = [name for name in NAMES if steps_of(out, name) >= 3]
    workers = workers_of(process.pid)
    process.send_signal(signal.SIGTERM)
    for _ in range(10):
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.terminate()
        time.sleep(0.005)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 143, printed
    for name in busy:
        assert (out / name / f"{name}-run" / "state.safetensors").exists(), name


def test_a_driver_that_is_killed_takes_its_workers_along(plan, tmp_path, alone):
    out = tmp_path / "out"
    process = start_fleet(plan, out)
    wait_for(lambda: steps_of(out, "alpha") >= 5, process)
    workers = workers_of(process.pid)
    assert workers
    process.kill()
    process.wait()
    code, printed = run_fleet(plan, out)  # at once: the worker may not have noticed yet
    assert code in (0, 3), printed
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    check_words(out, alone)
    process.communicate()


def test_a_fleet_says_what_became_of_every_word(words, tmp_path):
    folder = tmp_path / "words"
    make_words(folder, "alpha", "beta", "broken")
    for image in (folder / "broken").glob("*.png"):
        image.write_bytes(b"no image")
    plan = write_plan(tmp_path / "plan.toml", folder, FAST, [{"token": "still", "folder": str(folder / "beta")}])
    (folder / "beta" / "00.txt").write_text("a still beta")
    out = tmp_path / "out"
    code, printed = run_fleet(plan, out)
    assert code == 2, printed
    assert "broken: FAILED" in printed
    assert f"{plan} words_dir (`broken`): {folder}/broken" in printed.replace("\n", " ")
    assert printed.rstrip().endswith(f"failed: {out / 'index.html'}")
    first = {line["word"]: line for line in log_of(out) if line["event"] == "word"}
    assert first["broken"]["ending"] == "failed"
    page = (out / "index.html").read_text()
    assert "alpha/alpha.safetensors" in page
    before = (out / "alpha" / "alpha.safetensors").stat().st_mtime_ns

    started = time.monotonic()
    code, again = run_fleet(plan, out)
    assert code == 2
    assert time.monotonic() - started < 60
    assert again.splitlines()[-1] == printed.splitlines()[-1]
    assert (out / "alpha" / "alpha.safetensors").stat().st_mtime_ns == before
    assert ends_of(out, "alpha") == 1
    second = [line for line in log_of(out) if line["event"] == "word"][len(first) :]
    assert {line["word"]: line.get("was_finished", False) for line in second}["alpha"] is True


def test_a_word_that_is_not_learned_is_exit_code_3_every_time(tmp_path):
    plan = write_plan(tmp_path / "plan.toml", make_words(tmp_path / "words", "alpha"), {**FAST, "learning_rate": 1e-7})
    for _ in range(2):
        code, printed = run_fleet(plan, tmp_path / "out")
        assert code == 3, printed
        assert "alpha: NOT LEARNED (" in printed
        assert "1 not learned" in printed.splitlines()[-1]


def test_check_trains_nothing(plan, words, tmp_path):
    code, printed = run_fleet(plan, tmp_path / "out", "--check")
    assert code == 0, printed
    assert "3 of 3 words can be trained" in printed
    assert not (tmp_path / "out").exists()


def test_a_second_fleet_in_the_same_folder_is_refused(plan, tmp_path):
    out = tmp_path / "out"
    first = start_fleet(plan, out)
    wait_for(lambda: log_of(out), first)
    code, printed = run_fleet(plan, out)
    assert code == 2
    assert "another fleet is running here" in printed
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert first.returncode == 143
