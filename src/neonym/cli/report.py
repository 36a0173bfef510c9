"""Write `report.html`, a self-contained page that shows what was learned, how well, and what to do next."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from neonym.generation.judge import FAIR_REACH, FAIR_SHARE, SURE
from neonym.io.atomic import atomic_write

if TYPE_CHECKING:
    from PIL.Image import Image

    from neonym.training.ending import Result
    from neonym.training.verdict import EncoderFigures, Verdict

THUMBNAIL = 192  # pixels of the longest side
STYLE = """
:root{color-scheme:light dark;--ink:#1d2330;--quiet:#566072;--paper:#fbfaf7;--card:#fff;--line:#e3e0d8;--accent:#3b5bdb;
--good:#0b6e3a;--fair:#8a5300;--bad:#b3202c;--goodbg:#dff3e6;--fairbg:#fcecd0;--badbg:#fbdfe0}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaf0;--quiet:#a5adbd;--paper:#14161c;--card:#1d2029;--line:#333845;--accent:#91a7ff;
--good:#8fe0ae;--fair:#f3c678;--bad:#ff9aa2;--goodbg:#143823;--fairbg:#3d2c0d;--badbg:#451a1e}}
*{box-sizing:border-box}
body{font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Open Sans",sans-serif;color:var(--ink);background:var(--paper);margin:0}
main{max-width:64rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:2.1rem;line-height:1.2;margin:0 0 .5rem;letter-spacing:-.02em}
h2{font-size:1.5rem;margin:0;display:flex;flex-wrap:wrap;gap:.3em .6em;align-items:center}
h3{font-size:1rem;margin:1.75rem 0 .35rem}p{margin:.35rem 0;max-width:46rem}.lead{font-size:1.1rem}.quiet,figcaption,dd small{color:var(--quiet)}
section{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:1.5rem;margin-top:1.5rem}
.badge{font-size:.78rem;font-weight:700;letter-spacing:.04em;border-radius:99px;padding:.25em .8em}
.good{color:var(--good);background:var(--goodbg)}.fair{color:var(--fair);background:var(--fairbg)}.bad{color:var(--bad);background:var(--badbg)}
.strip{display:grid;grid-template-columns:repeat(auto-fill,minmax(6.5rem,1fr));gap:.75rem;margin-top:.6rem}
.small{grid-template-columns:repeat(auto-fill,minmax(4.25rem,1fr))}
figure{margin:0}img{width:100%;height:auto;aspect-ratio:1;object-fit:contain;display:block;border-radius:8px;background:var(--line)}
.pair img+img{margin-top:.3rem}figcaption{font-size:.82rem;line-height:1.35;margin-top:.3rem}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(14rem,1fr));gap:.9rem 1.5rem;margin:.6rem 0 0}
dt{color:var(--quiet);font-size:.85rem}dd{margin:0;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}dd small{display:block}
svg{width:100%;max-width:28rem;height:auto;display:block;margin-top:.4rem}
pre,code{font:.88em/1.5 ui-monospace,Consolas,monospace}pre{background:var(--paper);border:1px solid var(--line);border-radius:8px;padding:.7rem .9rem;
white-space:pre-wrap;overflow-wrap:anywhere}a{color:var(--accent)}
"""
BADGES = {"LEARNED": "good", "WEAK": "fair", "NOT LEARNED": "bad"}


@dataclass(frozen=True)
class WordResult:
    """The images and figures that the page shows for one word. The images before and after have the same prompts and seeds."""

    word: str
    start: str  # its init word
    count: int  # how many images it was learned from
    examples: Sequence[Image]  # some of them
    prompts: Sequence[str]  # with the word
    before: Sequence[Image]  # generated with the init word in its place
    after: Sequence[Image]
    events: Path  # the event file of its training


def write_report(out: Path, result: Result, shown: Sequence[WordResult], model: str) -> Path:
    """Write the page of a run, and return its path. Raises OSError if that fails."""
    parts = [heading(result, shown, model)]
    for one, verdict, file in zip(shown, result.verdicts, result.files, strict=True):
        losses = evaluations(one.events)
        # measured on other samples, so not mixed with the evaluations
        ends = [
            (0, verdict.loss_before),
            (result.steps, verdict.loss_after),
        ]
        parts.append(word_section(one, verdict, file, losses if len(losses) > 1 else ends))
    parts.append(next_steps(shown, result.files, model))
    title = f"Neonym: {', '.join(s.word for s in shown)}"
    page = out / "report.html"
    with atomic_write(page) as part:
        part.write_text(
            f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body><main>{''.join(parts)}</main></body></html>\n",
            encoding="utf-8",
        )
    return page


def evaluations(events: Path) -> list[tuple[int, float]]:
    """Return the step and the loss of each evaluation of the last run in an event file.

    Damaged lines are skipped.
    """
    found: list[tuple[int, float]] = []
    try:
        lines = events.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        with suppress(ValueError, TypeError, KeyError):
            event = json.loads(line)
            if event["event"] == "started":
                found.clear()
            elif event["event"] == "evaluated":
                found.append((int(event["step"]), float(event["loss"])))
    return found


def heading(result: Result, shown: Sequence[WordResult], model: str) -> str:
    """Return the HTML of the title and of a sentence that says what was learned and in how many steps."""
    words = " and ".join(f"<b>{html.escape(s.word)}</b>" for s in shown)
    count = {1: "A new word", 2: "Two new words"}.get(len(shown), f"{len(shown)} new words")
    return (
        f"<h1>{count}</h1><p class=lead>The model <code>{html.escape(model)}</code> was taught {words} in {result.steps} steps. "
        "The model itself is unchanged: a word is a file of a few kilobytes.</p>"
    )


def word_section(shown: WordResult, verdict: Verdict, file: Path, losses: Sequence[tuple[int, float]]) -> str:
    """Return the HTML of one word: verdict, images and figures. `losses` holds pairs of a step and the loss after it."""
    word, start = html.escape(shown.word), html.escape(shown.start)
    pairs = zip(shown.prompts, shown.before, shown.after, strict=True)
    generated = "".join(
        f"<figure class=pair>{image_element(b, f'Before, with {shown.start}: {prompt}')}{image_element(a, f'After: {prompt}')}"
        f"<figcaption>{html.escape(prompt)}</figcaption></figure>"
        for prompt, b, a in pairs
    )
    examples = "".join(image_element(image, f"{shown.word}, example {i}") for i, image in enumerate(shown.examples, 1))
    helps = f" Advice: {html.escape(verdict.advice)}." if verdict.advice else ""
    return (
        f"<section><h2>{word} <span class='badge {'fair' if verdict.overpowers else BADGES[verdict.word]}'>{verdict.headline}</span></h2><p>{html.escape(capitalised(verdict.reason))}.{helps}</p>"
        f"<h3>Learned from {shown.count} images such as these</h3><div class='strip small'>{examples}</div>"
        f"<h3>Before and after</h3><p>Above: with <b>{start}</b>, its init word. Below: with <b>{word}</b>. "
        f"Prompts and seeds are the same.</p><div class=strip>{generated}</div>"
        f"<h3>How well its images are predicted</h3><p class=quiet>Evaluation loss on {html.escape(verdict.evaluated_on)}, "
        f"always with the same noise: lower is better.</p>{curve(losses)}"
        f"<h3>Figures</h3><dl>{figure_items(verdict)}<div><dt>File</dt><dd>{link(file)}<small>how to use it: "
        f"{link(file.with_suffix('.md'))}</small></dd></div></dl></section>"
    )


def capitalised(text: str) -> str:
    """Return a text with its first letter capitalised."""
    return text[:1].upper() + text[1:]


def image_element(image: Image, alt: str) -> str:
    """Return an `img` element with an embedded thumbnail of the image."""
    small, data = image.convert("RGB"), BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(data, "PNG", optimize=True)
    width, height = small.size
    url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    return f"<img src='{url}' width={width} height={height} alt='{html.escape(alt)}'>"


def link(file: Path) -> str:
    """Return a link to a file beside the page."""
    name = html.escape(file.name)
    return f"<a href='{name}'><code>{name}</code></a>"


def figure_items(verdict: Verdict) -> str:
    """Return the figures of a verdict as items of a definition list."""
    change = 100 * (verdict.loss_after / verdict.loss_before - 1) if verdict.loss_before else 0.0
    cells = [
        ("Evaluation loss", f"{verdict.loss_before:.5f} → {verdict.loss_after:.5f}", f"{change:+.2f} %"),
        ("Gain", f"{100 * verdict.share:.1f} % of a known word's", f"worth using from {100 * FAIR_SHARE:.0f} %"),
        ("Progress", f"{100 * verdict.reach:.0f} % of the possible gain", f"{100 * FAIR_REACH:.0f} % are needed"),
        ("Certainty", f"{verdict.standard_errors:.1f} standard errors", f"{SURE:.0f} are needed"),
        ("Other words", f"{100 * verdict.obedience:.0f} %", "of what they change beside known words"),
    ]
    for name, values in verdict.encoders.items():
        cells += encoder_figures(f" in {name}" if len(verdict.encoders) > 1 else "", values)
    return "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}<small>{html.escape(note)}</small></dd></div>"
        for name, value, note in cells
    )


def encoder_figures(where: str, values: EncoderFigures) -> Iterable[tuple[str, str, str]]:
    """Yield the name, the value and the meaning of each figure of an encoder."""
    yield f"Moved{where}", f"{values.distance:.3f}", f"cosine with the init word {values.cosine:.3f}"
    yield f"Length{where}", f"{values.norm:.3f}", f"known words: {values.known_norm:.3f}"
    for index, words in enumerate(values.nearest, 1):
        which = f" to vector {index}" if len(values.nearest) > 1 else ""
        yield f"Nearest words{which}{where}", ", ".join(words), "in the vocabulary"


def curve(losses: Sequence[tuple[int, float]], width: int = 420, height: int = 130) -> str:
    """Return an SVG curve of the loss over the steps, with its first and last value. Sizes are in SVG units."""
    low, high = min(loss for _, loss in losses), max(loss for _, loss in losses)
    last, left, top, right, bottom = max(1, losses[-1][0]), 10, 26, width - 10, height - 30
    points = [
        (left + (right - left) * step / last, bottom - (bottom - top) * (loss - low) / ((high - low) or 1))
        for step, loss in losses
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f"<circle cx='{x:.1f}' cy='{y:.1f}' r=3.5 />" for x, y in points)
    (first, begin), (steps, end) = losses[0], losses[-1]
    (_, y0), (_, y1) = points[0], points[-1]
    label = f"Evaluation loss {begin:.5f} after {first} steps, {end:.5f} after {steps} steps."
    return (
        f"<svg viewBox='0 0 {width} {height}' role=img aria-label='{label}' font-size=13 fill=currentColor>"
        f"<path d='M{left} {bottom + 8}H{right}' stroke=currentColor opacity=.25 />"
        f"<polyline points='{line}' fill=none stroke='var(--accent)' stroke-width=2.5 /><g fill='var(--accent)'>{dots}</g>"
        f"<text x={left} y={y0 - 9:.1f}>{begin:.5f}</text><text x={right} y={y1 - 9:.1f} text-anchor=end>{end:.5f}</text>"
        f"<text x={left} y={height - 5} opacity=.7>step {first}</text>"
        f"<text x={right} y={height - 5} opacity=.7 text-anchor=end>step {steps}</text></svg>"
    )


def next_steps(shown: Sequence[WordResult], files: Sequence[Path], model: str) -> str:
    """Return the HTML of the commands to run next."""
    generate = (
        f'neonym generate --textual_inversion_embeddings {" ".join(map(str, files))} --prompt "{shown[0].prompts[0]}"'
    )
    train = "neonym train --train_data_dir=FOLDER --token_string=WORD --init_word=animal --pretrained_model_name_or_path=MODEL"
    return (
        f"<section><h2>Next steps</h2><h3>Generate images with the words</h3><pre>{html.escape(generate)}</pre>"
        f"<p>These files hold words of <code>{html.escape(model)}</code>. Words of a Stable Diffusion model work in AUTOMATIC1111, "
        "Forge, ComfyUI, InvokeAI and diffusers: the card beside each file explains how.</p>"
        f"<h3>Teach a word of your own</h3><pre>{html.escape(train)}</pre>"
        "<p>FOLDER holds images and, beside each, a text file with its caption, which contains WORD. <code>neonym check</code> with the same flags "
        "finds mistakes in seconds; <code>neonym train --help</code> lists every setting.</p></section>"
    )
