"""Compare the memory of a step that is counted without numbers with the peak that a GPU measured.

    python -m benchmarks.counted
    python -m benchmarks.counted --table

The measurements are those of `benchmarks.families`, whose steps are run here on torch's device `meta`. The weights are the
same, so the comparison is of the activations. The measured step ran under autocast, which keeps some in float32. `--table`
prints what a step needs with checkpointing and in several precisions, for docs/training.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import torch

from benchmarks.families import END, VECTORS, Kept, random_batch, random_source
from benchmarks.full_size import CONFIGS
from neonym.models.activations import META, model_without_weights, peak_bytes, recomputed, there_and_back
from neonym.models.encoders.rows import Rows
from neonym.models.loading.sizes import sizes_of
from neonym.models.memory import GB, Activations, Choice, Needs, Step, estimate
from neonym.models.model import Model
from neonym.models.registry import families
from neonym.models.storage import Storage
from neonym.types import Conditions, Encoded

TOKENIZER = SimpleNamespace(clip=SimpleNamespace(end=END), padding=0)  # all that a text side reads of one


def model_of(name: str) -> Model:
    """Return a model of full size without weights, with a word of the same size as in the measurement."""
    family = next(family for family in families() if family.name == name)
    source = random_source(family, CONFIGS[name], Kept(None))
    model = model_without_weights(source, dict.fromkeys(source.encoders, TOKENIZER), torch.bfloat16)  # pyright: ignore
    for table in model.text.tables.values():
        table.rows[:] = [Rows(torch.empty(VECTORS, table.frozen.embedding_dim, device=META))]
    return model


def inputs_of(model: Model) -> tuple[Encoded, Conditions]:
    """Return the caption and the conditions of the measurement."""
    batch = random_batch(model, 64, torch.device("cpu"))
    masks = batch.text.masks
    counts = {name: [int(mask.sum())] for name, mask in masks.items()}
    ids = {name: own.to(META) for name, own in batch.text.ids.items()}
    text = Encoded(ids, masks={name: own.to(META) for name, own in masks.items()}, lengths=counts, counts=counts)
    return text, batch.conditions.mapped(lambda own: own.to(META))


def counted(model: Model, side: int) -> float:
    """Return the gigabytes that a step takes beside the weights."""
    text, conditions = inputs_of(model)
    found = peak_bytes(model, lambda: there_and_back(model, (side, side), text, conditions))
    for rows in (own for table in model.text.tables.values() for own in table.rows):
        rows.gradients = None  # pyright: ignore[reportAttributeAccessIssue]
    return found / GB


def needs_line(name: str, side: int) -> str:
    """Return the gigabytes of a step with checkpointing in several precisions, also with half of the blocks swapped."""
    model = model_of(name)
    model.enable_gradient_checkpointing(recomputed)
    sizes, pixels = sizes_of(model.source), torch.empty(1, 3, side, side, device=META)  # [1,3,H,W]
    if sizes is None:
        raise ValueError(f"there is no estimate for {name}")
    encoding = peak_bytes(model, lambda: model.vae.encode(pixels))
    needs = Needs(sizes, Step((side, side)), Activations(0.0, GB * counted(model, side), encoding))
    half = len(sizes.denoiser.blocks) // 2
    ways = [Choice(Storage(scheme, scheme, n), True) for scheme in (None, "fp8", "nf4") for n in (0, half)]
    return (
        f"| {' | '.join([model.source.name, str(side), *(f'{estimate(needs, way).total / GB:.1f}' for way in ways)])} |"
    )


def main() -> None:
    """Print a line for each measurement of weights that are not quantized, or the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=Path("benchmarks/results/families.json"))
    parser.add_argument("--families", nargs="+")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        for name in args.families or CONFIGS:
            print("\n".join(needs_line(name, side) for side in (512, 768, 1024)), flush=True)
        return
    rows = [
        row for row in json.loads(args.measured.read_text())["rows"] if row["kept"] == "bf16" and row.get("peak_gb")
    ]
    print("family, pixels, checkpointing: GB of activations counted, and measured; difference of the whole peak")
    for name in args.families or dict.fromkeys(row["family"] for row in rows):
        model, is_checkpointed = model_of(name), False
        for row in sorted((row for row in rows if row["family"] == name), key=lambda row: row["checkpointing"]):
            if row["checkpointing"] and not is_checkpointed:
                model.enable_gradient_checkpointing(recomputed)
            is_checkpointed = row["checkpointing"]
            found, measured = counted(model, row["side"]), row["peak_gb"] - row["weights_gb"]
            share = 100 * (found - measured) / row["peak_gb"]
            print(
                f"{name}, {row['side']}, {row['checkpointing']}: {found:.2f}, {measured:.2f}; {share:+.1f} %",
                flush=True,
            )


if __name__ == "__main__":
    main()
