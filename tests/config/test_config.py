"""Tests of settings and dataset files: inherited values, and all mistakes reported together."""

import pytest

from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.config.sources import read_dataset
from neonym.config.values import Resolution
from neonym.errors import ConfigError, nearest
from neonym.preflight.preflight import preflight
from support.checks import settings
from support.data_sets import make_images


def write(tmp_path, text: str, name: str = "cfg.toml"):
    file = tmp_path / name
    file.write_text(text)
    return str(file)


def messages(problems, severity="error"):
    return [str(p) for p in problems if p.severity == severity]


def test_values_are_inherited_from_data_set_general_and_command_line(tmp_path):
    text = """
    [general]
    caption_extension = ".cap"
    flip_aug = true
    [[datasets]]
    batch_size = 2
    num_repeats = 3
    [[datasets.subsets]]
    image_dir = "a"
    flip_aug = false
    [[datasets.subsets]]
    image_dir = "b"
    num_repeats = 5
    [[datasets]]
    resolution = [64, 128]
    [[datasets.subsets]]
    image_dir = "c"
    """
    run = settings(
        dataset_config=write(tmp_path, text), token_string="x y", train_batch_size=7, resolution="256", keep_tokens=2
    )
    read = read_dataset(run)
    assert messages(read.problems) == []
    first, second = read.config.datasets
    assert (first.batch_size, second.batch_size) == (2, 7)
    assert (first.resolution, second.resolution) == ((256, 256), (64, 128))
    a, b, c = (*first.subsets, *second.subsets)
    assert [s.num_repeats for s in (a, b, c)] == [3, 5, 1]
    assert [s.flip_aug for s in (a, b, c)] == [False, True, True]
    assert {s.caption_extension for s in (a, b, c)} == {".cap"}
    assert {s.keep_tokens for s in (a, b, c)} == {2}
    origins = [read.origins[0, 0, key] for key in ("flip_aug", "caption_extension", "num_repeats", "keep_tokens")]
    assert origins == ["subset", "general", "dataset", "command line"]


def test_all_mistakes_are_reported_together(tmp_path):
    text = """
    learning_rate = 1
    [general]
    captoin_extension = ".txt"
    [[datasets]]
    batch_size = 0
    resolution = "big"
    [[datasets.subsets]]
    image_dri = "a"
    num_repeats = "many"
    """
    run = settings(dataset_config=write(tmp_path, text), learning_rate=-1, optimizer_type="Adan", output_name="a/b")
    ready = preflight(run)
    assert ready.config is None
    text = "\n".join(messages(ready.problems))
    for words in (
        "--learning_rate: -1", "`Adan` is not known", "--output_name", "`learning_rate` is not known here",
        "Did you mean `caption_extension`?", "`batch_size`", "`resolution`", "Did you mean `image_dir`?",
        "`image_dir` is missing", "`num_repeats`",
    ):  # fmt: skip
        assert words in text, (words, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[datasets]]\n", "no subsets"),
        ("", "no [[datasets]]"),
        ("datasets = 3", "double brackets"),
        ('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "C:\\images"', "backslash"),
        ("[[datasets", "cfg.toml"),
        ("[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\nconcept = 'b'", "concept `b` is not listed"),
    ],
)
def test_broken_data_set_files_are_errors(tmp_path, text, words):
    run = settings(dataset_config=write(tmp_path, text), token_string="mychar4")
    assert any(words in m for m in messages(preflight(run).problems))


