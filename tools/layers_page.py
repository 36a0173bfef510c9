"""Write the table of layers in `docs/design.md` from the imports. With `--check`, only report whether it is up to date.

python -m tools.layers_page [--check]
"""

import re
from pathlib import Path

import grimp

from tools.settings_page import write_or_check

PAGE = Path(__file__).parent.parent / "docs" / "design.md"
BEGIN, END = "<!-- layers: made from the imports -->", "<!-- end of the layers -->"


def imports() -> dict[str, set[str]]:
    """Return, for each part of the package, the parts that it imports. A part is a module or package below `neonym`."""
    graph = grimp.build_graph("neonym", cache_dir=None)
    found: dict[str, set[str]] = {}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            importer, other = part_of(module), part_of(imported)
            if importer and other and importer != other:
                found.setdefault(importer, set()).add(other)
                found.setdefault(other, set())
    return found


def part_of(module: str) -> str:
    """Return the part that a module belongs to; an empty string for the package itself, which only exports the API."""
    names = module.split(".")
    if names[1:2] == ["runs"] and len(names) > 2:  # some of its modules are below the training, some above
        return ".".join(names[1:3])
    return names[1] if len(names) > 1 else ""


def table() -> str:
    """Return the table of the parts, each of which comes after all parts that it imports.

    Ends the program with a message if the imports are circular.
    """
    left, lines = dict(imports()), []
    for name in ("__main__", "_version"):
        left.pop(name, None)
    placed: set[str] = set()
    while left:
        ready = sorted(part for part, others in left.items() if others & left.keys() <= {part})
        if not ready:
            raise SystemExit(f"the imports of {', '.join(sorted(left))} are circular")
        lines += [f"| `{part}` | {', '.join(f'`{o}`' for o in sorted(left[part] & placed)) or '-'} |" for part in ready]
        placed |= set(ready)
        left = {part: others for part, others in left.items() if part not in ready}
    return "\n".join(["| part | imports |", "| --- | --- |", *lines])


def page() -> str:
    """Return the page with the table for the present imports."""
    between = f"{BEGIN}\n\n{table()}\n\n{END}"
    return re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: between, PAGE.read_text("utf-8"), flags=re.DOTALL)


if __name__ == "__main__":
    write_or_check(PAGE, page())
