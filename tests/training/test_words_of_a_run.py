"""Tests of runs that teach several words, each with settings of its own in `[[concepts]]`."""

import json
import re
import time
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from neonym import RunConfig, train
from neonym.errors import ConfigError
from neonym.preflight.preflight import preflight
from neonym.runs.console import Terminal
from neonym.runs.events import Event, Finished, Noted, Opened, Sampled, Started, Stepped, Stopped
from support.checks import settings
from support.data_sets import make_images
from support.runs import rows


@pytest.fixture
def two(tmp_path):
    """Return a function that writes a dataset file with two words and these keys of the second, and builds its run."""
    make_images(tmp_path / "a", 3)
    make_images(tmp_path / "b", 4, caption="a flat drawing of a zyzzo")

    def build(keys: str = "", name: str = "out", **flags) -> RunConfig:
        file = tmp_path / f"{name}.toml"
        file.write_text(
            f"""
            [[concepts]]
            token_string = "mychar4"
            [[concepts]]
            token_string = "zyzzo"
            {keys}
            [[datasets]]
            batch_size = 1
            [[datasets.subsets]]
            concept = "mychar4"
            image_dir = '{tmp_path / "a"}'
            [[datasets.subsets]]
            concept = "zyzzo"
            image_dir = '{tmp_path / "b"}'
            """
        )
        base = {"dataset_config": str(file), "output_dir": str(tmp_path / name), "cpu": True, "eval_samples": 8}
        return settings(**{**base, "max_train_steps": 4, "learning_rate": 0.005, **flags})

    return build


def test_each_word_has_settings_of_its_own(two, tmp_path):
    keys = 'max_train_steps = 6\nseed = 3\nlr_scheduler = "constant"\nsave_every_n_steps = 3\noptimizer_type = "SGD"\nlr_warmup_steps = 0'
    steps: dict[str, int] = {}

    def watch(event: Event) -> None:
        if isinstance(event, Stepped):
            steps[event.word] = event.step

    result = train(two(keys), [watch])
    assert steps == {"mychar4": 4, "zyzzo": 6}
    assert [file.name for file in result.files] == ["mychar4.safetensors", "zyzzo.safetensors"]
    assert {file.name for file in (tmp_path / "out").glob("*-step*.safetensors")} == {
        "zyzzo-step00000003.safetensors", "zyzzo-step00000006.safetensors",
    }  # fmt: skip
    alone = train(
        settings(
            train_data_dir=str(tmp_path / "b"), token_string="zyzzo", output_dir=str(tmp_path / "alone"), cpu=True,
            max_train_steps=6, seed=3, lr_scheduler="constant", optimizer_type="SGD", lr_warmup_steps="0",
            learning_rate=0.005, train_batch_size=1, eval_samples=8,
        )
    )  # fmt: skip
    assert torch.equal(rows(result.files[1]), rows(alone.files[0]))


def test_each_word_has_a_run_folder_of_its_own(two, tmp_path):
    events: list[Event] = []
    train(two(), [events.append])
    for word in ("mychar4", "zyzzo"):
        folder = tmp_path / "out" / f"{word}-run"
        (verdict,) = json.loads((folder / "verdict.json").read_text())
        assert verdict["token"] == word
        lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        assert {line["word"] for line in lines} == {word}
        assert [line["step"] for line in lines if line["event"] == "step"] == [1, 2, 3, 4]
    assert [(event.word, event.words) for event in events if isinstance(event, Opened)] == [
        ("mychar4", ("mychar4",)), ("zyzzo", ("zyzzo",)),
    ]  # fmt: skip
    assert [event.word for event in events if isinstance(event, Finished)] == ["mychar4", "zyzzo"]


def test_a_number_of_steps_of_its_own_replaces_the_epochs_of_the_run(two):
    plans = preflight(two("max_train_steps = 7", max_train_epochs=2, max_train_steps=None)).complete_plans()
    assert [plan.milestones.total for plan in plans] == [6, 7]
    plans = preflight(two("max_train_epochs = 3")).complete_plans()
    assert [plan.milestones.total for plan in plans] == [4, 12]


def test_the_defaults_of_a_word_follow_from_its_own_settings(two):
    first, second = preflight(two('early_stop = true\noptimizer_type = "Prodigy"', learning_rate=None)).complete_plans()
    assert (first.run.eval.eval_every_n_steps, second.run.eval.eval_every_n_steps) == (0, 5)
    assert (first.concept.learning_rate, second.concept.learning_rate) == (0.02, 1.0)


