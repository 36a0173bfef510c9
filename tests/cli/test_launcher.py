"""Under `accelerate launch` the verdict is the last thing on the screen, and errors are not lost in its traceback."""

import json

from support.runs import flags_for, launch


def test_two_processes_end_with_the_verdict(images, tmp_path):
    out = tmp_path / "out"
    process = launch(2, *flags_for(images, out, steps=2), "--learning_rate=1e-7")
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert said.rstrip().splitlines()[-1] == f"  file: {out / 'mychar4.safetensors'}"
    assert said.count("mychar4: NOT LEARNED") == 1
    (verdict,) = json.loads((out / "mychar4-run" / "verdict.json").read_text())
    assert verdict["word"] == "NOT LEARNED"


def test_an_error_says_that_the_traceback_below_is_the_launchers(tmp_path):
    process = launch(2, "--train_data_dir", str(tmp_path / "nix"), "--token_string=x")
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 1
    assert said.count("nix is not a folder") == 1
    assert said.count("the exit code is 2") == 1