@pytest.mark.parametrize("text", ["[]", "3", "null", '"text"', "{"])
def test_a_json_file_that_is_not_a_table_is_an_error(tmp_path, text):
    run = settings(dataset_config=write(tmp_path, text, "cfg.json"), token_string="mychar4", learning_rate=0)
    found = messages(preflight(run).problems)
    assert any("cfg.json" in m for m in found)
    assert any("--learning_rate" in m for m in found)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"num_vectors_per_token": 0}, "--num_vectors_per_token"),
        ({"init_word": "  "}, "init word is empty"),
        ({"token_string": "a/b"}, "cannot be a file name"),
        ({"token_string": ""}, "no name"),
        ({"clip_skip": 5}, "--clip_skip"),
        ({"dataset_repeats": 10**20}, "Lower num_repeats"),
        ({"max_train_steps": 10**20}, "--max_train_steps"),
        ({"output_dir": "cfg.toml/x"}, "--output_dir"),
        ({"caption_separator": "", "shuffle_caption": True}, "caption_separator"),
        ({"resolution": "100"}, "multiple of 8"),
        ({"pretrained_model_name_or_path": "builtin:none"}, "no such built-in model"),
        ({"train_data_dir": "nowhere"}, "not a folder"),
        ({"enable_bucket": True, "resolution": "128"}, "min_bucket_reso"),
    ],
)
def test_wrong_flags_are_errors(tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "a")
    write(tmp_path, "")
    found = messages(preflight(settings(**{"train_data_dir": "a", "token_string": "mychar4", **flags})).problems)
    assert any(words in m for m in found), found


def test_two_words_that_are_equal_after_cleaning_are_an_error(tmp_path):
    text = "[[concepts]]\ntoken_string = 'cat&dog'\n[[concepts]]\ntoken_string = 'Cat&amp;Dog'\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'"
    found = messages(preflight(settings(dataset_config=write(tmp_path, text))).problems)
    assert any("two concepts" in m for m in found)


def test_all_mistakes_in_several_concepts_are_reported_together(tmp_path):
    """An unknown key, a wrong value and a dataset of mixed kinds do not hide other mistakes."""
    text = """
    [[concepts]]
    token_string = "cat"
    init_wrod = "animal"
    [[concepts]]
    token_string = "cat"
    num_vectors_per_token = 0
    [[concepts]]
    token_string = "dog/"
    init_word = " "
    [[datasets]]
    [[datasets.subsets]]
    image_dir = "a"
    concept = "bird"
    [[datasets.subsets]]
    metadata_file = "m.json"
    """
    found = messages(preflight(settings(dataset_config=write(tmp_path, text), token_string="x")).problems)
    for words in (
        "concepts[0]: `init_wrod` is not known here. Did you mean `init_word`?", "concepts[1]: `num_vectors_per_token`",
        "`cat` is the word of two concepts", "`dog/` cannot be a file name", "`dog/`: the init word is empty",
        "datasets[0] mixes folders", "subsets[0]: the concept `bird` is not listed. Known: cat, dog/",
        "subsets[1] does not name the concept", "cannot be combined with the [[concepts]]",
    ):  # fmt: skip
        assert sum(words in m for m in found) == 1, (words, found)
    assert len(found) == 9


@pytest.mark.parametrize("concepts", ["[concepts]\ntoken_string = 'a'", "[[concepts]]\ninit_word = 'a'"])
def test_concepts_that_cannot_be_read_are_reported_once(tmp_path, concepts):
    text = f"{concepts}\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\nconcept = 'b'"
    assert len(messages(preflight(settings(dataset_config=write(tmp_path, text))).problems)) == 1


def test_a_json_data_set_file_means_the_same_as_toml(tmp_path):
    make_images(tmp_path / "a")
    text = '{"datasets": [{"subsets": [{"image_dir": "%s"}]}]}' % (tmp_path / "a")
    ready = preflight(settings(dataset_config=write(tmp_path, text, "cfg.json"), token_string="mychar4"))
    assert messages(ready.problems) == []
    assert len(ready.records) == 6


