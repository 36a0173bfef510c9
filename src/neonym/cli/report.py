"""`report.html`: verdicts, sheets and the course of the loss on one page that needs nothing else."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import TYPE_CHECKING

from neonym.files import whole_file

if TYPE_CHECKING:
    from neonym.learn.loop import Result
    from neonym.learn.verdict import Verdict

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:left}
.LEARNED{color:#07701f}.WEAK{color:#a06000}.NOT{color:#b00020}img{max-width:100%}code{background:#f3f3f3;padding:0 .3em}"""


def write_report(out: Path, title: str, result: Result, sheets: list[Path], events: Path) -> Path:
    """-> the page's path"""
    parts = [f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"]
    parts.append(f"<h1>{html.escape(title)}</h1>{verdict_table(result.verdicts)}")
    for path in sheets:
        parts.append(
            f"<h2>{html.escape(path.stem)}</h2><img src='{html.escape(path.name)}' alt='{html.escape(path.stem)}'>"
        )
    parts.append(f"<h2>Training loss</h2>{loss_curve(events)}")
    files = "".join(f"<li><code>{html.escape(file.name)}</code></li>" for file in result.files)
    parts.append(f"<h2>Files</h2><ul>{files}</ul><p>The word in a prompt is the file name without its ending.</p>")
    page = out / "report.html"
    with whole_file(page) as part:
        part.write_text("\n".join(parts), encoding="utf-8")
    return page


def verdict_table(verdicts: list[Verdict]) -> str:
    head = "<tr><th>word<th>verdict<th>why<th>evaluation loss<th>distance<th>cosine with the start<th>nearest words"
    rows = []
    for v in verdicts:
        for figures in v.encoders.values():
            nearest = "; ".join(", ".join(words) for words in figures.nearest)
            cells = [
                html.escape(v.token), f"<b class='{v.word.split()[0]}'>{v.word}</b>", html.escape(v.reason),
                f"{v.loss_before:.4f} → {v.loss_after:.4f}", f"{figures.distance:.3f}", f"{figures.cosine:.3f}",
                html.escape(nearest),
            ]  # fmt: skip
            rows.append("<tr>" + "".join(f"<td>{cell}" for cell in cells))
    return f"<table>{head}{''.join(rows)}</table>"


def loss_curve(events: Path, width: int = 640, height: int = 120) -> str:
    """Mean loss over windows of steps, as SVG. Single steps are too noisy to read."""
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    begun = max((i for i, e in enumerate(lines) if e["event"] == "started"), default=0)
    losses = [sum(e["losses"]) / len(e["losses"]) for e in lines[begun:] if e["event"] == "step"]
    if not losses:
        return "<p>No step was recorded.</p>"
    window = max(1, len(losses) // 20)
    means = [sum(part) / len(part) for i in range(0, len(losses), window) if (part := losses[i : i + window])]
    low, high = min(means), max(means)
    points = " ".join(
        f"{i * width / max(1, len(means) - 1):.1f},{height - (m - low) / ((high - low) or 1) * (height - 10) - 5:.1f}"
        for i, m in enumerate(means)
    )
    return (
        f"<svg width={width} height={height} style='background:#fafafa'><polyline points='{points}' fill=none "
        f"stroke='#2060c0' stroke-width=2 /></svg><p>{len(losses)} steps, means of {window}: {high:.4f} to {low:.4f}</p>"
    )
