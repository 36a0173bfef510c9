"""Checking all words of a plan at once, before anything is trained."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from neonym.errors import Problem
from neonym.fleet.words import Word

FEW = 8  # words that are checked faster than processes start


@dataclass(frozen=True)
class Finding:
    """The problems of one word."""

    word: Word
    problems: tuple[Problem, ...]

    @property
    def error(self) -> str:
        """The errors as paragraphs; an empty string if the word can be trained."""
        texts = [str(problem) for problem in self.problems if problem.severity == "error"]
        return "\n".join(f"{self.word.where}: {text}" for text in texts)


def check_word(word: Word, folder: Path) -> Finding:
    """Return the problems of one word, whose files would be written to a folder."""
    import neonym

    try:
        with TemporaryDirectory() as home:
            return Finding(word, tuple(neonym.check(word.run(folder, Path(home)))))
    except neonym.UserError as error:
        return Finding(word, tuple(error.problems))
    except Exception as error:  # a bug: the other words go on
        return Finding(word, (Problem("error", f"it cannot be checked ({type(error).__name__}: {error})"),))


def check_words(words: Sequence[Word], folders: Sequence[Path], processes: int | None = None) -> list[Finding]:
    """Return the problems of every word, in order. Many words are checked by several processes."""
    count = min(processes or os.cpu_count() or 1, len(words) // FEW)
    if count < 2:
        return list(map(check_word, words, folders))
    with ProcessPoolExecutor(count, get_context("spawn"), initializer=ignore_interrupts) as pool:
        return list(pool.map(check_word, words, folders, chunksize=FEW))


def ignore_interrupts() -> None:
    """Leave Ctrl-C to the process that waits for this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def remarks(findings: Sequence[Finding]) -> list[str]:
    """Return the warnings and notes, each once with the number of words that it is about."""
    words: dict[str, list[Word]] = {}
    for finding in findings:
        for problem in dict.fromkeys(finding.problems):
            if problem.severity != "error":
                words.setdefault(f"{problem.severity}: {problem}", []).append(finding.word)
    return [
        text if len(own) == len(findings) else f"{', '.join(w.name for w in own[:3])}{more(len(own) - 3)}: {text}"
        for text, own in words.items()
    ]


def more(count: int) -> str:
    """Return how many names are left out of a list."""
    return f" and {count} more" if count > 0 else ""
