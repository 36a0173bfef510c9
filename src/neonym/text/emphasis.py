"""Weights within a text: `(more)`, `[less]`, `(by so much:1.3)`, as AUTOMATIC1111's Web UI and sd-scripts read them."""

import re

ROUND, SQUARE = 1.1, 1 / 1.1  # what a bracket without a number means
SIGNS = re.compile(r"\\[()\[\]\\]|[\\()\[\]]|:([+-]?[.\d]+)\)")


def parse_emphasis(text: str) -> list[tuple[str, float]]:
    """Pieces of text and their weights; at least one. Brackets may nest; a backslash makes one a plain character.

    Raises ValueError if what stands before a closing bracket looks like a number and is none.
    """
    pieces: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(start: int, factor: float) -> None:
        pieces[start:] = [(piece, weight * factor) for piece, weight in pieces[start:]]

    last = 0
    for match in SIGNS.finditer(text):
        plain, sign, last = text[last : match.start()], match.group(), match.end()
        if plain:
            pieces.append((plain, 1.0))
        if sign in opened:
            opened[sign].append(len(pieces))
        elif sign.startswith("\\"):
            pieces.append((sign[1:], 1.0))  # a lone backslash is a piece without text: it may part its neighbours
        elif match.group(1) and opened["("]:
            close(opened["("].pop(), number(match.group(1)))
        elif sign == ")" and opened["("]:
            close(opened["("].pop(), ROUND)
        elif sign == "]" and opened["["]:
            close(opened["["].pop(), SQUARE)
        else:
            pieces.append((sign, 1.0))
    pieces += [(text[last:], 1.0)] if text[last:] else []
    for start in opened["("]:
        close(start, ROUND)
    for start in opened["["]:
        close(start, SQUARE)
    return merged(pieces) or [("", 1.0)]


def merged(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Neighbours of the same weight as one."""
    found: list[tuple[str, float]] = []
    for piece, weight in pieces:
        if found and found[-1][1] == weight:
            found[-1] = (found[-1][0] + piece, weight)
        else:
            found.append((piece, weight))
    return found


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"`{text}` is no weight") from None
