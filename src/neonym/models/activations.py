"""Count the memory of a training step besides the weights, without weights and without arithmetic.

The step runs on torch's `meta` device, whose tensors have shapes and no numbers: the same code runs as on a GPU, in both
directions, and makes tensors of the same sizes. What is counted is what torch's allocator on a GPU would hold at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from typing import Any
from weakref import finalize

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from neonym.models.encoders.blocks import checkpointed
from neonym.models.encoders.rows import Rows
from neonym.models.memory import Activations, Step
from neonym.models.model import Model
from neonym.models.source import ModelSource
from neonym.models.storage import Storage
from neonym.models.tokenizers.clip import CHUNK
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.types import Conditions, Encoded, Size

META = torch.device("meta")
DTYPES = {2: torch.bfloat16, 4: torch.float32}  # by bytes of a number
ROUNDED = 512  # the allocator on a GPU rounds sizes up to a multiple of this, in bytes


def counted_activations(source: ModelSource, tokenizers: Mapping[str, WordTokenizer], step: Step) -> Activations:
    """Return the most bytes that one sample of a step, and one image in the VAE, take at a time besides the weights."""
    model = model_without_weights(source, tokenizers, DTYPES[step.width], step.without_rows)
    width, height = step.size
    pixels = torch.empty(1, 3, height, width, device=META)  # [1,3,H,W]
    encoding = peak_bytes(model, lambda: model.vae.encode(pixels))
    plain = peak_bytes(model, lambda: take_step(model, step))
    model.enable_gradient_checkpointing(recomputed)
    return Activations(plain, peak_bytes(model, lambda: take_step(model, step)), encoding)


def model_without_weights(
    source: ModelSource, tokenizers: Mapping[str, WordTokenizer], dtype: torch.dtype, without_rows: Sequence[str] = ()
) -> Model:
    """Return a model on the `meta` device, with a learned row beside each token table but some. No weights are read."""
    load = import_module(source.family.module).load
    model: Model = load(replace(source, weights={}, storage=Storage()), dict(tokenizers), META, dtype, 1)
    for name, table in model.text.tables.items():
        if name not in without_rows:
            table.rows.append(Rows(torch.empty(1, table.frozen.embedding_dim, device=META)))
    return model


def recomputed(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """Return what `forward` returns, as `checkpointed` does: torch leaves `FusedAttention` in the backward pass."""
    return checkpointed(forward, *inputs, context_fn=lambda: (nullcontext(), FusedAttention()), **options)


def take_step(model: Model, step: Step) -> None:
    """Take a step with one sample, whose caption has as many ids as it may."""
    longest = max(spec.max_length or CHUNK * step.chunks for spec in model.source.encoder_specs)
    text = model.text.stacked([model.text.tokenize("word " * longest)], model.device)
    guidance = None if model.source.facts.embedded_guidance is None else torch.zeros(1, device=model.device)  # [1]
    there_and_back(model, step.size, text, Conditions(torch.zeros(1, 6, device=model.device), guidance))


def there_and_back(model: Model, size: Size, text: Encoded, conditions: Conditions) -> None:
    """Compute a prediction for one image, and the gradients of the rows."""
    latents, device = model.source.latents, model.device
    width, height = (side // latents.pixels for side in size)
    x_t = torch.zeros(1, latents.channels, height, width, device=device)  # [1,C,h,w]
    t = torch.zeros(1, device=device)  # [1]
    prediction = model.predict(x_t, t, model.text.encode(text), conditions)  # [1,C,h,w]
    torch.autograd.backward([prediction.square().mean()])


def peak_bytes(model: Model, run: Callable[[], object]) -> int:
    """Return the most bytes that a computation takes at a time besides the weights of the model."""
    weights = [own for module in model.modules().values() for own in (*module.parameters(), *module.buffers())]
    with FusedAttention(), Allocated(weights) as allocated:
        run()
    return allocated.peak


class Allocated(TorchDispatchMode):
    """The bytes of all tensors that are made while it is active, now and at the most at a time."""

    def __init__(self, known: list[Tensor]):
        """Count no tensor that shares its memory with one of the `known` ones."""
        super().__init__()
        self.now = self.peak = 0
        self.storages = {id(tensor.untyped_storage()) for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.count(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return made

    def count(self, storage: torch.UntypedStorage) -> None:
        """Count the memory of a tensor until it is freed."""
        if id(storage) not in self.storages:
            size = -(-storage.nbytes() // ROUNDED) * ROUNDED
            self.storages.add(id(storage))
            self.now += size
            finalize(storage, self.forget, id(storage), size)

    def forget(self, key: int, size: int) -> None:
        """Count memory that is freed no longer."""
        self.storages.discard(key)
        self.now -= size


class FusedAttention(TorchFunctionMode):
    """Attention by a kernel that keeps its inputs, its output and a number for each query, as on a GPU.

    On the `meta` device, torch would compute attention step by step, and keep a matrix of all pairs of tokens. The
    kernel chosen here is the memory-efficient one, which every GPU has; flash attention keeps the same tensors.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return attention(*args, **kwargs) if func is F.scaled_dot_product_attention else func(*args, **kwargs)


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """Return the attention of queries [B,H,L,D] to keys and values [B,H,S,D], by the memory-efficient kernel."""
    if enable_gqa:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    if attn_mask is not None:  # [B,H,L,S]
        attn_mask = attn_mask.to(query.dtype).expand(*query.shape[:3], key.shape[2])
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale)[0]
