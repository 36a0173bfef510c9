"""Verify image cards against AUTOMATIC1111's layout, which is read and written here a second time, number by number.

The layout: JSON with `string_to_param: {"*": {"TORCHTENSOR": rows}}`, as base64 in the text chunk `sd-ti-embedding`;
and packed by zlib in the low four bits of the colours left of the first column that is black in these bits (low halves
of the bytes) and right of the last one (high halves), both mixed with the same stream of pseudo-random numbers.
"""

import base64
import json
import struct
import zlib
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin

from neonym.cli.main import main
from neonym.errors import FormatError
from neonym.formats import read_embedding, read_words, support_by_program, write_embedding
from neonym.types import Embedding

ROWS = torch.randn(3, 768, generator=torch.Generator().manual_seed(5)) * 0.02


def stream() -> Iterator[int]:
    """Yield the low halves of the states, modulo 255, of a linear congruential generator."""
    state = 0
    while True:
        state = (1664525 * state + 1013904223) & 0xFFFFFFFF
        yield (state % 255) & 15


def from_chunk(path: Path) -> dict:
    """Return the table in the text chunk, read chunk by chunk: length, kind, content, checksum."""
    content, at = path.read_bytes(), 8
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    while at < len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        keyword, _, text = content[at + 8 : at + 8 + length].partition(b"\0")
        if kind == b"tEXt" and keyword == b"sd-ti-embedding":
            return json.loads(base64.b64decode(text))
        at += length + 12
    pytest.fail("there is no such chunk")


def from_columns(path: Path) -> dict:
    """Return the table in the pixels. Programs crop black edges, so there must be none."""
    with Image.open(path) as opened:
        card = opened.convert("RGB")
    width, height = card.size
    colours = card.load()
    for column in (0, width - 1):
        assert any(all(colours[column, y]) for y in range(height))
    for row in (0, height - 1):
        assert any(all(colours[x, row]) for x in range(width))
    black = [x for x in range(width) if not any(c & 15 for y in range(height) for c in colours[x, y])]
    assert len(black) >= 2

    def halves(columns: range) -> list[int]:
        found = [c & 15 for y in range(height) for x in columns for c in colours[x, y]]
        return [value ^ mixed for value, mixed in zip(found, stream(), strict=False)]

    low, high = halves(range(black[0])), halves(range(black[-1] + 1, width))
    return json.loads(zlib.decompress(bytes(16 * h + lo for h, lo in zip(high, low, strict=True))))


def rows_of(table: dict) -> torch.Tensor:
    assert list(table["string_to_param"]) == ["*"]
    return torch.tensor(table["string_to_param"]["*"]["TORCHTENSOR"], dtype=torch.float64).float()


def test_the_mask_is_that_of_the_web_ui():
    states, state = [], 0
    for _ in range(5):
        state = (1664525 * state + 1013904223) % 2**32
        states.append(state % 255)
    assert states == [253, 242, 127, 44, 157]  # the first of those that its own test lists
    assert list(islice(stream(), 5)) == [n & 15 for n in states]


def test_a_card_holds_as_many_vectors_as_a_prompt(tmp_path):
    """Three chunks of 75 vectors fit for SDXL, even in the pixels alone; many more are refused when writing."""
    generator = torch.Generator().manual_seed(3)
    pair = {"text_encoder": torch.randn(225, 768, generator=generator),
            "text_encoder_2": torch.randn(225, 1280, generator=generator)}  # fmt: skip
    path = write_embedding(Embedding("zyzzo", pair), tmp_path / "zyzzo.png")
    with Image.open(path) as card:
        card.convert("RGB").save(tmp_path / "bare.png")
    for file in (path, tmp_path / "bare.png"):
        assert all(torch.equal(rows, pair[name]) for name, rows in read_embedding(file).vectors.items())
    many = {name: rows.repeat(3, 1) for name, rows in pair.items()}
    with pytest.raises(FormatError, match="more vectors than a card can hold"):
        write_embedding(Embedding("zyzzo", many), tmp_path / "many.png")
    assert not (tmp_path / "many.png").exists()


def test_the_second_implementation_reads_our_cards(tmp_path):
    path = write_embedding(Embedding("zyzzo", {"text_encoder": ROWS}, {"neonym.steps": "7"}), tmp_path / "zyzzo.png")
    for table in (from_chunk(path), from_columns(path)):
        assert torch.equal(rows_of(table), ROWS)
        assert (table["name"], table["step"]) == ("zyzzo", 7)


