"""Verify how captions are processed, and whether the word survives."""

import json
from random import Random

import pytest

from neonym.cli.main import main
from neonym.data.captions import STYLE_TEMPLATES, Moment, final_caption, warmed_up
from neonym.data.metadata_files import read_metadata
from neonym.preflight.possible_captions import plain_caption
from neonym.preflight.preflight import preflight
from neonym.types import CaptionRules
from support import WORD
from support.checks import check, said, settings
from support.commands import caption
from support.data_sets import make_images


def test_a_word_in_only_one_of_the_wildcards(tmp_path):
    folder = make_images(tmp_path / "a", 2, caption="{a mychar4|a dog}")
    ready = check(folder, enable_wildcard=True)
    assert not ready.failed()
    assert "2 of 2 captions can be used without the word (00.png, 01.png)" in said(ready, "warning")
    for good in ("{a mychar4|mychar4 dog}", "{a|b} mychar4 {c|d}", "{{mychar4}} {a|b}", "one mychar4\n{x|y} mychar4"):
        make_images(folder, 2, caption=good)
        assert "the word" not in said(check(folder, enable_wildcard=True), "warning", "error"), good
    for partly in ("{a|mychar4} {mychar4|b}", "mychar4\na dog"):
        make_images(folder, 2, caption=partly)
        assert "without the word" in said(check(folder, enable_wildcard=True), "warning"), partly
    make_images(folder, 2, caption="{a mychar4|a dog}")
    assert "contain" not in said(check(folder), "warning", "error")


def test_the_template_with_the_fewest_letters_can_be_the_longest(tmp_path):
    """A template with a word of 40 vectors three times does not fit, however few letters it has."""
    folder, file = make_images(tmp_path / "a", 2), tmp_path / "mine.txt"
    file.write_text("{} {} {}\na rather long sentence about a {} that stands somewhere in an image\n")
    found = check(folder, template_file=str(file), num_vectors_per_token=40)
    assert "shuffling can move the word to where 2 captions are cut off" in said(found, "warning")
    assert "cut off" not in said(check(folder, template_file=str(file), num_vectors_per_token=20), "warning")


def test_a_huge_caption_is_shown_abbreviated(tmp_path, capsys):
    folder = make_images(tmp_path / "a", 2, caption="mychar4 " + "x" * 100_000)
    assert main(["check", "--train_data_dir", str(folder), "--token_string", WORD]) == 0
    assert len(capsys.readouterr().out) < 5_000


def test_templates_and_template_files(tmp_path):
    folder = make_images(tmp_path / "a", 2, caption="blue hat")
    reg = make_images(tmp_path / "r" / "1_person", 2, caption="somebody").parent
    ready = check(folder, use_object_template=True, reg_data_dir=str(reg))
    assert not ready.failed()
    plan = ready.complete_plan().concept.samples
    texts = {(d.record.is_reg, d.caption) for step in range(30) for d in plan.draws(step)}
    assert all((WORD in text) != is_reg for is_reg, text in texts)
    assert len(texts) > 10
    file = tmp_path / "mine.txt"
    file.write_text("a sketch of [name], [filewords]\n\nthe {} itself\n")
    ready = check(folder, template_file=str(file))
    texts = {d.caption for step in range(30) for d in ready.complete_plan().concept.samples.draws(step)}
    assert texts == {f"a sketch of {WORD}, blue hat 0", f"a sketch of {WORD}, blue hat 1", f"the {WORD} itself"}
    file.write_text("a photo\n")
    assert "has no line with the word" in said(check(folder, template_file=str(file)))
    file.write_text("\n".join(["a [name]"] * 30 + ["nothing"]))
    ready = check(folder, template_file=str(file))  # every image draws every line
    assert not ready.failed()
    assert "2 of 2 captions can be used without the word" in said(ready, "warning")
    assert "one kind of template" in said(check(folder, use_object_template=True, use_style_template=True))


def test_style_templates_are_those_of_sd_scripts():
    """A word in the templates, such as "picture", is part of what the model is trained on."""
    assert len(STYLE_TEMPLATES) == 19
    assert STYLE_TEMPLATES[7] == "a picture in the style of {}"


