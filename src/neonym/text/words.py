"""Clean text, and find a new word in it."""

import html
import re
from functools import lru_cache

import ftfy


def clean(text: str) -> str:
    """Return text as OpenAI's CLIP cleans it: encoding mended, HTML entities undone, lower case, single blanks.

    The tokenizer of transformers does only the last two. Without the others, the same caption would give other ids than
    in other programs.
    """
    plain = (
        text.isascii() and "&" not in text and text.replace("\n", " ").isprintable()
    )  # nothing to mend: ten times faster
    mended = text if plain else html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(mended.split()).lower()


@lru_cache(maxsize=256)
def whole_word(tokens: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern that matches any of `tokens`, but not inside a longer word: `ann` is not in "planned".

    The tokens and the text must be `clean`ed first, which makes them lower case.
    """

    def bounded(token: str) -> str:
        start = r"(?<!\w)" if re.match(r"\w", token) else ""
        end = r"(?!\w)" if re.search(r"\w$", token) else ""
        return f"{start}{re.escape(token)}{end}"

    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(bounded(t) for t in longest_first))
