"""Helpers that tests share, one module for each subject; fixtures are in `conftest.py`."""

from pathlib import Path

import torch

WORD = "mychar4"
# whether this CPU computes a sample to the same bits in every batch and on any threads (models/batch_invariance.py)
BATCH_INVARIANT = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "golden"  # sd-scripts' own results