def test_mistakes_in_the_settings_of_a_word_are_reported_at_once_with_their_places(two):
    keys = 'max_train_steps = "many"\nlr_scheduler = "cosin"\nmax_grad_norm = -1\noutput_name = "x"\nearly_stopp = true'
    with pytest.raises(ConfigError) as raised:
        train(two(keys))
    text = str(raised.value)
    assert "concepts[1], `max_train_steps`" in text
    assert "`output_name` is not known here" in text
    assert "Did you mean `early_stop`?" in text
    with pytest.raises(ConfigError) as raised:
        train(two('lr_scheduler = "cosin"\nmax_grad_norm = -1'))
    text = str(raised.value)
    assert "`zyzzo`, lr_scheduler" in text
    assert "`zyzzo`, max_grad_norm" in text


def test_a_word_that_stops_early_does_not_end_the_others(two):
    keys = "early_stop = true\neval_every_n_steps = 1\nearly_stop_window = 2\nearly_stop_threshold = 5.0"
    steps: dict[str, int] = {}

    def watch(event: Event) -> None:
        if isinstance(event, Stepped):
            steps[event.word] = event.step

    train(two(keys, max_train_steps=12), [watch])
    assert steps["mychar4"] == 12
    assert steps["zyzzo"] < 12


def test_sample_images_show_the_word_of_their_prompt(two, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a mychar4 --s 1\na zyzzo --s 1\na red apple --s 1\n")
    events: list[Event] = []
    train(two(max_train_steps=2, sample_prompts=str(prompts), sample_every_n_steps=2), [events.append])
    found = {event.word: [file.name for file in event.files] for event in events if isinstance(event, Sampled)}
    assert [len(files) for files in found.values()] == [3, 3]  # its own prompt, the one without a word, and the sheet
    assert all(name.startswith(word) for word, files in found.items() for name in files)


def test_a_run_of_several_words_continues_and_is_not_repeated(two):
    whole = train(two(name="whole"))
    from support.runs import stop_at

    assert train(two(), **stop_at(2)).steps == 2
    parts = train(two())
    assert [file.read_bytes() for file in parts.files] == [file.read_bytes() for file in whole.files]
    again = train(two())
    assert again.was_finished
    assert again.files == parts.files


def test_more_words_than_lanes_are_all_learned(two):
    events: list[Event] = []
    result = train(two(lanes=1), [events.append])
    assert len(result.files) == 2
    ends = [index for index, event in enumerate(events) if isinstance(event, Finished)]
    second = next(index for index, event in enumerate(events) if event.word == "zyzzo" and not isinstance(event, Noted))
    assert second > ends[0]


def test_a_time_limit_ends_the_words_that_learn_and_begins_no_other(two):
    """All can be continued, and become what they are without the limit."""
    whole = train(two(name="whole", max_train_steps=40))
    events: list[Event] = []

    def slowly(event: Event) -> None:
        events.append(event)
        if isinstance(event, Stepped):
            time.sleep(0.05)

    result = train(two(max_train_steps=40, max_train_time=0.01, lanes=1), [slowly])
    first, last = "mychar4", "zyzzo"
    assert [file.stem for file in result.files] == [first]
    assert result.signal == 0
    assert 0 < result.steps < 40
    assert any(
        event.word == first and "was up after step" in event.text for event in events if isinstance(event, Noted)
    )
    (stopped,) = [event for event in events if isinstance(event, Stopped)]
    assert (stopped.word, stopped.step, stopped.signal) == (last, 0, 0)
    assert not any(isinstance(event, Started) and event.word == last for event in events)
    both = train(two(max_train_steps=40, max_train_time=0.01), [slowly])
    assert [file.stem for file in both.files] == [first, last]
    assert both.steps < 40
    ended = train(two(max_train_steps=40))
    assert [file.read_bytes() for file in ended.files] == [file.read_bytes() for file in whole.files]


def test_the_words_of_a_run_fail_one_by_one(two, tmp_path, capfd):
    """The command says which word failed and why, and ends with exit code 2; the other word is there."""
    from neonym.cli.main import main
    from support.runs import flags_of

    run = two()
    folder = tmp_path / "out" / "mychar4-run"
    folder.mkdir(parents=True)
    (folder / "state.safetensors").write_bytes(b"damaged")
    assert main(["train", *flags_of(run)]) == 2
    output = capfd.readouterr().err
    assert "the saved state is damaged" in output
    assert not (tmp_path / "out" / "mychar4.safetensors").exists()
    assert (tmp_path / "out" / "zyzzo.safetensors").exists()
    assert Path(tmp_path / "out" / "zyzzo-run" / "verdict.json").exists()


def test_the_terminal_counts_the_steps_of_all_words_and_shows_a_common_note_once(two):
    lines = StringIO()
    train(two(), [Terminal(Console(file=lines, width=200))])
    text = lines.getvalue()
    assert text.count("the small built-in model is used") == 1
    assert re.search(r"^step 8/8 .* words ", text, re.MULTILINE)
    assert re.search(r"^zyzzo: (LEARNED|WEAK|NOT LEARNED)", text, re.MULTILINE)
