"""Fifty words, one of which has broken images: it is reported, and the others are what they are alone."""

from support.fleets import FAST, learned_alone, log_of, make_words, run_fleet, write_plan

TINY = {**FAST, "max_train_steps": 1}
NAMES = [f"word{i:02}" for i in range(50)]


def test_a_word_with_broken_images_among_fifty(tmp_path):
    folder = make_words(tmp_path / "words", *NAMES)
    for image in (folder / "word17").glob("*.png"):
        image.write_bytes(b"no image")
    out = tmp_path / "out"
    code, printed = run_fleet(write_plan(tmp_path / "plan.toml", folder, TINY), out, "--workers=2", seconds=500)
    assert code == 2, printed
    endings = {line["word"]: line["ending"] for line in log_of(out) if line["event"] == "word"}
    assert set(endings) == set(NAMES)
    assert [name for name, ending in endings.items() if ending == "failed"] == ["word17"]
    assert printed.count("FAILED") == 1
    assert f"{folder}/word17/00.png" in printed
    for name in NAMES[16:19:2] + NAMES[-1:]:
        assert (out / name / f"{name}.safetensors").read_bytes() == learned_alone(
            tmp_path / "alone", folder, name, TINY
        )
