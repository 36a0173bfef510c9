"""`neonym recipe` prints valid TOML or an error, whatever the metadata of the file."""

import json

import pytest
import torch
from safetensors.torch import save_file

from neonym.cli.main import main
from neonym.config.resolve import tomllib

ODD = "a\x00\x07\x1b[2J\x7f\x85\u2028\"'''\\ \n[x]\r# ünï\t😀"


def recipe(path, capsys, **metadata) -> tuple[int, str, str]:
    """Return the exit code, the output and the errors of the command for a file with this metadata."""
    save_file({"emb_params": torch.ones(2, 768)}, path / "word.safetensors", metadata)
    code = main(["recipe", str(path / "word.safetensors")])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ('{"learning_rate": 1e22}', 1e22),
        ('{"learning_rate": -0.0}', 0.0),
        ('{"learning_rate": true}', True),
        (json.dumps({"learning_rate": ODD}), ODD),
        (json.dumps({"learning_rate": [ODD, 1, [2.5, False]]}), [ODD, 1, [2.5, False]]),
        ('{"learning_rate": 9223372036854775807}', 2**63 - 1),
        (json.dumps({"learning_rate": "x" * 100_000}), "x" * 100_000),
    ],
)
def test_values_survive_the_round_trip_through_the_printed_file(tmp_path, capsys, settings, value):
    code, out, _ = recipe(tmp_path, capsys, **{"neonym.settings": settings, "neonym.init_word": ODD, "token": "wörd"})
    assert code == 0
    found = tomllib.loads(out)
    assert found["init_word"] == ODD
    assert found["token_string"] == "wörd"
    assert found["learning_rate"] == value


@pytest.mark.parametrize(
    "settings",
    [
        '{"learning_rate": {"a": 1}}', '{"learning_rate": [null]}', f'{{"learning_rate": {"[" * 400}{"]" * 400}}}',
        f'{{"learning_rate": {"[" * 9000}{"]" * 9000}}}', '{"learning_rate": 9223372036854775808}',
        f'{{"learning_rate": {"9" * 5000}}}', '{"learning_rate": "\\ud800"}', "null", "[]", '"x"', "",
        '{"learning_rate": NaN}', '{"learning_rate": -Infinity}', '{"learning_rate": 1e999}',
    ],
)  # fmt: skip
def test_settings_that_no_config_file_can_hold_are_an_error(tmp_path, capsys, settings):
    code, out, err = recipe(tmp_path, capsys, **{"neonym.settings": settings})
    assert code == 2
    assert out == ""
    assert "settings" in err
    assert err.count("\n") == 1


def test_null_values_are_left_out(tmp_path, capsys):
    code, out, _ = recipe(tmp_path, capsys, **{"neonym.settings": '{"learning_rate": null}'})
    assert code == 0
    assert "learning_rate" not in tomllib.loads(out)


def test_the_recipe_includes_a_data_set_file_in_comments(tmp_path, capsys):
    table = {"batch_size": 4, "subsets": [{"image_dir": ODD, "num_repeats": None, "caption_prefix": "a"}]}
    recorded = {"neonym.settings": "{}", "neonym.datasets": json.dumps([table])}
    code, out, _ = recipe(tmp_path, capsys, **recorded)
    assert code == 0
    assert "train_data_dir" not in tomllib.loads(out)
    lines = out.split("\n")
    data = [line.removeprefix("#").removeprefix(" ") for line in lines[lines.index("# [[datasets]]") :]]
    (found,) = tomllib.loads("\n".join(data))["datasets"]
    assert found["batch_size"] == 4
    assert found["subsets"] == [{"image_dir": ODD, "caption_prefix": "a"}]
    wrong = json.dumps([{"subsets": [{"image_dir": "\ud800"}]}])
    code, out, err = recipe(tmp_path, capsys, **(recorded | {"neonym.datasets": wrong}))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