def test_the_word_is_never_dropped(tmp_path):
    folder = make_images(tmp_path / "a", 2, caption="hat, MyChar4, shoes, coat, red")
    ready = check(
        folder, caption_dropout_rate=0.4, caption_tag_dropout_rate=0.9, shuffle_caption=True, token_warmup_step=50
    )
    texts = {d.caption for step in range(80) for d in ready.complete_plan().concept.samples.draws(step)}
    assert all(WORD in text.lower() for text in texts)
    assert WORD in texts
    assert len(texts) > 5


def test_captions_of_held_out_images_are_checked_too(tmp_path):
    folder = make_images(tmp_path / "a", 20)
    back = check(folder, validation_split=0.25).held_out
    assert len(back) == 5
    assert "captions" not in said(check(folder, validation_split=0.25), "error", "warning")
    (folder / f"{back[0].path.stem}.txt").write_text("no such word")
    (folder / f"{back[1].path.stem}.txt").write_text("cat " * 100 + WORD)
    text = said(check(folder, validation_split=0.25), "warning")
    assert f"1 of 5 captions of held-out images do not contain the word ({back[0].path.name})" in text
    assert f"cut off at the end of 1 captions of held-out images ({back[1].path.name})" in text
    for record in back:
        (folder / f"{record.path.stem}.txt").write_text("no such word")
    assert "none of the 5 captions of held-out images" in said(check(folder, validation_split=0.25))
    few = check(folder, validation_split=0.05)
    assert few.held_out[0].path in [r.path for r in back]
    assert not few.failed()
    assert "none of the 1 captions of held-out images" in said(few, "warning")


@pytest.mark.parametrize("flags", [{"shuffle_caption": True}, {"shuffle_caption": True, "token_warmup_step": 900.0}])
def test_a_word_that_is_sometimes_cut_off_is_only_a_warning(tmp_path, flags):
    """The warning comes however rare it is: the word must be one of the last two of 39 tags."""
    folder = make_images(tmp_path / "a", 2, caption=None)
    for name in ("00", "01"):
        (folder / f"{name}.txt").write_text(f"{WORD}, " + ", ".join(["cat"] * 38))
    ready = check(folder, **flags)
    assert not ready.failed()
    assert [how for _, how in ready.lost] == ["at times cut off"] * 2
    assert "shuffling can move the word to where 2 captions are cut off (00.png, 01.png)" in said(ready, "warning")
    assert not check(folder, **flags, keep_tokens=1).lost
    assert not check(folder).lost


def test_a_prefix_can_be_the_word(tmp_path):
    folder = make_images(tmp_path / "a", 2, caption="a cat")
    ready = check(folder, caption_prefix=WORD, caption_dropout_rate=0.5)
    assert not ready.failed()
    assert all(WORD in d.caption for step in range(20) for d in ready.complete_plan().concept.samples.draws(step))


def test_metadata_finds_images_as_tools_write_them(tmp_path):
    folder = make_images(tmp_path / "a", 3, caption=None)
    rows = {
        "00": {"caption": "mychar4 one", "image_size": [9, 9]},
        "01.png": {"tags": "mychar4"},
        str(folder / "02.png"): {"caption": "mychar4"},
    }
    file = tmp_path / "meta.json"
    file.write_text(json.dumps(rows))
    ready = preflight(settings(train_data_dir=str(folder), in_json=str(file), token_string=WORD, dataset_repeats=3))
    assert not ready.failed()
    assert [(r.path.name, r.caption, r.repeats) for r in ready.records] == [
        ("00.png", "mychar4 one", 3), ("01.png", "mychar4", 3), ("02.png", "mychar4", 3)]  # fmt: skip
    assert "not 9 x 9 as the metadata says" in said(ready, "warning")
    lines = tmp_path / "meta.jsonl"
    lines.write_text("\n\n".join(json.dumps({"image_path": name, **facts}) for name, facts in rows.items()))
    same = preflight(settings(train_data_dir=str(folder), in_json=str(lines), token_string=WORD))
    assert [r.caption for r in same.records] == [r.caption for r in ready.records]
    for text, words in (
        ("[]", "it must be an object of image names"),
        ("{", "is not a metadata file"),
        ('{"00": 3}', "not an object"),
    ):
        file.write_text(text)
        assert words in said(preflight(settings(train_data_dir=str(folder), in_json=str(file), token_string=WORD)))
    assert "cannot be read" in said(preflight(settings(in_json=str(tmp_path / "no.json"), token_string=WORD)))


