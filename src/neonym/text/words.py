"""How text is cleaned, and how a new word is found in it."""

import html
import re
from functools import lru_cache

import ftfy


def clean(text: str) -> str:
    """What OpenAI's CLIP does before it splits text: mend the encoding, undo HTML entities, lower case, one blank.

    transformers' tokenizer does only the last two; without the rest, the same caption gives other ids than elsewhere.
    """
    plain = (
        text.isascii() and "&" not in text and text.replace("\n", " ").isprintable()
    )  # nothing to mend: ten times faster
    mended = text if plain else html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(mended.split()).lower()


@lru_cache(maxsize=256)
def whole_word(tokens: tuple[str, ...]) -> re.Pattern[str]:
    """Matches any of `tokens`, but not inside a longer word: `ann` is not in "planned".

    Both sides are `clean`ed before, which takes care of the case.
    """

    def bounded(token: str) -> str:
        start = r"(?<!\w)" if re.match(r"\w", token) else ""
        end = r"(?!\w)" if re.search(r"\w$", token) else ""
        return f"{start}{re.escape(token)}{end}"

    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(bounded(t) for t in longest_first))
