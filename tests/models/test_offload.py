"""Verify that blocks that wait in the memory of the CPU compute what blocks on the device compute, bit for bit."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from neonym.models.offload import CHUNK, Ring, aligned, packed_size, swap_blocks, swapped_blocks
from neonym.models.quantization import quantize
from neonym.models.storage import SchemeRules

WIDTH = 8
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


class Block(nn.Module):
    def __init__(self, inner: int):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, inner), nn.Linear(inner, WIDTH)
        self.register_buffer("table", torch.randn(WIDTH))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x) * condition + self.table)))


class Network(nn.Module):
    """Two lists of blocks of different sizes, as FLUX.1 has, with one condition that every block reads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.ModuleList(Block(16) for _ in range(3))
        self.second = nn.ModuleList(Block(24) for _ in range(4))
        self.checkpointed = True

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        for block in (*self.first, *self.second):
            x = checkpoint(block, x, condition, use_reentrant=False) if self.checkpointed else block(x, condition)
        return x


def network(scheme: str | None) -> Network:
    made = Network().requires_grad_(False)
    quantize(made, SchemeRules(scheme))
    return made


def gradients(made: nn.Module, seed: int, device: str = "cpu") -> list[Tensor]:
    torch.manual_seed(seed)
    x, condition = (torch.randn(5, WIDTH).to(device).requires_grad_() for _ in range(2))
    loss = made(x, condition * 2).square().mean()
    loss.backward()
    return [loss.detach(), x.grad, condition.grad]


@pytest.mark.parametrize("scheme", [None, "fp8", "int8", "nf4"])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 100])
@pytest.mark.parametrize("device", DEVICES)
def test_losses_and_gradients_are_the_same_bit_for_bit(device: str, count: int, scheme: str | None):
    plain, swapped = network(scheme).to(device), network(scheme)
    swap_blocks(swapped, swapped_blocks(swapped, ("first", "second"), count), torch.device(device))
    swapped.to(device)
    for step in range(3):
        for wanted, found in zip(gradients(plain, step, device), gradients(swapped, step, device), strict=True):
            assert torch.equal(wanted, found)
        with torch.no_grad():  # an evaluation between two steps
            x = torch.ones(2, WIDTH, device=device)
            assert torch.equal(plain(x, x), swapped(x, x))


def test_only_the_buffers_hold_weights_on_the_device():
    swapped = network("int8")
    sizes = [packed_size(block) for block in (*swapped.first, *swapped.second)]
    ring = swap_blocks(swapped, swapped_blocks(swapped, ("first", "second"), 7), torch.device("cpu"))
    assert [len(buffer) for buffer in ring.buffers] == [max(sizes)] * 2
    assert [sum(len(chunk) for chunk in chunks) for chunks in ring.masters] == sizes
    addresses = {buffer.data_ptr() for buffer in ring.buffers}
    for tensor in (*swapped.parameters(), *swapped.buffers()):
        assert tensor.untyped_storage().data_ptr() in addresses


def test_copies_go_forward_and_then_backward():
    """In the forward pass each block is copied once, and in the backward pass once again, except for the last two."""
    made = network(None)
    ring = swap_blocks(made, swapped_blocks(made, ("first", "second"), 7), torch.device("cpu"))
    fetched = []
    original = Ring.fetch

    def noted(self: Ring, index: int) -> None:
        if self.held[index % len(self.buffers)] != index:
            fetched.append(index)
        original(self, index)

    ring.fetch = noted.__get__(ring)
    gradients(made, 0)
    assert fetched == [0, 1, 2, 3, 4, 5, 6, 4, 3, 2, 1, 0]
    fetched.clear()
    gradients(made, 1)
    assert fetched == [2, 3, 4, 5, 6, 4, 3, 2, 1, 0]


def test_a_backward_pass_without_checkpointing_is_an_error():
    made = network("fp8")
    swap_blocks(made, swapped_blocks(made, ("first", "second"), 7), torch.device("cpu"))
    made.checkpointed = False
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients(made, 0)


def test_swapped_blocks_are_spread_evenly():
    made = network(None)
    assert swapped_blocks(made, ("first", "second"), 3) == ["first.0", "first.2", "second.1"]
    assert len(swapped_blocks(made, ("first", "second"), 100)) == 7
    assert swapped_blocks(made, ("second",), 1) == ["second.0"]


def test_a_block_of_several_chunks_is_copied_whole():
    torch.manual_seed(0)
    large = nn.Linear(1, CHUNK // 4 + 1000).requires_grad_(False)
    wanted = copy.deepcopy(large)
    ring = Ring([large], torch.device("cpu"))
    assert len(ring.masters[0]) > 1
    x = torch.ones(1, 1)
    assert torch.equal(large(x), wanted(x))
    assert packed_size(large) == sum(aligned(p.nbytes) for p in wanted.parameters())
