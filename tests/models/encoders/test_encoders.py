"""Verify learned rows beside a frozen table, and that CLIP conditioning is that of the diffusers pipelines."""

import torch
from torch import nn

from neonym.models.encoders.clip import join_chunks
from neonym.models.encoders.rows import EmbeddingWithRows
from neonym.models.loading.identify import identify
from neonym.models.model import load_model
from neonym.text.words import clean

SOURCE = identify("builtin:emoji")


def test_learned_rows_follow_the_table():
    table = EmbeddingWithRows(nn.Embedding(10, 4))
    rows = nn.Parameter(torch.randn(2, 4))
    table.rows.append(rows)
    out = table(torch.tensor([[1, 10, 11, 9]]))
    assert torch.equal(out[0, 1:3], rows)
    assert torch.equal(out[0, 0], table.frozen.weight[1])
    out.sum().backward()
    assert torch.equal(rows.grad, torch.ones(2, 4))
    assert list(table.state_dict()) == ["frozen.weight"]


def test_chunks_are_joined_without_inner_starts_and_ends():
    hidden = torch.arange(2 * 77.0)[:, None].reshape(2, 77, 1)
    joined = join_chunks(hidden, 2)[0, :, 0].tolist()
    assert joined == [0.0, *range(1, 76), *range(78, 153), 153.0]


def test_conditioning_equals_that_of_the_diffusers_pipelines():
    from diffusers import StableDiffusionPipeline

    from neonym.generation.conditioning import conditioning

    pipeline = StableDiffusionPipeline.from_pretrained(SOURCE.folder, dtype=torch.float32)
    model = load_model()
    for prompt in ("a 3d render of a red apple on a blue background", "", "caf\u00e9 &amp; cake"):
        theirs = pipeline.encode_prompt(clean(prompt), "cpu", 1, False)[0]
        assert torch.allclose(conditioning(model, [prompt]).sequence, theirs, atol=1e-5)
