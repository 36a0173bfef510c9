"""Describe which programs read an embedding file, and how. The rules were measured with each program's own loader.

A rule takes a file that the program opens and returns what the program does with it: "reads it ...", or why it does
not. Words for Stable Diffusion 1.x, 2.x and XL have a rule for each program (`unet.py`); for the other families, the
records say which programs read their words (`recorded.py`).
"""

from __future__ import annotations

from pathlib import Path

from neonym.errors import FormatError
from neonym.formats.consumers.file import IMAGES, SECOND_WIDTH, File, Program
from neonym.formats.consumers.recorded import recorded_family, recorded_rules
from neonym.formats.consumers.unet import PROGRAMS, SD2_WIDTH, WIDTH
from neonym.formats.content import FileContent
from neonym.formats.keys import family_of, widths_of
from neonym.models.family import Family
from neonym.models.registry import families
from neonym.types import Embedding


def check_usable_by_programs(embedding: Embedding, path: Path) -> None:
    """Raise FormatError if the vectors would break the programs that read them."""
    for name, rows in embedding.vectors.items():
        if not bool(rows.any(dim=1).all()):
            what = f"{name}: a vector is zero, so the word would silently have no effect in several programs"
            raise FormatError(what, str(path))
    widths, family = widths_of(embedding), family_of(embedding)
    if family is None:
        what = (
            f"a file must hold the vectors of all text encoders of a model, not of {' and '.join(sorted(widths))} alone"
        )
        raise FormatError(what, str(path))
    small = all(width < WIDTH for width in widths.values())  # of the built-in model, and of models for tests
    if not (small or family.fits(widths)):
        what = f"no other program has a text encoder for vectors of {' and '.join(map(str, widths.values()))} numbers"
        raise FormatError(what, str(path), f"{'; '.join(map(widths_in_words, families()))}")


def widths_in_words(family: Family) -> str:
    """Return the widths of a family's vectors for a message."""
    return f"{' and '.join(str(spec.width) for spec in family.encoders)} for {family.label}"


def support_by_program(content: FileContent, name: str) -> dict[str, str]:
    """Return what each program does with a file: "reads it ...", or why it does not."""
    file, family = File(content, name), recorded_family(content)
    programs = PROGRAMS if family is None else recorded_rules(family)
    return {program: support_in(rules, file) for program, rules in programs.items()}


def support_in(program: Program, file: File) -> str:
    """Return what one program does with a file: why it does not open it, or else the result of the program's rule."""
    content, ending = file.content, file.content.ending
    image, pickled = content.container == "picture", content.container in ("zip", "old pickle")
    named = "picture" if ending in IMAGES else "safetensors" if ending == "safetensors" else "pickle"
    if image and not program.images:
        return "does not read images"
    if program.endings and ending not in program.endings:
        return f"ignores {f'.{ending} files' if ending else 'files without an extension'}"
    if not program.by_content and named != ("pickle" if pickled else content.container):
        kind = "a pickle" if pickled else "an image" if image else "a .safetensors file"
        return f"refuses it: its extension does not match its content, which is {kind}"
    if (file.bundled or content.unread) and not (program.bundles_as_words and file.bundled):
        more = ", reads it as a LoRA with its words" if program.bundles and file.bundled else ""
        return f"refuses it as an embedding{more}"
    if content.top != "table" and content.top not in program.tops:
        return f"refuses it: it is a {content.top}"
    if not program.any_width and not file.widths & {WIDTH, SD2_WIDTH, SECOND_WIDTH}:
        return f"has no model for vectors of {', '.join(map(str, sorted(file.widths))) or 'no'} numbers"
    return program.rule(file)
