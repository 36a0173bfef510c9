"""The index page of a fleet, `index.html`: all words with their sheets and verdicts, in one file without scripts of others."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from neonym.fleet.progress import FleetProgress
from neonym.fleet.words import STATES, Outcome, State, Word

COLUMNS = ("word", "verdict", "sheet", "worth", "beside other words", "steps", "model", "file", "reason and advice")
STYLE = """
:root{color-scheme:light dark;--line:#8884}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:90rem;padding:0 1rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.5rem;border-bottom:1px solid var(--line)}
th button{all:unset;cursor:pointer;font-weight:600}th button:focus-visible{outline:2px solid}
th[aria-sort=ascending] button::after{content:" \\2191" / ""}th[aria-sort=descending] button::after{content:" \\2193" / ""}
td.number{text-align:right;font-variant-numeric:tabular-nums}td img{max-width:14rem;max-height:14rem;display:block}
.state{font-weight:600;white-space:nowrap}.learned{color:light-dark(#0b6e3a,#8fe0ae)}.weak{color:light-dark(#8a5300,#f3c678)}
.not-learned,.failed{color:light-dark(#b3202c,#ff9aa2)}.reason{max-width:34rem;white-space:pre-line;overflow-wrap:anywhere}
"""
SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const head = button.parentElement, body = document.querySelector("tbody"), column = head.cellIndex;
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of document.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => row.cells[column].dataset.key ?? row.cells[column].textContent;
  const order = new Intl.Collator(undefined, {numeric: true}).compare;
  const number = text => text.trim() !== "" && isFinite(text);
  const compare = (a, b) => number(a) && number(b) ? a - b : order(a, b);
  body.append(...[...body.rows].sort((a, b) => (up ? 1 : -1) * compare(key(a), key(b))));
};
"""


def index_page(words: Sequence[Word], progress: FleetProgress, title: str) -> str:
    """Return the page as HTML. All texts are escaped, so that no name or caption becomes HTML."""
    counts = ", ".join(f"{count} {state}" for state, count in progress.counts().items() if count)
    heads = "".join(f"<th scope=col><button type=button>{name}</button></th>" for name in COLUMNS)
    rows = "\n".join(row(word, progress.states[word.name], progress.outcomes.get(word.name)) for word in words)
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Neonym: {html.escape(title)}</title><style>{STYLE}</style></head>\n<body><main>"
        f"<h1>{len(words)} words</h1><p>{counts}</p>\n<table><thead><tr>{heads}</tr></thead>\n<tbody>{rows}</tbody></table>"
        f"</main><script>{SCRIPT}</script></body></html>\n"
    )


def row(word: Word, state: State, outcome: Outcome | None) -> str:
    """Return the row of a word."""
    verdict = dict(outcome.verdict or {}) if outcome else {}
    files = outcome.files if outcome else ()
    texts = [verdict.get("reason"), verdict.get("advice") and f"Advice: {verdict['advice']}", outcome and outcome.error]
    headline = "LEARNED, BUT IT OVERPOWERS THE PROMPT" if verdict.get("overpowers") else state.upper()
    cells: Iterable[str] = (
        cell(word.token),
        f"<td class='state {state.replace(' ', '-')}' data-key={STATES.index(state)}>{html.escape(headline)}</td>",
        f"<td>{sheet(outcome.sheet, word.token) if outcome and outcome.sheet else ''}</td>",
        number(verdict.get("share"), percent=True),
        number(verdict.get("obedience"), percent=True),
        number(outcome.step if outcome else None),
        cell(word.model),
        f"<td>{' '.join(map(link, files))}</td>",
        f"<td class=reason>{html.escape(chr(10).join(str(text) for text in texts if text))}</td>",
    )
    return f"<tr>{''.join(cells)}</tr>"


def cell(text: str) -> str:
    """Return a cell with a text."""
    return f"<td>{html.escape(text)}</td>"


def number(value: object, percent: bool = False) -> str:
    """Return a cell with a number, which sorts by its value; an empty one for anything else."""
    if not isinstance(value, (int, float)) or value != value:
        return "<td class=number></td>"
    return f"<td class=number data-key={value:.6g}>{f'{100 * value:.1f} %' if percent else value}</td>"


def sheet(file: str, word: str) -> str:
    """Return the sheet of a word, which links to itself in full size."""
    url = html.escape(quote(file))
    return f"<a href='{url}'><img src='{url}' loading=lazy alt='sample images of {html.escape(word, quote=True)}'></a>"


def link(file: str) -> str:
    """Return a link to a file below the page."""
    return f"<a href='{html.escape(quote(file))}'>{html.escape(file.rpartition('/')[2])}</a>"
