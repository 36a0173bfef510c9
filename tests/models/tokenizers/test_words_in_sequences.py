"""Verify how new words and what surrounds them become ids in sequences, as in diffusers and as in ComfyUI."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neonym.models.families import anima, flux2, z_image
from neonym.models.family import EncoderSpec, SequenceSpec
from neonym.models.tokenizers.comfyui import typed, weighted_pieces
from neonym.models.tokenizers.loading import tokenizer_for
from neonym.models.tokenizers.sequence import SequenceWordTokenizer

SPACE, NEWLINE, PAD = 220, 198, 151643
START, TURN, END = [151644, 872, NEWLINE], [151644, 77091], 151645
TAIL = [END, NEWLINE, *TURN, NEWLINE]
COMFYUI_TAIL = [END, SPACE, *TURN]
WORDS = {"a": 264, "in": 304, "photo": 6548, "of": 315}  # with a space before them


def tokenizer(spec: EncoderSpec, *words: tuple[str, int], **changes) -> SequenceWordTokenizer:
    """Return the tokenizer of an encoder, with new words."""
    found = tokenizer_for(replace(spec, **changes), None, {})
    assert isinstance(found, SequenceWordTokenizer)
    for word, rows in words or (("mychar4", 2),):
        found.add_word(word, rows)
    return found


def text_of(found, comfyui: bool = False, text: str = "") -> list[int]:
    """Return the ids of a caption without the padding."""
    ids = found(text, comfyui)
    return [token for token, kept in zip(ids.ids[0], ids.mask[0], strict=True) if kept]


QWEN = z_image.QWEN
ROWS = [151669, 151670]  # of the packaged vocabulary, whose model has no table here


@pytest.mark.parametrize(
    ("caption", "diffusers", "comfyui"),
    [
        ("mychar4", ROWS, ROWS),
        ("a photo of MyChar4 in", [64, 6548, 315, SPACE, *ROWS, 304], [64, 6548, 315, SPACE, *ROWS, 258]),
        ("mychar4, a", [*ROWS, 11, 264], [*ROWS, 11, 264]),
        ("mychar4. A", [*ROWS, 13, 362], [*ROWS, 13, 362]),  # typed with a space before the full stop
        ("mychar4\nin", [*ROWS, NEWLINE, 258], [*ROWS, 258]),
        ("(mychar4)", [7, *ROWS, 8], [7, SPACE, *ROWS, 8]),
        ("mychar4 mychar4", [*ROWS, SPACE, *ROWS], [*ROWS, *ROWS]),
        ("mychar44", [2408, 1762, 19, 19], [2408, 1762, 19, 19]),
    ],
)
def test_ids_around_a_word(caption, diffusers, comfyui):
    own = tokenizer(QWEN)
    has_word = any(token in ROWS for token in comfyui)
    assert text_of(own, text=caption) == [*START, *diffusers, *TAIL]
    assert text_of(own, True, caption) == [*START, *comfyui, *(COMFYUI_TAIL if has_word else TAIL)]


def test_words_of_the_template_are_no_words_of_the_caption():
    own = tokenizer(QWEN, ("user", 1), ("assistant", 1))
    assert text_of(own, text="") == [*START, *TAIL]
    assert own("the user").words == {"user"}


def test_an_accent_is_composed_before_words_are_searched():
    own = tokenizer(QWEN, ("\u00e9lan", 1))
    assert own("e\u0301lan").words == own("\u00e9lan").words == {"\u00e9lan"}


def test_a_long_caption_loses_its_tail_and_then_the_template_of_diffusers():
    own = tokenizer(QWEN, max_length=16)
    ids, room = own("a " * 5 + "mychar4"), own.chunk_size - len(START)
    assert own.surely_fits("a")
    assert not own.surely_fits("a " * 5 + "mychar4", spare=1)
    assert ids.ids[0] == [*START, 64, *[264] * 4, SPACE, *ROWS, *TAIL]
    assert own.cut_off("a " * 5 + "mychar4") == []
    assert own("a " * room).ids[0][-1] == 264
    assert set(own("a " * 12 + "mychar4").ids[0]).isdisjoint(ROWS)
    assert own("a " * 12 + "mychar4").words == {"mychar4"}
    assert ROWS[0] in own.cut_off("a " * 12 + "mychar4")


def test_padding_is_told_from_the_same_id_in_a_caption():
    own = tokenizer(QWEN)
    ids = own("<|endoftext|>")
    assert ids.ids[0][len(START)] == PAD
    assert ids.mask is not None
    assert sum(ids.mask[0]) == len(START) + 1 + len(TAIL)


def test_brackets_in_a_chat_turn_are_text():
    own = tokenizer(QWEN)
    own.reads_emphasis = True
    found = own("a (photo:1.3)")
    assert found.emphasis == [[1.0] * 512]
    assert found.ids == tokenizer(QWEN)("a (photo:1.3)").ids


def test_an_empty_caption_without_a_template_is_one_masked_id_or_padding_in_comfyui():
    own = tokenizer(anima.ENCODERS[0])
    assert (own("").ids, own("").mask) == ([[0]], [[False]])
    assert (own("", True).ids, own("", True).mask) == ([[PAD]], [[True]])


def test_a_reader_of_ids_has_an_id_for_each_vector():
    own = tokenizer(anima.ID_READERS[0])
    found = own("a mychar4")
    assert found.ids == [[3, 9, 0, 0, 1]]
    assert found.mask == [[True] * 5]
    assert (found.words, found.learned) == ({"mychar4"}, ())


def test_emphasis_of_t5_and_pieces_that_weigh_nothing():
    (reader,), (qwen,) = anima.ID_READERS, anima.ENCODERS
    own, plain = tokenizer(reader), tokenizer(qwen)
    own.reads_emphasis = plain.reads_emphasis = True
    assert own("a (mychar4:1.5)").emphasis == [[1.0, 1.0, 1.5, 1.5, 1.0]]
    assert plain("a (photo:1.5)").ids == [[64, SPACE, 11556]]
    assert plain("a (photo:1.5)").emphasis == [[1.0] * 3]


def test_an_init_word_has_the_space_before_it():
    assert tokenizer(QWEN).ids_of("photo") == [WORDS["photo"]]
    assert tokenizer(QWEN).ids_of(" ") == []
    assert tokenizer(QWEN).read(WORDS["photo"]) == "photo"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("(a)", [("a", 1.1)]),
        ("((a:1.3))", [("a", 1.3)]),
        ("((a):1.3)", [("a", 1.43)]),
        ("(a (b:2) c:3)", [("a ", 3), ("b", 2), (" c", 3)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(:1.3)", [(":1.3", 1.1)]),
        ("(a", [("(a", 1)]),
        ("a) (b)", [("a) (b)", 1)]),  # the bracket that closes nothing makes the next one an inner one
        ("()", []),
    ],
)
def test_weights_of_comfyui(text, pieces):
    found = list(weighted_pieces(text))
    assert [piece for piece, _ in found] == [piece for piece, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces])


@pytest.mark.parametrize(
    ("caption", "prompt", "weighted"),
    [
        ("a mychar4, b", "a embedding:@, b", False),
        ("a mychar4.", "a embedding:@ .", False),
        ("(mychar4:1.2)", "(embedding:@:1.2)", True),
        ("(mychar4:1.2)", "\\( embedding:@ :1.2\\)", False),
        ("a \\(b\\) mychar4's", "a \\(b\\) embedding:@ 's", False),
        ("embedding:mychar4", "embedding:mychar4", False),
    ],
)
def test_captions_as_they_are_typed_in_comfyui(caption, prompt, weighted):
    found, words = typed(caption, ["mychar4"], weighted, escape=not weighted)
    assert found == prompt.replace("@", "\ue0000")
    assert words == ["mychar4"] * prompt.count("@")


PIECES = st.sampled_from(
    ["mychar4", " ", "\n", "(", ")", ",", ".", "<", "[", "\\", "embedding:", "a", "<|im_end|>", ":1.3"]
)


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(PIECES, max_size=9), weighted=st.booleans())
def test_no_word_of_a_caption_is_lost_in_comfyui(parts, weighted):
    """Each word that diffusers' ids contain is in those of ComfyUI, unless the user writes a name that is another."""
    text, own = "".join(parts), SHARED
    if "embedding:" in text or weighted:
        own(text, True)  # nothing fails
    else:
        assert text_of(own, True, text).count(ROWS[0]) == text_of(own, text=text).count(ROWS[0])


SHARED = tokenizer(flux2.QWEN)


def test_a_layout_may_end_behind_the_padding_and_be_padded_on_the_left():
    behind = SequenceSpec(template=("a", " of"), suffix_last=True, masked=True, brackets="text")
    spec = EncoderSpec("text_encoder", "", "", kind="causal_lm", max_length=6, layout=behind)
    found = tokenizer(spec)(" photo")
    assert found.ids == [[64, WORDS["photo"], PAD, PAD, PAD, WORDS["of"]]]
    assert found.mask == [[True, True, False, False, False, True]]
    left = replace(spec, layout=SequenceSpec(padded="left", masked=True))
    assert tokenizer(left)("a photo").ids == [[*[PAD] * 4, 64, WORDS["photo"]]]
    assert tokenizer(left)("a photo").mask == [[*[False] * 4, True, True]]
