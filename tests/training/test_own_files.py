"""Tests of damaged files of our own: caches are rebuilt, states and verdicts are refused in one sentence."""

import copy
import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save

from neonym.cli.main import main
from neonym.cli.report import evaluations
from neonym.errors import UserError
from neonym.io.memo import read_memo
from neonym.training.state import read_state
from support.data_sets import make_images

NOT_TABLES = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"0",
    b'"x"',
    b"{",
    b"\xff\xfe{}",
    b"[" * 100_000,
    b'{"layout": 3, "files": null}',
]
ODD = [None, [], {}, "", "x", -1, 0, 1e308, 10**40, True, float("nan"), [[]], {"x": None}]


def flags(home: Path, name: str, *more: str) -> list[str]:
    """Return the flags of a run of two steps into a folder."""
    return [
        f"--train_data_dir={home / 'pictures'}", "--token_string=mychar4", f"--output_dir={home / name}", "--cpu",
        "--max_train_steps=2", "--eval_samples=8", "--train_batch_size=1", "--resolution=64", "--learning_rate=0.005", *more,
    ]  # fmt: skip


def leaves(value, at=()):
    """Yield the path of every part of a JSON value, itself included."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(inner)[:40]:
        yield from leaves(part, (*at, key))


def changed(value, at, new):
    """Return a copy with another value at a path, or without it if the new value is `...`."""
    whole = [copy.deepcopy(value)]
    target, last = whole, 0
    for key in at:
        target, last = target[last], key
    if new is ...:
        del target[last]
    else:
        target[last] = new
    return whole[0] if whole else None


def mutations(value, count: int, seed: str):
    """Yield `count` copies of a JSON value, each changed at one path."""
    ways = [(at, new) for at in leaves(value) for new in (..., *ODD)]
    for at, new in random.Random(seed).sample(ways, min(count, len(ways))):
        if at or new is not ...:
            yield changed(value, at, new)


def damaged_files(content: bytes, value, count: int, seed: str):
    """Yield damaged contents of a JSON file: not a table, truncated, mutated."""
    yield from NOT_TABLES
    yield from (content[: len(content) // 2], content[:-1], content + b" ", content.replace(b"1", b"2"))
    yield from (json.dumps(found).encode() for found in mutations(value, count, seed) if found != value)


def put(file: Path, content: bytes | None) -> None:
    """Replace a file by a content, or by a folder if the content is None."""
    shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
    file.mkdir() if content is None else file.write_bytes(content)


def test_damaged_caches_are_rebuilt(tmp_path, monkeypatch, capsys):
    """A damaged image index or tokenizer memo is rebuilt, and does not change the output of `check`."""
    cache, images = tmp_path / "cache", make_images(tmp_path / "pictures", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    for file in images.iterdir():
        os.utime(file, (1e9, 1e9))
    monkeypatch.setattr("neonym.data.index.TOO_YOUNG", 0)
    argv = ["check", "--json", *flags(tmp_path, "out", f"--latent_cache_dir={tmp_path}")]
    assert main(argv) == 0
    first = capsys.readouterr().out
    for kind in ("index", "tokenizers"):
        (file,) = (cache / "neonym" / kind).iterdir()
        content = file.read_bytes()
        value = read_memo(file)
        for number, bad in enumerate([None, *damaged_files(content, value, 80 if kind == "index" else 8, kind)]):
            put(file, bad)
            assert read_memo(file) == {}, bad and bad[:200]
            if number % 8 == 0:
                assert main(argv) == 0, bad and bad[:200]
                assert capsys.readouterr().out == first, bad and bad[:200]
        put(file, b"null")
        assert main(argv) == 0
        assert read_memo(file) == value  # rebuilt
        capsys.readouterr()


def test_wrong_entries_of_an_index_are_not_used(tmp_path, monkeypatch, capsys):
    cache, images = tmp_path / "cache", make_images(tmp_path / "pictures", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr("neonym.data.index.TOO_YOUNG", 0)
    argv = ["check", "--json", *flags(tmp_path, "out")]
    assert main(argv) == 0
    first = capsys.readouterr().out
    (file,) = (cache / "neonym" / "index").iterdir()
    table = json.loads(file.read_bytes())
    for entry in table["files"].values():
        entry[1:3] = [640, 480]
    file.write_text(json.dumps(table))
    assert main(argv) == 0
    assert capsys.readouterr().out == first
    assert str(images) in first
    other = file.with_name("0" * 32 + ".json")
    file.replace(other)  # the entries of another folder
    assert main(argv) == 0
    shutil.copy(other, file)
    assert main(argv) == 0


def test_cached_latents_of_another_entry_dtype_or_shape_are_not_used(tmp_path):
    from neonym.data.latent_cache import read_entry, write_entry

    file, moments = tmp_path / "entry.safetensors", torch.randn(8, 4, 2)
    assert write_entry(file, moments)
    assert torch.equal(read_entry(file), moments)
    with safe_open(file, "pt") as opened:
        noted = opened.metadata()
    shutil.copy(file, tmp_path / "other.safetensors")
    assert read_entry(tmp_path / "other.safetensors") is None
    bits = moments.view(torch.int32)
    for tensors in (
        {"moments": moments.reshape(8, 2, 4)}, {"moments": bits}, {"moments": moments.bfloat16()}, {"x": moments}, {},
        {"moments": moments.to(torch.float8_e4m3fn)}, {"moments": moments[0, 0, 0]},
    ):  # fmt: skip
        file.write_bytes(save(tensors, noted))
        assert read_entry(file) is None
    file.write_bytes(save({"moments": moments}))
    assert read_entry(file) is None


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a folder with a finished run of two steps."""
    folder = tmp_path_factory.mktemp("finished")
    make_images(folder / "pictures", 2)
    assert main(["train", *flags(folder, "out")]) in (0, 3)
    return folder