def test_n_name_folders_and_a_plain_folder_are_read(tmp_path):
    make_images(tmp_path / "train" / "3_mychar4", 2, caption=None)
    make_images(tmp_path / "train" / "1_a photo of mychar4", 1, caption=None)
    make_images(tmp_path / "train" / "notes", 1)
    make_images(tmp_path / "reg" / "1_person", 10, caption=None)
    ready = preflight(
        settings(train_data_dir=str(tmp_path / "train"), reg_data_dir=str(tmp_path / "reg"), token_string="mychar4")
    )
    assert messages(ready.problems) == []
    assert sum(r.repeats for r in ready.records if not r.is_reg) == 7
    assert sum(r.repeats for r in ready.records if r.is_reg) == 7
    assert {r.caption for r in ready.records} == {"mychar4", "a photo of mychar4", "person"}
    assert any("notes" in m for m in messages(ready.problems, "note"))
    plain = preflight(settings(train_data_dir=str(tmp_path / "train" / "notes"), token_string="mychar4"))
    assert len(plain.records) == 1


def test_a_word_that_no_caption_contains_is_an_error(tmp_path):
    make_images(tmp_path / "a", 5, caption="a photo of a planned thing")
    ready = preflight(settings(train_data_dir=str(tmp_path / "a"), token_string="ann"))
    (message,) = messages(ready.problems)
    assert "none of the 5 captions contains the word" in message
    assert "00.png, 01.png, 02.png" in message
    with pytest.raises(ConfigError):
        ready.raise_errors()
    (tmp_path / "a" / "03.txt").write_text("Ann")
    ready = preflight(settings(train_data_dir=str(tmp_path / "a"), token_string="ann"))
    assert messages(ready.problems) == []
    assert any("4 of 5 captions" in m for m in messages(ready.problems, "warning"))


def test_a_word_that_is_cut_off_is_an_error(tmp_path):
    make_images(tmp_path / "a", 2, caption="cat " * 80 + "mychar4")
    assert any(
        "cut off" in m
        for m in messages(preflight(settings(train_data_dir=str(tmp_path / "a"), token_string="mychar4")).problems)
    )
    longer = preflight(settings(train_data_dir=str(tmp_path / "a"), token_string="mychar4", max_token_length=150))
    assert messages(longer.problems) == []


def test_flag_names_are_unique_and_every_flag_has_help():
    names = [name for _, name, _ in fields_of(RunConfig)]
    assert len(names) == len(set(names))
    assert all(field.description for _, _, field in fields_of(RunConfig))


def test_resolutions_are_parsed_and_similar_names_are_suggested():
    assert Resolution.parse("512").size == (512, 512)
    assert Resolution.parse("512, 768").size == Resolution.parse((512, 768)).size == (512, 768)
    for wrong in ("1,2,3", "0", "x", "512.0"):
        with pytest.raises(ValueError, match="is not a size"):
            Resolution.parse(wrong)
    assert nearest("lerning_rate", ["learning_rate"]) == "Did you mean `learning_rate`?"


def test_texts_and_numbers_are_converted_in_a_data_set_file(tmp_path):
    make_images(tmp_path / "a", 2)
    text = f"""
    [[datasets]]
    batch_size = "2"
    enable_bucket = "True"
    validation_split = "0.5"
    [[datasets.subsets]]
    image_dir = '{tmp_path / "a"}'
    num_repeats = " 3 "
    flip_aug = "false"
    caption_prefix = 5
    caption_dropout_rate = "0.5"
    class_tokens = 1.5
    """
    read = preflight(settings(dataset_config=write(tmp_path, text), token_string="mychar4")).config
    (dataset,) = read.datasets
    (subset,) = dataset.subsets
    assert (dataset.batch_size, dataset.enable_bucket, dataset.validation_split) == (2, True, 0.5)
    assert (subset.num_repeats, subset.flip_aug, subset.caption_prefix, subset.class_tokens) == (3, False, "5", "1.5")
    for wrong in (
        'batch_size = "two"',
        'batch_size = "2.5"',
        'enable_bucket = "yes please"',
        "enable_bucket = 1",
        'batch_size = ""',
    ):
        nonsense = text.replace('batch_size = "2"', "").replace('enable_bucket = "True"', wrong)
        found = messages(preflight(settings(dataset_config=write(tmp_path, nonsense), token_string="mychar4")).problems)
        assert sum("is expected" in m for m in found) == 1, (wrong, found)
