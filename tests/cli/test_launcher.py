"""`accelerate launch`: the verdict is the last output, and errors are not lost in the launcher's traceback."""

import json

from support.runs import flags_for, launch


def test_two_processes_end_with_the_verdict(images, tmp_path):
    out = tmp_path / "out"
    process = launch(2, *flags_for(images, out, steps=2), "--learning_rate=1e-7")
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert output.rstrip().splitlines()[-1] == f"  file: {out / 'mychar4.safetensors'}"
    assert output.count("mychar4: NOT LEARNED") == 1
    (verdict,) = json.loads((out / "mychar4-run" / "verdict.json").read_text())
    assert verdict["word"] == "NOT LEARNED"


def test_an_error_explains_the_launchers_traceback(tmp_path):
    process = launch(2, "--train_data_dir", str(tmp_path / "nix"), "--token_string=x")
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 1
    assert output.count("nix is not a folder") == 1
    assert output.count("the exit code is 2") == 1