def test_the_second_implementation_reads_cards_with_images(tmp_path):
    """The image has black edges and black columns, and is as tall as the card."""
    file = write_embedding(Embedding("zyzzo", {"text_encoder": ROWS}), tmp_path / "zyzzo.safetensors")
    image = Image.new("RGB", (90, 300))
    image.paste((200, 16, 240), (20, 40, 40, 260))
    image.save(tmp_path / "picture.png")
    out = tmp_path / "card.png"
    assert main(["convert", str(file), str(out), "--picture", str(tmp_path / "picture.png")]) == 0
    for table in (from_chunk(out), from_columns(out)):
        assert torch.equal(rows_of(table), ROWS)
    with Image.open(out) as card:
        left = (card.width - image.width) // 2
        assert card.crop((left, 0, left + image.width, 300)).convert("RGB").tobytes() == image.tobytes()


def test_cards_of_the_web_ui_are_read(tmp_path):
    """The card is made by the second implementation, with patterns in the high halves of the colours."""
    table = {"string_to_param": {"*": {"TORCHTENSOR": ROWS.tolist()}}, "name": "made-there", "step": 40}
    data, height = zlib.compress(json.dumps(table).encode()), 256
    columns = -(-len(data) // (3 * height))
    padded = list(islice(cycle(data), columns * 3 * height))
    card = Image.new("RGB", (2 * columns + 2 + 64, height))
    card.paste((90, 120, 30), (columns + 1, 0, columns + 65, height))
    for left, part in ((0, [b & 15 for b in padded]), (columns + 66, [b >> 4 for b in padded])):
        mixed = bytes(16 * (i % 7) | (value ^ m) for i, (value, m) in enumerate(zip(part, stream(), strict=False)))
        card.paste(Image.frombytes("RGB", (columns, height), mixed), (left, 0))
    card.save(tmp_path / "x.png")
    assert torch.equal(rows_of(from_columns(tmp_path / "x.png")), ROWS)
    found = read_embedding(tmp_path / "x.png")
    assert found.token == "made-there"
    assert torch.equal(found.vectors["text_encoder"], ROWS)


PAIR = {"text_encoder": ROWS, "text_encoder_2": torch.randn(3, 1280, generator=torch.Generator().manual_seed(6))}
NUMBERS = {name: {"TORCHTENSOR": rows.tolist()} for name, rows in zip(("clip_l", "clip_g"), PAIR.values(), strict=True)}


def test_a_card_for_sdxl_holds_only_the_two_tensors(tmp_path):
    """The web UI detaches every value of the table, so metadata must be content elsewhere."""
    path = write_embedding(Embedding("zyzzo", PAIR, {"neonym.steps": "7"}), tmp_path / "a.png")
    for table in (from_chunk(path), from_columns(path)):
        assert set(table) == {"clip_l", "clip_g"}
        assert torch.equal(torch.tensor(table["clip_g"]["TORCHTENSOR"]), PAIR["text_encoder_2"])
    with Image.open(path) as card:
        card.convert("RGB").save(tmp_path / "bare.png")
    for file in (path, tmp_path / "bare.png"):
        found = read_embedding(file)
        assert (found.token, found.metadata["neonym.steps"]) == ("zyzzo", "7")
        assert all(torch.equal(found.vectors[name], rows) for name, rows in PAIR.items())


def test_cards_for_sdxl_from_older_versions_are_read(tmp_path):
    """Such cards have strings beside the tensors, so `inspect` reports that no other program reads them."""
    table = {**NUMBERS, "name": "old", "neonym": json.dumps({"token": "old", "neonym.steps": "7"})}
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("sd-ti-embedding", base64.b64encode(json.dumps(table).encode()).decode())
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png", pnginfo=chunks)
    found, content = read_words(tmp_path / "a.png")
    assert (found[0].token, found[0].metadata["neonym.steps"]) == ("old", "7")
    described = support_by_program(content, "a")
    assert described["AUTOMATIC1111"] == described["Forge"]
    assert described["Forge"].startswith(
        "refuses it: some values other than clip_l and clip_g are not tensors (name, neonym)"
    )
    assert main(["convert", str(tmp_path / "a.png"), str(tmp_path / "b.png")]) == 0
    assert support_by_program(read_words(tmp_path / "b.png")[1], "b")["Forge"] == "reads it"


def test_padding_of_a_small_card_is_not_read_as_metadata(tmp_path):
    """Blocks of pixels are padded with the table itself."""
    for pair in ({"text_encoder": ROWS[:1, :64]}, {"text_encoder": ROWS[:1, :64], "text_encoder_2": ROWS[:1, :128]}):
        path = write_embedding(Embedding("zyzzo", pair), tmp_path / "a.png")
        with Image.open(path) as card:
            card.convert("RGB").save(tmp_path / "bare.png")
        found = read_embedding(tmp_path / "bare.png")
        assert found.token == "zyzzo"
        assert set(found.metadata) <= {"token", "neonym.steps"}
