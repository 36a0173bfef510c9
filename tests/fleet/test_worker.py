"""Tests of a shard that is trained in this process, with its output in a folder or on an object store."""

import errno
import json
from dataclasses import replace

import fsspec
import pytest

import neonym
from neonym.fleet.checking import check_word
from neonym.fleet.object_store import StoreOutput, StoreWorkspace
from neonym.fleet.output import LocalOutput, open_output
from neonym.fleet.plan import read_plan
from neonym.fleet.pool import Assignment
from neonym.fleet.words import END, Shard, Word
from neonym.fleet.worker import Reports, fault_of_machine, finished_outcome, train_shard, work
from support.fleets import ends_of, learned_alone, make_words, write_plan


@pytest.fixture
def memory():
    """Return an empty store in memory."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs
    fs.store.clear()


@pytest.fixture
def shard(tmp_path):
    """Return a shard of three words, the second of which has a broken image and no other."""
    folder = make_words(tmp_path / "words", "alpha", "broken", "gamma")
    for image in (folder / "broken").glob("*.png"):
        image.write_bytes(b"no image")
    words, _ = read_plan(write_plan(tmp_path / "plan.toml", folder))
    return Shard(tuple(words))


def test_a_broken_word_leaves_the_others_as_they_are_alone(tmp_path, shard):
    reports = Reports()
    outcomes = train_shard(shard, LocalOutput(tmp_path / "out"), reports, neonym.Stop())
    by_name = {outcome.name: outcome for outcome in outcomes}
    assert by_name["broken"].ending == "failed"
    assert "words_dir (`broken`)" not in by_name["broken"].error  # the driver's check has said where
    assert "00.png" in by_name["broken"].error
    assert not by_name["broken"].machine
    for name in ("alpha", "gamma"):
        assert by_name[name].files == (f"{name}/{name}.safetensors",)
        file = tmp_path / "out" / name / f"{name}.safetensors"
        assert file.read_bytes() == learned_alone(tmp_path / "alone", tmp_path / "words", name)
    progress, ended = reports.take()
    assert {p.name: p.step for p in progress} == {"alpha": 6, "gamma": 6}
    assert {o.name for o in ended} == {"alpha", "gamma"}
    assert reports.take() == ((), ())


def test_a_finished_word_is_not_trained_again(tmp_path, shard):
    shard = Shard(shard.words[:1])
    output = LocalOutput(tmp_path / "out")
    (first,) = train_shard(shard, output, Reports(), neonym.Stop())
    assert output.looks_finished(shard.words) == {"alpha"}
    reports = Reports()
    (second,) = train_shard(shard, output, reports, neonym.Stop())
    assert second == replace(first, was_finished=True)
    assert ends_of(tmp_path / "out", "alpha") == 1
    assert [outcome.was_finished for outcome in reports.take()[1]] == [True]


@pytest.mark.parametrize("state", ["damaged", "missing"])
def test_a_finished_word_without_its_verdict_says_which_file_it_lacks(tmp_path, shard, state):
    word, workspace = shard.words[0], LocalOutput(tmp_path).workspace(shard.words[0])
    file = workspace.folder / word.run_folder / "verdict.json"
    if state == "damaged":
        file.parent.mkdir(parents=True)
        file.write_text("{")
    outcome = finished_outcome(word, workspace, None, 6, ())
    assert outcome.ending == "failed"
    assert f"alpha/alpha-run/verdict.json in the output folder is {state}" in outcome.error


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_word_goes_on_from_the_store_on_another_machine(tmp_path, shard, memory, kind, monkeypatch):
    monkeypatch.setattr("neonym.fleet.worker.REPORT_SECONDS", 0)
    url = f"file://{tmp_path}/store" if kind == "file" else "memory://store"
    shard, stop = Shard(shard.words[:1]), neonym.Stop()
    reports = Reports()
    reports.send = lambda: [stop.request() for progress in reports.progress.values() if progress.step == 3]
    here = StoreOutput(url, tmp_path / "here")
    with here.claimed():
        (outcome,) = train_shard(shard, here, reports, stop)
    assert outcome.ending == "stopped"
    assert outcome.step == 3
    assert not (tmp_path / "here" / "alpha").exists()
    fs, root = fsspec.core.url_to_fs(url)
    assert fs.exists(f"{root}/alpha/alpha-run/state.safetensors")

    there = StoreOutput(url, tmp_path / "there")
    (outcome,) = train_shard(shard, there, Reports(), neonym.Stop())
    assert outcome.ending in ("learned", "weak", "not learned")
    alone = learned_alone(tmp_path / "alone", tmp_path / "words", "alpha")
    assert fs.cat_file(f"{root}/alpha/alpha.safetensors") == alone
    names = {name.rpartition("/")[2] for name in fs.find(f"{root}/alpha")}
    assert names == {"alpha.safetensors", "alpha.md", "events.jsonl", "verdict.json", END}  # no state, no leftovers
    assert there.looks_finished(shard.words) == {"alpha"}

    (outcome,) = train_shard(shard, StoreOutput(url, tmp_path / "third"), Reports(), neonym.Stop())
    assert outcome.was_finished
    events = fs.cat_file(f"{root}/alpha/alpha-run/events.jsonl").decode().splitlines()
    assert [json.loads(line)["event"] for line in events].count("judged") == 1


def test_the_state_reaches_the_store_while_a_word_is_trained(tmp_path, shard, memory, monkeypatch):
    saved = []
    save = StoreWorkspace.save

    def noted(self):
        save(self)
        saved.append(sorted(name.rpartition("/")[2] for name in memory.find("/store")))

    monkeypatch.setattr(StoreWorkspace, "save", noted)
    output = StoreOutput("memory://store", tmp_path / "scratch")
    train_shard(Shard(shard.words[:1]), output, Reports(), neonym.Stop(), save_seconds=0)
    assert ["events.jsonl", "state.safetensors"] in saved


def test_a_store_that_refuses_is_the_fault_of_the_machine(tmp_path, shard, memory, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError("the store says no")

    monkeypatch.setattr(type(memory), "put_file", refuse)
    output = StoreOutput("memory://store", tmp_path / "scratch")
    reports = Reports()
    (outcome,) = train_shard(Shard(shard.words[:1]), output, reports, neonym.Stop())
    assert outcome.ending == "failed"
    assert outcome.machine == "the store says no"
    assert "cannot be copied to the object store (the store says no)" in outcome.error
    assert reports.take()[1] == ()  # it was never reported as learned
    assert (tmp_path / "scratch" / "alpha" / "alpha.safetensors").exists()  # what is not on the store is kept


@pytest.mark.parametrize("name", ["find", "put_file"])
def test_a_store_that_fails_for_a_moment_is_tried_again(tmp_path, shard, memory, monkeypatch, name):
    clean, failures = getattr(type(memory), name), [1, 2]

    def fail(*args, **options):
        if failures:
            failures.pop()
            raise OSError(errno.EIO, "the store is busy")
        return clean(*args, **options)

    monkeypatch.setattr(type(memory), name, fail)
    monkeypatch.setattr("neonym.fleet.outages.PAUSES", (0, 0))
    output = StoreOutput("memory://store", tmp_path / "scratch")
    (outcome,) = train_shard(Shard(shard.words[:1]), output, Reports(), neonym.Stop())
    assert outcome.ending != "failed"
    assert memory.exists("/store/alpha/alpha.safetensors")


def test_a_store_that_keeps_failing_is_no_fault_of_the_machine(tmp_path, shard, memory, monkeypatch):
    def fail(*args, **options):
        raise OSError(errno.EIO, "the store is busy")

    monkeypatch.setattr(type(memory), "find", fail)
    monkeypatch.setattr("neonym.fleet.outages.PAUSES", (0, 0))
    output = StoreOutput("memory://store", tmp_path / "scratch")
    outcomes = train_shard(shard, output, Reports(), neonym.Stop())
    assert len(outcomes) == 3
    assert all("the store is busy" in outcome.store and not outcome.machine for outcome in outcomes)


def test_a_full_disk_is_the_fault_of_the_machine():
    error = neonym.UserError("cannot be written", "state.safetensors")
    error.__cause__ = OSError(28, "No space left on device")
    assert "No space left" in fault_of_machine(error)
    assert fault_of_machine(neonym.UserError("cannot be read", "00.png")) == ""


def test_a_machine_that_cannot_open_the_output_hands_its_words_over(shard):
    given = Assignment(shard, "nowhere://x", None, None, 60)
    outcomes = work(given, Reports(), neonym.Stop(), neonym.KeptModel())
    assert {outcome.name for outcome in outcomes} == {"alpha", "broken", "gamma"}
    assert all("--output_dir nowhere://x" in outcome.machine for outcome in outcomes)


def test_a_disk_without_space_for_prompts_hands_that_word_over(tmp_path, shard, monkeypatch):
    run = Word.run

    def full(self, folder):
        if self.name == "alpha":
            raise OSError(28, "No space left on device")
        return run(self, folder)

    monkeypatch.setattr(Word, "run", full)
    given = Assignment(shard, str(tmp_path / "out"), None, None, 60)
    by_name = {outcome.name: outcome for outcome in work(given, Reports(), neonym.Stop(), neonym.KeptModel())}
    assert "No space left" in by_name["alpha"].machine
    assert by_name["gamma"].ending != "failed"


def test_an_error_of_a_library_ends_one_word(tmp_path, shard, monkeypatch):
    clean = neonym.train_words

    def poisoned(runs, **options):
        if any(run.concept.token_string == "alpha" for run in runs):
            raise RuntimeError("out of memory")
        return clean(runs, **options)

    monkeypatch.setattr(neonym, "train_words", poisoned)
    outcomes = train_shard(shard, LocalOutput(tmp_path / "out"), Reports(), neonym.Stop())
    by_name = {outcome.name: outcome for outcome in outcomes}
    assert by_name["alpha"].error == "the run ended with an error: RuntimeError: out of memory"
    assert by_name["gamma"].ending != "failed"


def test_a_word_for_which_there_was_no_time_is_handed_out_again(tmp_path, shard):
    words = [replace(word, settings={**word.settings, "max_train_time": 1e-9}) for word in shard.words[::2]]
    outcomes = train_shard(Shard(tuple(words)), LocalOutput(tmp_path / "out"), Reports(), neonym.Stop())
    assert [(outcome.ending, outcome.error) for outcome in outcomes] == [("stopped", "")] * 2


def test_an_unknown_kind_of_store_is_refused():
    with pytest.raises(neonym.UserError, match="Write a URL such as s3://bucket/folder"):
        open_output("nowhere://x")


def test_the_sheet_of_a_word_is_found(tmp_path):
    folder = make_words(tmp_path / "words", "alpha")
    plan = write_plan(tmp_path / "plan.toml", folder)
    plan.write_text("prompts = ['a {word} --w 64 --h 64 --s 1']\n" + plan.read_text())
    words, _ = read_plan(plan)
    assert check_word(words[0], tmp_path / "out" / "alpha").error == ""
    assert not (tmp_path / "out").exists()
    (outcome,) = train_shard(Shard(tuple(words)), LocalOutput(tmp_path / "out"), Reports(), neonym.Stop())
    assert outcome.sheet.startswith("alpha/sample/")
    assert (tmp_path / "out" / outcome.sheet).is_file()