@pytest.mark.parametrize(
    ("facts", "plain", "with_wildcards"),
    [
        ({"caption": "cap", "tags": "t1\n\nt2"}, "cap,t1\n\nt2", "cap,t1,,t2"),
        ({"caption": " a \n \nb", "tags": "t"}, " a \n \nb,t", " a ,t\nb,t"),
        ({"caption": " sp "}, " sp ", " sp "),
        ({"caption": "l1\n"}, "l1\n", "l1\n"),
        ({"caption": "c", "tags": ""}, "c", "c"),
        ({"tags": "t1\nt2"}, "t1\nt2", "t1,t2"),
        ({"caption": " \n", "tags": "t"}, " \n,t", "t"),
    ],
)
def test_captions_and_tags_of_metadata_are_joined_unchanged(facts, plain, with_wildcards, tmp_path):
    """Nothing is stripped.

    With wildcards, tags become one line, which is added to each caption line that is not blank.
    """
    file = tmp_path / "meta.json"
    file.write_text(json.dumps({"0.png": facts}))
    for wildcards, wanted in ((False, plain), (True, with_wildcards)):
        (entry,) = read_metadata(file, tmp_path, ",", wildcards, print)
        assert entry.caption == wanted


def test_duplicate_keys_and_other_extensions_in_metadata(tmp_path):
    folder, file = make_images(tmp_path / "a", 2, caption=None), tmp_path / "meta.json"
    file.write_text(f'{{"00.png": {{}}, "00.png": {{"tags": "t", "tags": "{WORD}"}}}}')
    ready = check(folder, in_json=str(file))
    assert "meta.json has duplicate keys (tags, 00.png): the last one counts" in said(ready, "warning")
    assert [r.caption for r in ready.records] == [WORD]
    assert caption("clean", file, tmp_path / "clean.json") == 2  # it would lose one
    file.write_text(json.dumps({"00.webp": {"caption": WORD}, "01.png": {"caption": WORD}, "02.png": {}}))
    found = said(check(folder, in_json=str(file)))
    assert "00.webp cannot be read (No such file or directory). Did you mean 00.png?" in found
    assert found.count("Did you mean") == 1


def test_an_empty_separator(tmp_path):
    """It joins texts without a separator, and is an error only where captions are split."""
    folder = make_images(tmp_path / "a", 1, caption=f"one;;{WORD};;two")
    (record,) = check(folder, caption_separator="", secondary_separator=";;").records
    assert plain_caption(record) == f"one{WORD}two 0"
    (tmp_path / "meta.json").write_text(json.dumps({"00.png": {"caption": f"{WORD} ", "tags": "t"}}))
    (record,) = check(folder, caption_separator="", in_json=str(tmp_path / "meta.json")).records
    assert record.caption == f"{WORD} t"
    for taken_apart in ({"shuffle_caption": True}, {"caption_tag_dropout_rate": 0.5}, {"token_warmup_step": 9.0},
                        {"keep_tokens_separator": ";;"}):  # fmt: skip
        found = said(check(folder, caption_separator="", **taken_apart))
        assert "`caption_separator` is empty, but captions are split into tags" in found


def test_invalid_weights_are_reported_before_training(tmp_path, capsys):
    folder = make_images(tmp_path / "a", 2, caption="(mychar4:1.2.3)")
    assert "`1.2.3` is no weight" in said(check(folder, weighted_captions=True))
    assert not check(folder).failed()
    flags = ["--train_data_dir", str(folder), "--token_string", WORD, "--weighted_captions"]
    assert main(["check", "--json", *flags]) == 2
    assert any("no weight" in p["what"] for p in json.loads(capsys.readouterr().out)["problems"])


def test_token_warm_up_rounds_as_sd_scripts_does():
    rules = CaptionRules("zyx", warmup_min=1, warmup_steps=90)
    assert warmed_up(27, rules, Moment(step=45)) == 13  # 45 * (26 / 90) is a little less than 13
    assert warmed_up(27, rules, Moment(step=90)) == 27


def test_only_tags_between_the_fixed_ones_are_shuffled():
    rules = CaptionRules(prefix="best", suffix="end", shuffle=True, keep_tokens=1)
    shuffled = {final_caption("a, b, c", rules, Random(slot)) for slot in range(40)}
    assert all(s.startswith("best a, ") for s in shuffled)
    assert {frozenset(s.removeprefix("best a, ").split(", ")) for s in shuffled} == {frozenset({"b", "c end"})}
    assert len(shuffled) == 2