def refused(folder: Path, capsys, file: Path, *more: str) -> str:
    """Run the command of a damaged run, and return the single error, which names the file."""
    capsys.readouterr()
    assert main(["train", *flags(folder, "out", *more)]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert str(file) in errors[0]
    assert len(errors[0]) < 1000 + len(str(file))
    return errors[0]


def damaged_states(content: bytes, count: int):
    """Yield damaged states: not safetensors, without metadata, with mutated facts, with other tensors."""
    yield from NOT_TABLES
    yield from (content[: len(content) // 2], content[:-1], content[:-1] + bytes([content[-1] ^ 1]))
    tensors, facts = parts_of(content)
    yield save(tensors)
    yield save(tensors, {"neonym": "null"})
    yield save({}, {"neonym": json.dumps(facts)})
    for name, tensor in tensors.items():
        metadata = {"neonym": json.dumps(facts)}
        yield save({**tensors, name: tensor * float("nan")}, metadata)
        yield save({**tensors, name: tensor.flatten()[:1].clone()}, metadata)
        yield save({n: t for n, t in tensors.items() if n != name}, metadata)
    for found in mutations(facts, count, "state"):
        if found != facts:
            yield save(tensors, {"neonym": json.dumps(found)})


def parts_of(content: bytes):
    """Return the tensors and the facts of a state."""
    size = int.from_bytes(content[:8], "little")
    return load(content), json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["neonym"])


def test_the_tensors_of_a_state_are_aligned_like_all_others(finished):
    """Otherwise, sums over them round differently, and DAdaptSGD would not resume bit for bit."""
    tensors = read_state(finished / "out" / "mychar4-run" / "finished.safetensors", {}).tensors
    assert [name for name, tensor in tensors.items() if tensor.data_ptr() % 64] == []


@pytest.mark.parametrize("place", ["finished", "interrupted", "--resume"])
def test_damaged_states_are_refused_in_one_sentence(finished, place, capsys):
    run = finished / "out" / "mychar4-run"
    whole = run / "finished.safetensors"
    content = whole.read_bytes()
    file = {
        "finished": whole,
        "interrupted": run / "state.safetensors",
        "--resume": finished / "s" / "state.safetensors",
    }[place]
    file.parent.mkdir(exist_ok=True)
    if place == "interrupted":
        whole.unlink()
    more = [f"--resume={file.parent}"] if place == "--resume" else []
    for number, bad in enumerate(damaged_states(content, 150 if place == "finished" else 20)):
        put(file, bad)
        with pytest.raises(UserError, match="damaged") as caught:
            read_state(file, {})
        assert str(file) in str(caught.value)
        if number % 20 == 0:
            message = refused(finished, capsys, file, *more)
            assert "damaged" in message
            assert ("--restart" in message) == (place != "--resume")
    if place != "--resume":
        put(file, None)
        assert "is a folder" in refused(finished, capsys, file)
        assert "is a folder" in refused(finished, capsys, file, "--restart")
        file.rmdir()
    file.unlink(missing_ok=True)
    whole.write_bytes(content)
    assert main(["train", *flags(finished, "out")]) == 0
    assert "finished already" in capsys.readouterr().err


def test_a_damaged_verdict_is_reported_and_the_run_stays_finished(finished, capsys):
    file = finished / "out" / "mychar4-run" / "verdict.json"
    content = file.read_bytes()
    value = json.loads(content)
    bad = [
        [{**value[0], "token": None}],
        [{**value[0], "word": 5}],
        [{}],
        [None],
        value[0],
        {"token": "x", "word": "y"},
    ]
    for wrong in [*NOT_TABLES, content[:-3], *(json.dumps(part).encode() for part in bad)]:
        if wrong == b"[]":
            continue
        put(file, wrong)
        assert main(["train", *flags(finished, "out")]) == 0
        message = capsys.readouterr().err
        assert "finished already" in message
        assert f"{file} is damaged" in message
    put(file, content)


def test_a_report_skips_damaged_events(tmp_path):
    events = tmp_path / "events.jsonl"
    lines = ['{"event": "evaluated", "step": 9, "loss": 1.0}', '{"event": "started"}', "null", '{"ev', "\x00", "[1]",
             '{"event": "evaluated", "step": 5, "loss": 0.5}', '{"event": "evaluated"}', '{"event": "evaluated", "st']  # fmt: skip
    events.write_text("\n".join(lines))
    assert evaluations(events) == [(5, 0.5)]
    events.unlink()
    assert evaluations(events) == []
