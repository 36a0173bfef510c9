"""What the trainings of the built-in models share: optimizer, moving average, checkpoints, and the loop."""

import copy
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn

Batch = tuple[torch.Tensor, ...]


class Training:
    """The learner, its moving average and its optimizer; the table of words learns three times as fast, or not at all."""

    def __init__(self, model: nn.Module, words: nn.Embedding, rate: float):
        self.model, self.words, self.rate, self.step = model.train(), words, rate, 0
        self.ema = copy.deepcopy(model).requires_grad_(False)
        table = list(words.parameters())
        rest = [p for p in model.parameters() if all(p is not q for q in table)]
        groups = [{"params": rest, "share": 1.0}, {"params": table, "share": 3.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)

    def go_on(self, checkpoint: Path, device: str) -> None:
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def save(self, checkpoint: Path, **facts: object) -> None:
        state = {
            "model": self.model.state_dict(), "ema": self.ema.state_dict(), "optimizer": self.optimizer.state_dict(),
            "step": self.step, **facts,
        }  # fmt: skip
        torch.save(state, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").replace(checkpoint)

    def update(self, loss: torch.Tensor, done: float, check: bool) -> None:
        """One step; `done`: share of the training that is behind. 300 steps of warm-up, 40 % constant, then linear to 1 %."""
        warm, decay = min(1.0, (self.step + 1) / 300), min(1.0, (1 - done) / 0.6)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * group["share"] * warm * max(0.01, decay)
        loss.backward()
        if check:
            check_gradients(self.model)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        update_ema(self.ema, self.model, self.step)
        self.step += 1


def check_gradients(model: nn.Module) -> None:
    """Every part learns, or the training ends: a compiler can lose the gradients of a part without a word."""
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    idle = [name for name, p in learning if p.grad is None or not bool(p.grad.any())]
    if idle:
        raise SystemExit(f"no gradients for {', '.join(idle[:5])} and {max(0, len(idle) - 5)} more")


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, step: int, decay: float = 0.995) -> None:
    rate = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), rate)


def train(
    training: Training,
    batches: Iterable[Batch],
    loss_of: Callable[..., torch.Tensor],
    device: str,
    steps: int,
    minutes: float,
    check_after: int,
    save: Callable[[], None],
) -> None:
    """Until `steps` or `minutes` are over. `loss_of` gets the share that is behind, and a batch.

    `save` is called every four minutes and at the end. `check_after`: the step of this run at which gradients are
    checked.
    """
    first = training.step
    started = saved = told = time.monotonic()
    running = torch.zeros((), device=device)
    for batch in batches:
        done = max(training.step / steps, (time.monotonic() - started) / (60 * minutes))
        if done >= 1:
            break
        loss = loss_of(done, *(x.to(device, non_blocking=True) for x in batch))
        training.update(loss, done, check=training.step == first + check_after)
        running += loss.detach()
        if training.step % 50 == 0:
            mean, count = float(running) / 50, 50 * len(batch[0])
            speed, told = count / (time.monotonic() - told), time.monotonic()
            print(f"{training.step}  loss {mean:.4f}  {speed:.0f} pictures/s  {100 * done:.0f} %", flush=True)
            running.zero_()
        if time.monotonic() - saved > 240:
            save()
            saved = time.monotonic()
    save()
