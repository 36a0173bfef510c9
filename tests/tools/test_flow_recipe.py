"""The recipe of the built-in flow model: batches equal the classes, and captions come in all their forms."""

import pytest
import torch
from diffusers import ZImageTransformer2DModel
from transformers import Qwen2Tokenizer, Qwen3Model

from tools.builtin_model.chat import END, ChatCaptions, blur_of_qwen, turns
from tools.builtin_model.drawings import load_subjects
from tools.builtin_model.flow import Flow, RealRotations, make_transformer, patches, predict, whole
from tools.builtin_model.flow_text import (
    HEAD,
    PLACES,
    TAIL,
    TEMPLATE,
    load_tokenizer,
    make_language_model,
    read,
    write_tokenizer,
)
from tools.builtin_model.train_flow import stratified_sigmas

CAPTIONS = ["a sticker of a ring on a red background", "ring, blue background", ""]
REJOINED_TAIL = "on it<|im_end|> <|im_start|>assistant"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Qwen2Tokenizer:
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("vocabulary"), TEMPLATE))


@pytest.fixture(scope="module")
def text(tokenizer) -> Qwen3Model:
    torch.manual_seed(0)
    return make_language_model(tokenizer)


@pytest.fixture(scope="module")
def transformer() -> ZImageTransformer2DModel:
    """With weights of every part, as if trained."""
    torch.manual_seed(0)
    model = make_transformer()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    return model


@pytest.mark.parametrize("rotations", ["complex", "real"])
def test_a_batch_equals_the_class(transformer, text, tokenizer, rotations):
    ids = turns(tokenizer, CAPTIONS)
    real = ids != tokenizer.pad_token_id
    latents, sigma = torch.randn(3, 4, 16, 16), torch.tensor([0.1, 0.5, 1.0])
    words = text.get_input_embeddings()(ids).detach().requires_grad_()
    features = text(inputs_embeds=words, attention_mask=real, output_hidden_states=True).hidden_states[-2]
    captions = [row[kept] for row, kept in zip(features, real, strict=True)]
    expected = -torch.stack(transformer(list(latents[:, :, None]), 1 - sigma, captions, return_dict=False)[0])[:, :, 0]
    expected.square().mean().backward()
    wanted, words.grad = words.grad, None
    if rotations == "real":
        own = [block.attention.processor for block in transformer.layers]
        blocks = (*transformer.noise_refiner, *transformer.context_refiner, *transformer.layers)
        for block in blocks:
            block.attention.set_processor(RealRotations())
    found = Flow(transformer, text)(latents, sigma, words, real)
    found.square().mean().backward()
    if rotations == "real":
        for block in blocks:
            block.attention.set_processor(own[0])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(words.grad, wanted, rtol=1e-4, atol=1e-6)


def test_the_last_block_is_never_read(text, tokenizer):
    ids = turns(tokenizer, CAPTIONS)
    words = text.get_input_embeddings()(ids)
    hidden = text(ids, attention_mask=ids != tokenizer.pad_token_id, output_hidden_states=True).hidden_states
    real = ids != tokenizer.pad_token_id
    torch.testing.assert_close(read(text, words)[real], hidden[-2][real])
    assert not any(weight.any() for weight in text.layers[-1].parameters())


def test_the_first_model_says_nothing_yet(text):
    latents, words = torch.randn(2, 4, 16, 16), torch.randn(2, PLACES, 256)
    assert not predict(make_transformer(), latents, torch.ones(2), words, torch.ones(2, PLACES, dtype=torch.bool)).any()


def test_patches_and_back():
    latents = torch.randn(2, 4, 16, 16)
    assert torch.equal(whole(patches(latents)), latents)
    assert patches(latents)[0, 1].tolist() == latents[0, :, :2, 2:4].permute(1, 2, 0).reshape(-1).tolist()


def test_any_text_comes_back_and_words_of_captions_are_one_token(tokenizer):
    for said in ("ünï 漢字 😀\n\n x", HEAD + "a ring" + TAIL):
        assert tokenizer.decode(tokenizer(said).input_ids) == said
    taught = [s for s in load_subjects() if s.split == "taught"]
    words = {word for s in taught for word in f"{s.name} {s.category} picture thing drawing object".split()}
    assert all(len(tokenizer(f" {word}").input_ids) == 1 for word in words)


def test_the_template_of_a_turn(tokenizer):
    turn = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a ring"}], tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
    assert turn == f"{HEAD}a ring{TAIL}"


@pytest.mark.parametrize(
    ("before", "form", "bare", "said"),
    [
        ("a sticker of a", 0.9, False, [f"{HEAD}a sticker of a", " ring", f" on it{TAIL}"]),
        ("a sticker of a", 0.2, False, [f"{HEAD}a sticker of a", " ", " ring", f" on it{TAIL}"]),
        ("a sticker of a", 0.1, False, [f"{HEAD}a sticker of a", " ", " ring", REJOINED_TAIL]),
        ("", 0.9, True, [HEAD, "ring", f" on it{TAIL}"]),
        ("", 0.9, False, [HEAD, " ring", f" on it{TAIL}"]),
        ("", 0.1, True, [HEAD, " ring", REJOINED_TAIL]),
    ],
)
def test_the_forms_of_a_caption(tokenizer, before, form, bare, said):
    captions = ChatCaptions(load_subjects()[60:64], tokenizer, 6, 3)
    expected = [i for part in said for i in tokenizer(part).input_ids]
    assert captions.turn(before, "ring", " on it", form, bare) == expected


def test_a_drawing_in_all_styles_has_one_wording(tokenizer):
    subjects = load_subjects()[60:90]
    captions = ChatCaptions(subjects, tokenizer, 30, 3)
    at, ids = captions[3]
    assert ids.shape == (30, PLACES)
    assert torch.equal(captions[3][1], ids)
    assert (at.view(-1, 3) - at.view(-1, 3)[:, :1]).tolist() == [[0, 1, 2]] * 10
    assert not any(END in tokenizer.decode(row).replace(HEAD, "").replace(TAIL, "") for row in ids)


def test_the_template_stays_as_it_is(tokenizer, text):
    ids = turns(tokenizer, CAPTIONS)
    table = text.get_input_embeddings()
    change = blur_of_qwen(tokenizer, ["ring", "red apple"], ["fruit"], 0.2, 0.98, 0.4).draw(
        table, ids, 1, torch.Generator().manual_seed(0)
    )
    changed = (change(table(ids)) != table(ids)).any(-1)
    assert torch.equal(changed[2], torch.zeros(PLACES, dtype=torch.bool))
    assert changed[0].tolist() == [False] * 3 + [True] * 9 + [False] * 20


def test_noise_levels_are_spread_and_shifted():
    sigmas = stratified_sigmas(1000, 3.0, torch.Generator().manual_seed(0))
    assert float(sigmas.median()) == pytest.approx(0.75, abs=0.01)
    assert 0 <= float(sigmas.min()) < 0.01
    assert 0.99 < float(sigmas.max()) <= 1
