"""Write `docs/events.md` from the event classes; `--check` only says whether it is up to date.

python -m tools.events_page [--check]
"""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from neonym.runs.events import VERSION, Event
from tools.settings_page import write_or_check

PAGE = Path(__file__).parent.parent / "docs" / "events.md"
# a field's type in Python -> in JSON
JSON_TYPES = {
    "Path": "text", "str": "text", "int": "integer", "float": "number", "bool": "true or false",
    "Sequence[float]": "list of numbers", "tuple[float, ...]": "list of numbers", "tuple[str, ...]": "list of texts",
    "tuple[Path, ...]": "list of texts", "tuple[Mapping[str, object], ...]": "list of tables",
    "Level": "`info`, `warning` or `result`",
}  # fmt: skip
HEAD = f"""# Events

A run tells everything that happens as events. Every run writes them to `events.jsonl` in its folder, and your own program
can listen to them. `make docs` makes this page from `neonym/runs/events.py`.

## The file

`outputs/WORD-run/events.jsonl` has one JSON object per line. Each has `event`, the kind of event, and `time`, in seconds
since 1970; the other keys are in the tables below. A number that is infinite or not a number is written as `null`.

- The first line of each run is `opened`, with the `version` of the format, now {VERSION}. A run that goes on after a stop
  appends to the same file, so a file may have several. Notes from before follow the first `opened` line.
- A run that was opened ends with one of `stopped`, `finished` and `failed`, unless it is killed. Notes may follow.
- A step is written at most a second late, together with others. Of `encoded` and `judging` the last one is written,
  and one every five seconds.
- New kinds and keys may be added at any time: pass over those that you do not know. If one changes or goes, `version` grows.

## In Python

A listener is a function of one event. It is called in the thread of the run, in the main process only, so it should be quick.

```python
import neonym


def show(event: neonym.Event) -> None:
    if isinstance(event, neonym.Stepped) and event.step % 100 == 0:
        print(event.step, list(event.losses))


neonym.train(run, listeners=[show])
```

- A listener cannot change a run: it gets facts that do not change any more. If it raises an exception, that is noted once as
  a warning, and the training goes on.
- Losses stay on their device until a listener reads them; then all those that wait are fetched together. On a GPU, read
  them once a second or less often.
- A listener that raises a `UserError` at `Opened` refuses the run before anything is loaded.
- To stop the run, call `stop.request()` of the `Stop` that you gave to `neonym.train`, from anywhere. The run ends after
  its step, and the same call goes on from there.
"""


def tables() -> Iterator[str]:
    """Yield the part of the page about each kind of event."""
    for kind in Event.__subclasses__():
        yield f"\n### {kind.kind}\n\n`{kind.__name__}`: {kind.__doc__}\n\n| key | type | meaning |\n|---|---|---|"
        hints, names = get_type_hints(kind, include_extras=True), kind.__annotations__
        for field in fields(kind):
            meaning = get_args(hints[field.name])[1]
            yield f"| `{field.name}` | {JSON_TYPES[type_name(names[field.name])]} | {meaning} |"


def type_name(annotation: Any) -> str:
    """Return `int` of the text `Annotated[int, "meaning"]`, as it stands in the source."""
    return re.sub(r"^Annotated\[(.+?), ['\"].*", r"\1", str(annotation))


def page() -> str:
    """Return the whole page."""
    return HEAD + "\n## Kinds\n" + "\n".join(tables()) + "\n"


if __name__ == "__main__":
    write_or_check(PAGE, page())
