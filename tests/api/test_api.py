"""Tests of the Python API: flat settings, messages that name settings, and each function as a program uses it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import neonym
from neonym.api.wording import in_python
from neonym.config.command_line import RunFlags, read_run
from neonym.config.flags import read_command_line
from neonym.errors import Problem
from support.commands import pixels
from support.data_sets import make_images

SMALL = {"steps": 2, "size": (64, 64), "seed": 5}


def refusal_of(**settings) -> str:
    """Return the message with which `RunConfig.parse` refuses settings."""
    with pytest.raises(neonym.ConfigError) as error:
        neonym.RunConfig.parse(**settings)
    return str(error.value)


def test_importing_neonym_imports_no_library():
    code = "import neonym, sys; print([m for m in ('torch', 'pydantic', 'typing', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stdout


def test_a_star_import_provides_exactly_the_exported_names():
    space: dict = {}
    exec("from neonym import *", space)
    assert set(space) - {"__builtins__"} == set(neonym.__all__)
    assert set(neonym.__all__) <= set(dir(neonym))
    with pytest.raises(AttributeError, match="no attribute 'paint'"):
        neonym.paint  # noqa: B018


def test_flat_settings_equal_those_of_the_command_line(tmp_path):
    argv = ["--train_data_dir", "a", "--token_string", "x", "--num_vectors_per_token", "4", "--resolution", "512,768",
            "--learning_rate", "1e-3", "--lr_warmup_steps", "10%", "--optimizer_args", "eps=1e-7", "betas=(0.9, 0.99)",
            "--save_state", "--use_8bit_adam", "--cache_info"]  # fmt: skip
    line = read_command_line(RunFlags, argv, "neonym train", "")
    given = read_run(line.flags, line.argv)
    run = neonym.RunConfig.parse(
        train_data_dir=Path("a"),
        token_string="x",
        num_vectors_per_token=4,
        resolution=(512, 768),
        learning_rate=1e-3,
        lr_warmup_steps="10%",
        optimizer_args=["eps=1e-7", "betas=(0.9, 0.99)"],
        save_state=True,
        use_8bit_adam=True,
        cache_info=True,
        weights=None,
    )
    assert run.model_dump() == given.run.model_dump()
    assert [p.what for p in run.notes] == [p.what for p in given.problems]
    assert [p.where for p in run.notes] == ["cache_info"]


def test_section_names_of_a_config_file_are_ignored():
    run = neonym.RunConfig.parse(training={"max_train_steps": 7}, token_string="x")
    assert (run.optim.max_train_steps, run.concept.token_string) == (7, "x")


def test_parse_reports_all_mistakes_at_once_by_setting():
    message = refusal_of(
        learnig_rate=3,
        num_vectors=4,
        seed="x",
        deepspeed=True,
        save_precision="fp8",
        num_vectors_per_token=True,
        max_data_loader_n_workers="two",
    )
    assert "`learnig_rate` is not known. Did you mean `learning_rate`?" in message
    assert "This setting of diffusers and invoke-training is `num_vectors_per_token` in Neonym" in message
    assert "- seed: " in message
    assert "- deepspeed: " in message
    assert "- save_precision: " in message
    assert "- num_vectors_per_token: `true` is not a whole number" in message
    assert "- max_data_loader_n_workers: " in message
    assert "--" not in message


def test_keys_of_other_trainers_cause_warnings():
    run = neonym.RunConfig.parse(token_string="x", network_dim=8, epoch=3)
    assert [(p.severity, "network_dim" in p.what or "epoch" in p.what) for p in run.notes] == [("warning", True)] * 2


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (
            "has no effect without --loss_type=huber or smooth_l1",
            "has no effect without `loss_type=huber` or smooth_l1",
        ),
        ("Add --lr_scheduler_min_lr_ratio=0.1.", "Add `lr_scheduler_min_lr_ratio=0.1`."),
        ("sets `--optimizer_type=Lion`", "sets `optimizer_type=Lion`"),
        ("needs --sample_prompts, a file", "needs `sample_prompts`, a file"),
        ("the same, unless it has --d", "the same, unless it has --d"),
        ("Take it out: neonym convert a b.pt --word b", "Take it out: neonym convert a b.pt --word b"),
        ("Pass it with --vae (neonym generate: --ckpt)", "Pass it with `vae` (neonym generate: --ckpt)"),
        ("keep this -- and --this_too", "keep this -- and --this_too"),
    ],
)
def test_messages_for_python_name_settings_and_keep_commands_and_prompt_options(flags, names):
    problem = Problem("error", flags, "--learning_rate, --fp16", flags)
    found = in_python(problem)
    assert (found.what, found.fix, found.where) == (names, names, "learning_rate, fp16")
    assert in_python(found) == found


def test_check_returns_the_problems_of_a_run(images):
    run = neonym.RunConfig.parse(
        train_data_dir=images, token_string="mychar4", output_name="a/b", cache_info=True, huber_c=0.3, cpu=True
    )
    found = neonym.check(run)
    assert {(p.severity, p.where) for p in found} >= {
        ("error", "output_name"), ("note", "cache_info"), ("warning", "huber_c"),
    }  # fmt: skip
    assert not [p for p in found if "--" in str(p)]
    fine = neonym.RunConfig.parse(train_data_dir=images, token_string="mychar4", cpu=True)
    assert not [p for p in neonym.check(fine) if p.severity == "error"]


def test_check_reports_duplicate_images(tmp_path):
    folder = make_images(tmp_path / "duplicates", 2)
    (folder / "copy.png").write_bytes((folder / "01.png").read_bytes())
    found = neonym.check(neonym.RunConfig.parse(train_data_dir=folder, token_string="mychar4", cpu=True))
    assert any("01.png = copy.png" in problem.what for problem in found)


def test_train_raises_the_errors_that_check_returns(images):
    run = neonym.RunConfig.parse(train_data_dir=images, token_string="mychar4", output_name="a/b", seed=-1)
    with pytest.raises(neonym.ConfigError) as error:
        neonym.train(run)
    assert {p.where for p in error.value.problems} == {"output_name", "seed"}
    assert "Set the folder with `output_dir`" in str(error.value)


def test_generate_accepts_files_and_embeddings_and_restores_the_model(word):
    model = neonym.load_model()
    embedding = neonym.read_embedding(word)
    by_file, plain = neonym.generate(["a zyzzo", "a cat"], [word], model, **SMALL)
    renamed = neonym.generate("a frimble", [f"frimble={word}"], model, **SMALL)[0]
    by_value = neonym.generate("a qqx", [replace(embedding, token="qqx")], **SMALL)[0]
    without = neonym.generate(["a zyzzo", "a cat"], (), model, **SMALL)
    assert (pixels(by_file) == pixels(renamed)).all()
    assert (pixels(by_file) == pixels(by_value)).all()
    assert (pixels(plain) == pixels(without[1])).all()
    assert not (pixels(by_file) == pixels(without[0])).all()
    assert by_file.size == (64, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0, "seed": -1, "batch_size": 0}, "steps: 0 is less than 1"),
        ({"sampler": "eulr"}, "sampler: the sampler `eulr` is not known. Did you mean `euler`?"),
        ({"size": (60, 64)}, "60 x 64 is not a multiple of 8"),
    ],
)
def test_generate_refuses_invalid_options(options, message):
    with pytest.raises(neonym.UserError) as error:
        neonym.generate("a cat", **options)
    assert message in str(error.value)
    assert len(error.value.problems) == len(options)


def test_generate_refuses_two_words_of_one_name_and_the_model_stays_usable(word):
    model = neonym.load_model()
    with pytest.raises(neonym.FormatError, match="WORD=FILE"):
        neonym.generate("a zyzzo", [word, word], model, **SMALL)
    assert neonym.generate("a zyzzo", [word], model, **SMALL)


def test_inspect_returns_the_contents_of_a_file(word, tmp_path):
    facts = neonym.inspect(word, model="builtin:emoji")
    (found,) = facts.words
    assert (found.token, found.widths) == ("zyzzo", {"text_encoder": 128})
    encoder = found.encoders["text_encoder"]
    assert (encoder.vectors, encoder.width, len(encoder.norms)) == (2, 128, 2)
    assert [len(words) for words in found.neighbours["text_encoder"].nearest] == [3, 3]
    assert facts.container == "safetensors"
    assert facts.programs
    assert not neonym.inspect(word).words[0].neighbours
    with pytest.raises(neonym.FormatError, match="there is no such file"):
        neonym.inspect(tmp_path / "none.pt")


def test_warnings_and_errors_about_files_name_settings(tmp_path):
    from safetensors.torch import save_file

    rows = torch.ones(1, 128)
    save_file({"encoder.down_blocks.0.weight": rows}, tmp_path / "vae.safetensors")
    torch.save({"<apple>": rows, "<pear>": 2 * rows}, tmp_path / "fruit.bin")
    assert "holds 2 words: extract all of them with neonym convert; `word` selects one" in (
        neonym.inspect(tmp_path / "fruit.bin").warnings
    )
    with pytest.raises(neonym.FormatError, match="holds 2 words"):
        neonym.read_embedding(tmp_path / "fruit.bin")
    assert neonym.read_embedding(tmp_path / "fruit.bin", "<pear>").token == "<pear>"
    with pytest.raises(neonym.FormatError, match=r"`\.gif` is not a known file extension"):
        neonym.write_embedding(neonym.Embedding("x", {"text_encoder": rows}), tmp_path / "x.gif")
    with pytest.raises(neonym.ModelError) as error:
        neonym.load_model(str(tmp_path / "vae.safetensors"))
    assert "is a VAE alone. Pass it with `vae`" in str(error.value)
    assert "--" not in str(error.value)


def test_inspect_refuses_tensors_that_are_not_an_embedding(tmp_path):
    from safetensors.torch import save_file

    save_file({"conv.weight": torch.zeros(4, 4, 3, 3), "conv.bias": torch.zeros(4)}, tmp_path / "a.safetensors")
    with pytest.raises(neonym.FormatError):
        neonym.inspect(tmp_path / "a.safetensors")


def test_convert_writes_beside_the_file_or_to_the_named_one(word, tmp_path):
    assert neonym.convert(word, to="pt") == [word.with_suffix(".pt")]
    assert neonym.convert(word, tmp_path / "new" / "frimble.bin", token="frimble", vectors=3)[0].is_file()
    again = neonym.read_embedding(tmp_path / "new" / "frimble.bin")
    assert (again.token, len(again.vectors["text_encoder"])) == ("frimble", 3)
    Image.new("RGB", (256, 256)).save(tmp_path / "face.jpg")
    (card,) = neonym.convert(word, to="png", picture=tmp_path / "face.jpg")
    assert neonym.inspect(card).words[0].token == "zyzzo"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Name one, or choose the layout with `to`"),
        ({"to": "safetensors"}, "Choose another name, or add `overwrite`"),
        ({"to": "gif"}, "to: `gif` is not a known layout"),
        ({"to": "pt", "vectors": 0}, "vectors: 0 is less than 1"),
        ({"out": "x.pt", "to": "bin"}, "has an extension other than `to=bin`"),
        ({"to": "pt", "token": " "}, "token: the name is empty"),
    ],
)
def test_convert_refuses_arguments_that_contradict_each_other(word, options, message):
    with pytest.raises(neonym.ConfigError) as error:
        neonym.convert(word, **options)
    assert message in str(error.value)


def test_errors_can_be_pickled():
    import pickle

    for error in (neonym.DataError("is torn", "a.png", "Draw it again"), neonym.ConfigError([Problem("error", "x")])):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.problems) == (type(error), str(error), error.problems)


def test_listeners_receive_setting_names_and_the_event_file_keeps_flags(run_for):
    run, texts = neonym.RunConfig.parse(**changed_settings(run_for(max_train_steps=2, learning_rate=1e-9))), list[str]()
    finished: list[neonym.Finished] = []

    def follow(event: neonym.Event) -> None:
        if isinstance(event, neonym.Noted) and event.level != "result":  # a result is the text of the terminal
            texts.append(event.text)
        elif isinstance(event, neonym.Finished):
            finished.append(event)

    def broken(event: neonym.Event) -> None:
        raise RuntimeError(event.kind)

    result = neonym.train(run, [follow, broken])
    assert result.files[0].is_file()
    assert any("choose yours with `pretrained_model_name_or_path`" in text for text in texts)
    assert not [text for text in texts if " --" in text]
    assert any("broken failed (RuntimeError: " in text for text in texts)
    (file,) = Path(run.save.output_dir).glob("*/events.jsonl")
    assert "choose yours with --pretrained_model_name_or_path" in file.read_text()
    (verdict,) = result.verdicts
    assert "use a higher `learning_rate`" in verdict.advice
    again = neonym.train(run, [follow])  # nothing is left to do
    assert (again.verdicts, again.files, again.was_finished) == ([verdict], result.files, True)
    assert [event.verdicts for event in finished] == [(verdict.as_dict(),)] * 2
    for text in (file.read_text(), file.with_name("verdict.json").read_text()):
        assert "use a higher --learning_rate" in text


def changed_settings(run: neonym.RunConfig) -> dict:
    """Return the settings of a run that differ from their defaults."""
    return {
        name: value for section in run.model_dump(exclude_defaults=True).values() for name, value in section.items()
    }


def test_a_contact_sheet_has_a_labelled_row_for_each_and_a_place_for_each_image():
    colours = [Image.new("RGB", (64, 32), name) for name in ("red", "blue", "green")]
    sheet = neonym.contact_sheet([("one", colours[:2]), ("two", colours[2:])], heads=["a", "b"])
    assert sheet.size == (4 + 2 * 68, 4 + 16 + 2 * (16 + 68))
    assert [sheet.getpixel((x, y)) for x, y in ((36, 68), (104, 68), (36, 152))] == [
        image.getpixel((0, 0)) for image in colours
    ]
    assert sheet.getpixel((104, 152)) == (255, 255, 255)
    large = neonym.contact_sheet([("one", [Image.new("RGB", (2048, 1024))])])
    assert large.size == (4 + 516, 4 + 32 + 516)  # the label is larger too
    assert neonym.contact_sheet([("one", colours)], side=16).width == 4 + 3 * 20


@pytest.mark.parametrize(
    ("rows", "side"), [([], None), ([("one", [])], None), ([("one", [Image.new("RGB", (8, 8))])], 0)]
)
def test_a_contact_sheet_without_images_is_refused(rows, side):
    with pytest.raises(neonym.ConfigError):
        neonym.contact_sheet(rows, side=side)
