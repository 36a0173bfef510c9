"""Verify `neonym caption describe` and `tag` with small random models."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from support.commands import caption
from support.data_sets import make_images

SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**SIZE, "image_size": 32, "patch_size": 16}


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    """Return the folder of a small BLIP with random weights."""
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessorPil,
        BlipProcessor,
    )

    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "red", "blue", "square", "of"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    config = BlipConfig(
        text_config={**SIZE, "vocab_size": 12, "encoder_hidden_size": 16, "bos_token_id": 5, "eos_token_id": 3,
                     "sep_token_id": 3, "pad_token_id": 0, "max_position_embeddings": 32, "is_decoder": True},
        vision_config=VISION, projection_dim=16,
    )  # fmt: skip
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def test_images_are_described(tmp_path, blip, capsys):
    folder = make_images(tmp_path / "a", 3, caption=None)
    (folder / "02.png").write_bytes(b"")
    command = ["describe", folder, "--model", blip, "--prefix", "mychar4, ", "--max_tokens", 5]
    assert caption(*command) == 2  # one image is broken, the others are done
    assert "02.png" in capsys.readouterr().err
    first = (folder / "00.caption").read_text()
    assert first.startswith("mychar4, ")
    (folder / "02.png").unlink()
    assert caption(*command) == 0
    assert "2 existing files kept" in capsys.readouterr().out
    assert caption(*command, "--overwrite") == 0
    assert (folder / "00.caption").read_text() == first


def make_tagger(folder, tags: list[tuple[str, str]], shape=(1, 32, 32, 3)):
    """Write a tagger with one layer: each tag's probability is a function of the mean colour."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = numpy_helper.from_array(rng.normal(0, 0.05, (3, len(tags))).astype(np.float32), "w")
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["m", "w"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "tagger", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, len(tags)])], [weights],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    rows = [f"{i},{name},{category},9" for i, (name, category) in enumerate(tags)]
    (folder / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *rows]) + "\n")


def test_images_are_tagged(tmp_path):
    folder, model = make_images(tmp_path / "a", 4, caption=None), tmp_path / "model"
    model.mkdir()
    tags = [("general", "9"), ("red_hat", "0"), ("solo", "0"), ("tree", "0"), ("somebody", "4"), ("sky_line", "0")]
    make_tagger(model, tags)
    assert caption("tag", folder, "--model", model, "--prefix", "mychar4, ", "--threshold", 0.5) == 0
    texts = [(folder / f"{i:02}.txt").read_text() for i in range(4)]
    assert all(text.startswith("mychar4, ") for text in texts)
    assert len(set(texts)) > 1
    assert not any("general" in text or "_" in text for text in texts)


def one_message(capsys) -> str:
    """Return the printed error, which must be one paragraph."""
    text = capsys.readouterr().err.strip()
    assert len(text.splitlines()) == 1, text
    return text


def edit_config(folder: Path, **values) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda m: (m / "config.json").unlink(), "Unrecognized model"),
        (lambda m: (m / "config.json").write_text("[]"), "must be a mapping"),
        (lambda m: (m / "model.safetensors").unlink(), "no file named model.safetensors"),
        (lambda m: (m / "processor_config.json").unlink(), "image processor"),
        (lambda m: edit_config(m, model_type="bert", architectures=["BertModel"]), "BertConfig"),
        (lambda m: edit_config(m, model_type="nonsense"), "does not recognize this architecture"),
        (
            lambda m: edit_config(m, vision_config={**VISION, "num_hidden_layers": 2}),
            "weights do not match its config",
        ),
        (lambda m: edit_config(m, vision_config={**VISION, "intermediate_size": 64}), "have another shape"),
        (lambda m: shorten(m / "model.safetensors"), "is not a model that describes images"),
    ],
)
def test_an_unusable_captioning_model_is_refused(tmp_path, blip, capsys, break_it, words):
    folder = make_images(tmp_path / "a", 1, caption=None)
    model = tmp_path / "model"
    shutil.copytree(blip, model)
    break_it(model)
    assert caption("describe", folder, "--model", model) == 2
    text = one_message(capsys)
    assert words in text
    assert str(model) in text
    assert "Name a local folder" in text


def test_settings_that_a_captioning_model_cannot_use(tmp_path, blip, capsys):
    folder = make_images(tmp_path / "a", 1, caption=None)
    assert caption("describe", folder, "--model", tmp_path / "none") == 2
    assert "none is not a folder" in one_message(capsys)
    assert caption("describe", folder, "--model", blip, "--device", "nowhere") == 2
    assert "--device=nowhere cannot be used" in one_message(capsys)
    assert caption("describe", folder, "--model", blip, "--prompt", "a red " * 40) == 2
    assert "cannot describe an image" in capsys.readouterr().err
    assert list(folder.glob("*.caption")) == []
    (tmp_path / "empty").mkdir()
    assert caption("describe", tmp_path / "empty", "--model", blip) == 2
    assert "contains no images" in one_message(capsys)


def test_written_captions_stay_when_a_later_one_fails(tmp_path, blip, capsys):
    folder = make_images(tmp_path / "a", 5, caption=None)
    (folder / "01.png").write_bytes(b"")
    (folder / "03.caption").mkdir()
    assert caption("describe", folder, "--model", blip, "--max_tokens", 5, "--overwrite") == 2
    printed = capsys.readouterr()
    assert "2 files written" in printed.out
    assert len(printed.err.strip().splitlines()) == 2
    assert "01.png is not an image in a known format" in printed.err
    assert "03.caption cannot be written" in printed.err
    assert sorted(p.name for p in folder.glob("*.caption") if p.is_file()) == ["00.caption", "02.caption"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("tag_id,tag,category\n0,a,0\n", "selected_tags.csv has no column `name` (found: tag_id, tag, category)"),
        ("0,a,0\n1,b,0\n", "has no column `name`, `category`"),
        ("", "has no column"),
        ("name,category\n\xe9,0\n", "selected_tags.csv cannot be read"),
        ("tag_id,name,category\n0,a\n", "lists no tag of category 0 (general) or 4 (characters)"),
        ("name,category\na,0\n", "has 2 tags, but selected_tags.csv lists 1"),
        (None, "selected_tags.csv cannot be read (No such file or directory)"),
    ],
)
def test_an_unusable_list_of_tags_is_refused(tmp_path, capsys, table, words):
    folder, model = make_images(tmp_path / "a", 1, caption=None), tmp_path / "model"
    model.mkdir()
    make_tagger(model, [("a", "0"), ("b", "0")])
    (model / "selected_tags.csv").unlink()
    if table is not None:
        (model / "selected_tags.csv").write_bytes(table.encode("latin-1"))
    assert caption("tag", folder, "--model", model) == 2
    text = one_message(capsys)
    assert words in text
    assert "Take both files" in text or "Use the model's selected_tags.csv" in text


def test_an_unusable_tagger_is_refused(tmp_path, capsys):
    folder, model = make_images(tmp_path / "a", 1, caption=None), tmp_path / "model"
    model.mkdir()
    make_tagger(model, [("a", "0"), ("b", "0")], shape=(1, 3, 32, 32))
    assert caption("tag", folder, "--model", model) == 2
    assert "model.onnx is not a usable tagger" in one_message(capsys)
    shorten(model / "model.onnx")
    assert caption("tag", folder, "--model", model) == 2
    assert "model.onnx is not a usable tagger" in one_message(capsys)
    (model / "model.onnx").unlink()
    assert caption("tag", folder, "--model", model) == 2
    assert "model.onnx is not a usable tagger" in one_message(capsys)
