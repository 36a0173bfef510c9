"""Parse emphasis in prompts: `(more)`, `[less]`, `(this much:1.3)`, as AUTOMATIC1111's web UI and sd-scripts do."""

import re

ROUND, SQUARE = 1.1, 1 / 1.1  # factors of brackets without a number
SIGNS = re.compile(r"\\[()\[\]\\]|[\\()\[\]]|:([+-]?[.\d]+)\)")


def parse_emphasis(text: str) -> list[tuple[str, float]]:
    """Return the pieces of a text with their emphasis; there is at least one piece.

    Brackets may be nested, and a backslash escapes one. Raises ValueError if the emphasis before a closing bracket looks
    like a number but is not one, such as 1.2.3.
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
            pieces.append((sign[1:], 1.0))  # a lone backslash is an empty piece, which may separate others
        elif match.group(1) and opened["("]:
            close(opened["("].pop(), factor_in(match.group(1)))
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
    """Return the pieces, with neighbours of equal emphasis joined."""
    found: list[tuple[str, float]] = []
    for piece, weight in pieces:
        if found and found[-1][1] == weight:
            found[-1] = (found[-1][0] + piece, weight)
        else:
            found.append((piece, weight))
    return found


def factor_in(text: str) -> float:
    """Return the number in a text. Raises ValueError if it is not a number."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"`{text}` is no weight") from None
