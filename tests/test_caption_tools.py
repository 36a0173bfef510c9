"""`neonym caption ...`: the tools as users call them, captioning models being small random ones."""

import json

import numpy as np
import pytest
from conftest import make_pictures, settings
from PIL import Image

from neonym.cli.check import look_alikes
from neonym.cli.main import main
from neonym.data.caption_tools import clean_tags
from neonym.data.duplicates import fingerprints, similar
from neonym.learn.prepare import prepare


def caption(*words) -> int:
    return main(["caption", *map(str, words)])


def test_merged_files_train_and_come_back(tmp_path, capsys):
    folder = make_pictures(tmp_path / "a", 3, caption=None)
    for i in range(3):
        (folder / f"{i:02}.caption").write_text(f"mychar4 number {i}\nanother line\n")
        (folder / f"{i:02}.txt").write_text("tag_one, ^_^, Tag one,  b\n")
    (folder / "below").mkdir()
    Image.new("RGB", (64, 64)).save(folder / "below" / "x.png")
    meta = tmp_path / "meta.json"
    assert caption("merge", folder, meta) == 0
    table = json.loads(meta.read_text())
    assert table["00.png"] == {"caption": "mychar4 number 0\nanother line", "tags": "tag_one, ^_^, Tag one,  b"}
    assert len(table) == 3
    assert caption("clean", meta, tmp_path / "clean.json", "--drop", "b") == 0
    assert json.loads((tmp_path / "clean.json").read_text())["01.png"]["tags"] == "tag one, ^_^"
    ready = prepare(settings(train_data_dir=str(folder), in_json=str(tmp_path / "clean.json"), token_string="mychar4"))
    assert not ready.failed()
    assert ready.records[0].caption.startswith("mychar4 number 0")
    assert caption("count", tmp_path / "clean.json") == 0
    assert "3 tag one" in capsys.readouterr().out
    copy = make_pictures(tmp_path / "b", 3, caption=None)
    (copy / "01.txt").write_text("mine")
    assert caption("split", tmp_path / "clean.json", copy) == 0
    assert "1 files were there already" in capsys.readouterr().out
    assert (copy / "01.txt").read_text() == "mine"
    assert (copy / "00.txt").read_text() == "tag one, ^_^\n"
    assert (copy / "00.caption").read_text() == "mychar4 number 0\nanother line\n"
    lines = tmp_path / "all.jsonl"
    assert caption("merge", folder, lines, "--recursive", "--full_path", "--in_json", meta) == 0
    assert str(folder / "below" / "x.png") in lines.read_text()


def test_mistakes_are_told(tmp_path, capsys):
    assert caption("merge", tmp_path / "none", tmp_path / "x.json") == 2
    assert "cannot be read" in capsys.readouterr().err
    assert caption("clean", tmp_path / "none.json", tmp_path / "x.json") == 2
    assert caption("nonsense") == 2
    assert caption() == 2
    folder = make_pictures(tmp_path / "a", 1)
    (folder / "00.txt").write_bytes(b"\xff\xfe")
    assert caption("merge", folder, tmp_path / "x.json") == 2
    assert not (tmp_path / "x.json").exists()
    assert caption("describe", folder, "--model", tmp_path) == 2
    assert "is no model that describes pictures" in capsys.readouterr().err
    assert caption("tag", folder, "--model", tmp_path) == 2


def test_tags_are_cleaned():
    assert clean_tags("a_b, A b, o_o, :3,, x\ny") == "a b, o_o, :3, x, y"


def photo(seed: int, size=(256, 192)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)


def test_pictures_that_look_the_same(tmp_path, capsys):
    for seed in range(30):
        photo(seed).save(tmp_path / f"{seed:02}.png")
    photo(3).resize((100, 80)).save(tmp_path / "small.png")
    photo(3).save(tmp_path / "packed.jpg", quality=40)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "blue.png")
    (tmp_path / "broken.png").write_bytes(b"")
    groups = similar(fingerprints(sorted(tmp_path.iterdir())))
    assert [[p.name for p in group] for group in groups] == [["03.png", "packed.jpg", "small.png"]]
    assert caption("duplicates", tmp_path) == 0
    assert "03.png, packed.jpg, small.png" in capsys.readouterr().out
    (tmp_path / "broken.png").unlink()
    ready = prepare(settings(train_data_dir=str(tmp_path), token_string="mychar4"))
    assert "03.png = packed.jpg = small.png" in str(look_alikes(ready)[0])


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    """A small BLIP with random weights."""
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
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={**size, "vocab_size": 12, "encoder_hidden_size": 16, "bos_token_id": 5, "eos_token_id": 3,
                     "sep_token_id": 3, "pad_token_id": 0, "max_position_embeddings": 32, "is_decoder": True},
        vision_config={**size, "image_size": 32, "patch_size": 16}, projection_dim=16,
    )  # fmt: skip
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def test_pictures_are_described(tmp_path, blip, capsys):
    folder = make_pictures(tmp_path / "a", 3, caption=None)
    (folder / "02.png").write_bytes(b"")
    command = ["describe", folder, "--model", blip, "--prefix", "mychar4, ", "--max_tokens", 5]
    assert caption(*command) == 2  # one picture is broken, the others are done
    assert "02.png" in capsys.readouterr().err
    first = (folder / "00.caption").read_text()
    assert first.startswith("mychar4, ")
    (folder / "02.png").unlink()
    assert caption(*command) == 0
    assert "2 were there already" in capsys.readouterr().out
    assert caption(*command, "--overwrite") == 0
    assert (folder / "00.caption").read_text() == first


def make_tagger(folder, tags: list[tuple[str, str]]):
    """A tagger of one layer: each tag's probability is a function of the mean colour."""
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
        nodes, "tagger", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32, 32, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, len(tags)])], [weights],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    rows = [f"{i},{name},{category},9" for i, (name, category) in enumerate(tags)]
    (folder / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *rows]) + "\n")


def test_pictures_are_tagged(tmp_path, capsys):
    folder, model = make_pictures(tmp_path / "a", 4, caption=None), tmp_path / "model"
    model.mkdir()
    tags = [("general", "9"), ("red_hat", "0"), ("solo", "0"), ("tree", "0"), ("somebody", "4"), ("sky_line", "0")]
    make_tagger(model, tags)
    assert caption("tag", folder, "--model", model, "--prefix", "mychar4, ", "--threshold", 0.5) == 0
    texts = [(folder / f"{i:02}.txt").read_text() for i in range(4)]
    assert all(text.startswith("mychar4, ") for text in texts)
    assert len(set(texts)) > 1
    assert not any("general" in text or "_" in text for text in texts)
    (model / "selected_tags.csv").write_text("tag_id,name,category,count\n0,x,0,1\n")
    assert caption("tag", folder, "--model", model, "--overwrite") == 2
    assert "knows 6 tags, selected_tags.csv lists 1" in capsys.readouterr().err
