"""Fetch the emoji drawings, by package name and version, into a work folder (needs npm).

python -m tools.builtin_model.fetch --work work/emoji
"""

import argparse
import subprocess
from pathlib import Path

PACKAGES = (
    "@lobehub/fluent-emoji-3d@1.1.0",  # webp, MIT
    "@iconify-json/fluent-emoji-flat@1.2.6",  # SVG, MIT
    "@iconify-json/twemoji@1.2.5",  # SVG, CC-BY 4.0
    "@iconify-json/noto@1.2.9",  # SVG, Apache-2.0
    "emoji-datasource@16.0.0",  # names and categories, MIT
)


def fetch(work: Path) -> None:
    """Install `PACKAGES` into `work/node_modules`."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "package.json").write_text('{"name": "emoji", "private": true}')
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", *PACKAGES], cwd=work, check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/emoji"))
    fetch(parser.parse_args().work)
