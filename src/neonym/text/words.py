"""Clean text, and find new words in it."""

import html
import re
from functools import lru_cache


def clean(text: str) -> str:
    """Return text as OpenAI's CLIP cleans it: encoding fixed, HTML entities decoded, lower case, single spaces.

    transformers' tokenizer does only the last two. Without the others, a caption would give other ids than in other
    programs.
    """
    # Nothing to fix: ten times faster
    plain = text.isascii() and "&" not in text and text.replace("\n", " ").isprintable()
    return " ".join((text if plain else repaired(text)).split()).lower()


def repaired(text: str) -> str:
    """Return text with its encoding fixed and its HTML entities decoded."""
    import ftfy  # 20 ms, which captions of plain ASCII do not wait for

    return html.unescape(html.unescape(ftfy.fix_text(text)))


@lru_cache(maxsize=256)
def whole_word(tokens: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern that matches any of `tokens`, but not inside a longer word: `ann` does not match in "planned".

    The tokens and the text must first be passed through `clean`, which makes them lower case.
    """

    def bounded(token: str) -> str:
        start = r"(?<!\w)" if re.match(r"\w", token) else ""
        end = r"(?!\w)" if re.search(r"\w$", token) else ""
        return f"{start}{re.escape(token)}{end}"

    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(bounded(t) for t in longest_first))
