"""Tests of plan files: what words they make, and all their mistakes at once."""

import pytest

from neonym.errors import ConfigError
from neonym.fleet.plan import read_plan
from support.data_sets import make_images


def plan(tmp_path, text: str):
    file = tmp_path / "plan.toml"
    file.write_text(text)
    return file


def mistakes(tmp_path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        read_plan(plan(tmp_path, text))
    return [str(problem).replace(f"{tmp_path}/", "") for problem in error.value.problems]


def test_a_word_has_its_settings_and_those_of_all(tmp_path):
    words, problems = read_plan(plan(tmp_path, """
        [settings]
        max_train_steps = 30
        pretrained_model_name_or_path = "builtin:emoji"
        [[words]]
        token = "one"
        folder = "images/one"
        [[words]]
        token = "two"
        dataset = "two.toml"
        model = "builtin:emoji-flow"
        max_train_steps = 50
        output_name = "second"
    """))  # fmt: skip
    assert problems == []
    one, two = words
    assert (one.name, one.token, two.name, two.token) == ("one", "one", "second", "two")
    run = one.run(tmp_path / "out")
    assert run.optim.max_train_steps == 30
    assert run.dataset.train_data_dir == "images/one"
    assert run.save.output_dir == str(tmp_path / "out")
    run = two.run(tmp_path)
    assert run.optim.max_train_steps == 50
    assert run.dataset.dataset_config == "two.toml"
    assert run.model.pretrained_model_name_or_path == "builtin:emoji-flow"
    assert one.group != two.group


def test_words_with_one_model_and_other_steps_share_a_group(tmp_path):
    words, _ = read_plan(plan(tmp_path, """
        [[words]]
        token = "one"
        max_train_steps = 1
        [[words]]
        token = "two"
        learning_rate = 0.1
        [[words]]
        token = "three"
        loss_type = "huber"
    """))  # fmt: skip
    one, two, three = (word.group for word in words)
    assert one == two != three


def test_regularisation_images_of_all_words_are_encoded_once(tmp_path):
    words, _ = read_plan(plan(tmp_path, """
        [settings]
        reg_data_dir = "reg"
        [[words]]
        token = "one"
        [[words]]
        token = "two"
        cache_latents_to_disk = false
    """))  # fmt: skip
    assert [word.run(tmp_path).cache.cache_latents_to_disk for word in words] == [True, False]


def test_prompts_are_those_of_each_word(tmp_path):
    words, _ = read_plan(plan(tmp_path, """
        prompts = ["a {word} on a beach", "a red {word}"]
        [settings]
        max_train_steps = 30
        [[words]]
        token = "one"
        [[words]]
        token = "two"
        sample_every_n_steps = 10
        [[words]]
        token = "three"
        sample_prompts = "three.txt"
    """))  # fmt: skip
    runs = [word.run(tmp_path / word.name) for word in words]
    assert [run.sample.sample_every_n_steps for run in runs] == [30, 10, None]
    assert [run.sample.sample_prompts for run in runs] == [
        str(tmp_path / "one" / "prompts.txt"), str(tmp_path / "two" / "prompts.txt"), "three.txt"
    ]  # fmt: skip
    assert (tmp_path / "two" / "prompts.txt").read_text() == "a two on a beach\na red two\n"
    (found,) = mistakes(tmp_path, "prompts = ['{word}']\n[[words]]\ntoken = 'a'\n[[words]]\ntoken = 'b'\n")
    assert (
        "plan.toml prompts: there is no setting that says when images are generated. Set `sample_every_n_steps`"
        in found
    )


def test_every_folder_is_a_word_unless_a_row_names_it(tmp_path):
    for name in ("plain", "My Dragon 2!", "own", "also", ".hidden"):
        make_images(tmp_path / "all" / name, count=1)
    words, problems = read_plan(plan(tmp_path, f"""
        words_dir = "{tmp_path}/all"
        [[words]]
        token = "own"
        max_train_steps = 7
        [[words]]
        token = "another"
        folder = "{tmp_path}/all/also"
    """))  # fmt: skip
    assert [word.token for word in words] == ["own", "another", "My-Dragon-2", "plain"]
    assert words[0].settings["train_data_dir"] == f"{tmp_path}/all/own"
    assert words[0].settings["max_train_steps"] == 7
    (note,) = problems
    assert "the word of the folder `My Dragon 2!` is `My-Dragon-2`" in str(note)


def test_all_mistakes_are_found_at_once(tmp_path):
    found = mistakes(tmp_path, """
        wordz_dir = "x"
        [settings]
        learnig_rate = 1
        output_dir = "here"
        token_string = "x"
        [[words]]
        folder = 3
        [[words]]
        token = "a"
        folder = "f"
        dataset = "d"
        train_data_dir = "f"
        [[words]]
        token = "b"
        restart = true
        train_batch_size = "many"
        [[words]]
        token = "B"
        [[words]]
        token = "a/b"
    """)  # fmt: skip
    expected = [
        "plan.toml: `wordz_dir` is not known. Did you mean `words_dir`?",
        "plan.toml [settings]: `learnig_rate` is not known. Did you mean `learning_rate`?",
        "plan.toml [settings]: `output_dir` cannot be set in a plan. Pass it on the command line",
        "plan.toml [settings]: `token_string` belongs to one word",
        "plan.toml words[0]: `token` is missing.",
        "plan.toml words[0]: `folder`: Input should be a valid string (found 3).",
        "plan.toml words[1] (`a`): `train_data_dir` and `folder` are the same.",
        "plan.toml words[1] (`a`) has both a `folder` and a `dataset`.",
        "plan.toml words[2] (`b`): `restart` cannot be set in a plan.",
        "plan.toml words[2] (`b`), train_batch_size: Input should be a valid integer",
        "plan.toml words[4] (`a/b`): `a/b` cannot be the name of a folder.",
    ]
    for start in expected:
        assert any(text.startswith(start) for text in found), (start, found)
    assert len(found) == len(expected)  # and each is there once


def test_names_that_would_be_one_folder_are_refused(tmp_path):
    (found,) = mistakes(tmp_path, "[[words]]\ntoken = 'Cat'\n[[words]]\ntoken = 'cat'\n")
    assert found.startswith("plan.toml words[1] (`cat`) has the same name as words[0] (`Cat`)")
    (found,) = mistakes(tmp_path, "[[words]]\ntoken = 'index.html'\n")
    assert "cannot be the name of a folder" in found


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "has no words"),
        ("words_dir = 'missing'", "`missing` cannot be read"),
        ("words = 3", "`words`: Input should be a valid list"),
        ("[[words]\n", "plan.toml"),
        ("[settings]\nmax_train_steps = 'x'\n[[words]]\ntoken='a'", "[settings], max_train_steps"),
    ],
)
def test_a_plan_that_cannot_be_read_says_why_once(tmp_path, text, part):
    (found,) = mistakes(tmp_path, text)
    assert part in found


def test_a_missing_plan_is_reported(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_plan(tmp_path / "plan.toml")


@pytest.mark.parametrize(
    ("value", "what"),
    [('""', "words_dir is empty"), (r'"a\u0000b"', r"words_dir: `a\0b` cannot be read")],
)
def test_a_folder_of_words_that_cannot_be_one_is_refused(tmp_path, value, what):
    (mistake,) = mistakes(tmp_path, f"words_dir = {value}")
    assert what in mistake
