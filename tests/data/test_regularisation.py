"""Verify regularisation images, and the folders named `N_name` that they come in."""

from neonym.preflight.preflight import preflight
from support import WORD
from support.checks import check, check_table, said, settings
from support.data_sets import make_images


def test_images_that_are_left_over_are_reported(tmp_path):
    make_images(tmp_path / "a" / "2_mychar4", 2)
    make_images(tmp_path / "r" / "1_person", 6, caption="somebody")
    ready = check(tmp_path / "a", reg_data_dir=str(tmp_path / "r"))
    assert sum(r.is_reg for r in ready.records) == 4
    text = said(ready, "warning")
    assert "2 of 6 regularisation images are not used (04.png, 05.png)" in text
    assert "count 4 times" in text
    make_images(tmp_path / "a" / "2_mychar4", 3)
    assert "are not used" not in said(check(tmp_path / "a", reg_data_dir=str(tmp_path / "r")), "warning")


def test_none_is_used_without_images_of_the_word(tmp_path):
    make_images(tmp_path / "a", 2)
    make_images(tmp_path / "r", 3, caption="somebody")
    regular = {"image_dir": str(tmp_path / "r"), "is_reg": True}
    table = {"datasets": [{"subsets": [{"image_dir": str(tmp_path / "a")}]}, {"subsets": [regular]}]}
    ready = check_table(tmp_path, table)
    assert not any(r.is_reg for r in ready.records)
    assert "none of the 3 regularisation images is used" in said(ready, "warning")


def test_their_captions_should_not_contain_the_word(tmp_path):
    make_images(tmp_path / "a", 3)
    regular = make_images(tmp_path / "r" / "1_", 3, caption=None)
    folders = settings(train_data_dir=str(tmp_path / "a"), reg_data_dir=str(regular), token_string=WORD)
    text = said(preflight(folders), "warning")
    assert "3 images without a caption file" in text
    assert "class_tokens with what they show, without the new word" in text
    assert "class_tokens with the new word" not in text
    for name, caption in (("00", "somebody"), ("01", "a MyChar4"), ("02", "mychar45")):
        (regular / f"{name}.txt").write_text(caption)
    text = said(preflight(folders), "warning")
    assert "1 of 3 captions of regularisation images contain the word (01.png)" in text
    assert "without" not in text
    text = said(check(tmp_path / "a", reg_data_dir=str(regular), caption_prefix=WORD), "warning")
    assert "3 of 3 captions of regularisation images" in text


def test_none_is_used_with_a_metadata_file(tmp_path):
    folder = make_images(tmp_path / "a", 1)
    regular = make_images(tmp_path / "r" / "1_person", 1)
    (tmp_path / "m.json").write_text('{"00": {"caption": "mychar4"}}')
    ready = check(folder, in_json=str(tmp_path / "m.json"), reg_data_dir=str(regular.parent))
    assert not ready.failed()
    assert "--reg_data_dir is ignored, because --in_json names the images" in said(ready, "warning")


def test_folders_with_odd_names(tmp_path):
    for name in ("2023", "0_never", "holiday"):
        make_images(tmp_path / name, 1)
    ready = check(tmp_path)
    assert [r.repeats for r in ready.records] == [2023]
    text = said(ready, "warning", "note")
    assert "2023 is an `N_name` folder without a name: each of its images counts 2023 times" in text
    assert "0_never is skipped" in text
    assert "holiday is skipped" in text
