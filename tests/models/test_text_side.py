"""Verify that captions become batches: padding that the encoders are told of, sequences of unlike length, ids of words."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from neonym.data.loader import Loader
from neonym.generation.conditioning import TextRules, read_prompt, words_and_tokens_cut
from neonym.generation.request.inspection import JobInspector
from neonym.generation.request.jobs import Job
from neonym.models.encoders.clip import Keep
from neonym.models.families import anima, flux, z_image
from neonym.models.family import EncoderSpec
from neonym.models.text_side import TextSide
from neonym.models.tokenizers.loading import tokenizer_for
from neonym.types import CaptionRules, Draw, Encoded, Fit, ImageRecord, TextCond, View

CPU = torch.device("cpu")
WORD = "mychar4"


class Text(TextSide):
    """The text side of a model without networks."""

    def encode(self, text: Encoded, keep: Keep = "none") -> TextCond:
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return CPU


def text_side(*specs: EncoderSpec) -> Text:
    """Return a text side with a word of two vectors."""
    configs = {spec.name: {"vocab_size": 49408} for spec in specs if spec.kind == "clip"}
    text = Text({}, {spec.name: tokenizer_for(spec, None, configs) for spec in specs})
    text.add_word(WORD, {"any": torch.zeros(2, 4)})
    return text


def test_a_batch_has_the_masks_of_the_encoders_that_read_one():
    assert text_side(*flux.ENCODERS).batch(["a cat"]).masks == {}
    batch = text_side(*z_image.ENCODERS).batch(["a cat", f"a photo of {WORD}"])
    (ids,), (mask,) = batch.ids.values(), batch.masks.values()
    assert ids.shape == mask.shape == (2, 1, 512)
    assert mask.dtype == torch.bool
    assert mask.sum(2).tolist() == [[10], [14]]


@pytest.mark.parametrize("side", ["right", "left"])
def test_sequences_of_unlike_length_are_padded_to_the_longest(side):
    (qwen,), (reader,) = anima.ENCODERS, anima.ID_READERS
    text = text_side(replace(qwen, layout=replace(qwen.layout, padded=side)), reader)
    batch = text.batch(["", f"a {WORD} b c d"])
    own, t5 = batch.ids[qwen.name][:, 0], batch.ids[reader.name][:, 0]
    masks = batch.masks[qwen.name][:, 0]
    assert own.shape == (2, 7)
    assert masks.tolist() == [[False] * 7, [True] * 7]
    assert own[0].tolist() == ([*[151643] * 6, 0] if side == "left" else [0, *[151643] * 6])
    assert batch.masks[reader.name][:, 0].sum(1).tolist() == [1, t5.shape[1]]
    assert batch.words == {WORD}


def test_words_come_and_go_in_readers_of_ids():
    text = text_side(*anima.ID_READERS)
    assert text.tokenize(WORD).ids["t5_tokenizer"].tolist() == [[0, 0, 1]]
    text.remove_word(WORD)
    assert not text.tokenize(WORD).words


@pytest.mark.parametrize(("prompt", "diffusers", "comfyui"), [
    ("a embedding:mychar4 in", [64, 220, "w", "w", 304], [64, 220, "w", "w", 258]),
    ("a MyChar4.", [64, 220, "w", "w", 13], [64, 220, "w", "w", 13]),
    ("a embedding:sub/mychar4.safetensors in", None, [64, 220, "w", "w", 258]),
    ("a embedding:mychar4. In", [64, 220, "w", "w", 13, 758], [64, 220, 641]),  # the word is lost, as in ComfyUI
    ("a (b:1.2) BREAK", [64, 320, 65, 25, 16, 13, 17, 8, 69647], [64, 320, 65, 25, 16, 13, 17, 8, 69647]),
])  # fmt: skip
def test_prompts_for_a_chat_turn(prompt, diffusers, comfyui):
    text = text_side(*z_image.ENCODERS)
    (tokenizer,) = text.tokenizers.values()
    for expected, rules in ((diffusers, TextRules()), (comfyui, TextRules(comfyui=True))):
        found = read_prompt(text, prompt, 1, rules)
        ids, mask = found.ids["text_encoder"][0], found.masks["text_encoder"][0]
        kept = ["w" if token >= tokenizer.vocab else token for token in ids[mask].tolist()][3:]
        assert expected is None or kept[: len(expected)] == expected
        assert rules.comfyui or len(ids) == 512
        used, lost = words_and_tokens_cut(tokenizer, prompt, rules)
        assert (used, lost) == ({WORD} if "w" in kept else set(), 0)


def test_an_empty_prompt_of_anima_is_padding_that_is_read_in_comfyui():
    (qwen,), text = anima.ENCODERS, text_side(*anima.ENCODERS, *anima.ID_READERS)
    for comfyui, ids in ((False, 0), (True, 151643)):
        for found in (read_prompt(text, "", 1, TextRules(comfyui=comfyui)), text.tokenize("", comfyui)):
            assert found.ids[qwen.name].tolist() == [[ids]]
            assert found.masks[qwen.name].tolist() == [[comfyui]]
            assert found.ids["t5_tokenizer"].tolist() == [[1]]


def test_emphasis_in_a_prompt_for_a_chat_turn_is_reported():
    inspect = JobInspector(Job("a", 1, 64, 64), [], text_side(*z_image.ENCODERS).tokenizers, TextRules(), False)
    warned = {
        prompt: [p.what for p in inspect.text_warnings(prompt, 0)] for prompt in ("a (cat:1.3)", "a (cat)", "7:3)")
    }
    assert [bool(own) for own in warned.values()] == [True, False, False]
    assert "`(cat:1.3)` is read as plain text" in warned["a (cat:1.3)"][0]
    (too_long,) = inspect.text_warnings("a", 3)
    assert too_long.fix == "Shorten it"


def test_prompts_of_comfyui_have_its_lengths():
    found = read_prompt(text_side(*flux.ENCODERS), "cat " * 80 + f"(embedding:{WORD}:1.3)", 2, TextRules(comfyui=True))
    assert {name: tuple(ids.shape) for name, ids in found.ids.items()} == {
        "text_encoder": (1, 77), "text_encoder_2": (1, 256),
    }  # fmt: skip
    assert found.emphasis is not None
    assert set(found.emphasis["text_encoder_2"].unique().tolist()) == {1.0, 1.2999999523162842}


def draw(step: int) -> Draw:
    fit = Fit((32, 32), (32, 32), (0, 0, 32, 32))
    record = ImageRecord(__file__, "", (32, 32), fit, 0, 0, 1, False, CaptionRules())  # pyright: ignore
    return Draw(record, f"a {WORD} in", View(fit), (1, step, 0), 0.5, 1.0)


def read_as_comfyui(tokenize_as, steps: int = 200) -> list[bool]:
    """Return, for each draw of a loader, whether its caption is read as ComfyUI reads it."""
    text = text_side(*z_image.ENCODERS)
    loader = Loader([], {}, text.tokenize, text.stacked, WORD, CPU, 1, [1], tokenize_as=tokenize_as)  # pyright: ignore
    plain = text.tokenize(f"a {WORD} in", False).ids["text_encoder"]
    return [not torch.equal(loader.encoded(draw(step)).ids["text_encoder"], plain) for step in range(steps)]


def test_a_mix_draws_the_program_by_the_key_of_the_draw():
    assert not any(read_as_comfyui("diffusers"))
    assert all(read_as_comfyui("comfyui"))
    mixed = read_as_comfyui("mix")
    assert 60 < sum(mixed) < 140
    assert mixed[50:] == read_as_comfyui("mix")[50:]  # whatever came before
