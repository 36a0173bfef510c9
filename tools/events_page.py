"""Write `docs/events.md` from the event classes. With `--check`, only report whether it is up to date.

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
# type of a field in Python -> its type in JSON
JSON_TYPES = {
    "Path": "string", "str": "string", "int": "integer", "float": "number", "bool": "boolean",
    "Sequence[float]": "list of numbers", "tuple[float, ...]": "list of numbers", "tuple[str, ...]": "list of strings",
    "tuple[Path, ...]": "list of strings", "tuple[Mapping[str, object], ...]": "list of objects",
    "Level": "`info`, `warning` or `result`",
}  # fmt: skip
HEAD = f"""# Events

A run reports everything that happens as events. It writes them to `events.jsonl` in the run folder, and your own
program can receive them. This page is generated from `neonym/runs/events.py` by `make docs`.

## The file

`outputs/WORD-run/events.jsonl` has one JSON object per line. Each object has the keys `event` (the kind of the event),
`time` (in seconds since 1970) and `word` (each word of a run has a run folder of its own); the tables below list the
other keys. Lists of numbers and of words have one entry. A number that is infinite or NaN is written as
`null`.

- The first line of each run is `opened`. It contains the `version` of the format, which is now {VERSION}. A run that is
  resumed appends to the same file, so a file may have several such lines. Notes that precede the opening are written
  after the first such line.
- The last event of a run that was opened is `stopped`, `finished` or `failed`, unless the run is killed. Notes may
  follow it.
- A run that ends before it is opened writes nothing here, because the folder may belong to another run. Listeners
  still receive its notes and then `failed` (the folder is locked, a download fails) or `finished` (an earlier run with
  the same settings had finished). Settings with errors are reported before the first event.
- Steps are written in groups, at most a second late. For `encoded` and `judging`, the file contains only one event
  every five seconds and the last one.
- New kinds and keys may be added at any time, so ignore those that you do not know. If a kind or key changes or is
  removed, `version` increases.

## In Python

A listener is a function that takes one event. It is called in the thread of the run, so it should be quick. If a run
has several processes, listeners are called only in the main process.

```python
import neonym


def show(event: neonym.Event) -> None:
    if isinstance(event, neonym.Stepped) and event.step % 100 == 0:
        print(event.step, list(event.losses))


neonym.train(run, listeners=[show])
```

- A listener cannot change a run, because events are immutable and hold copies. If it raises an exception, Neonym
  prints one warning, and the training continues.
- Losses stay on their device until a listener reads them. Reading one fetches all of them together. On a GPU, read
  them at most once a second.
- A listener that raises `neonym.RefuseRun` on `Opened` refuses the run: `neonym.train` raises it before anything is
  loaded, in every process of the run.
- To stop the run, call `stop.request()` on the `Stop` that you passed to `neonym.train`. You can do so from any
  thread, or from a listener. The run ends after the current step, and the same call to `neonym.train` resumes it.

## Requests

Another program, or you, can ask a run for something by creating an empty file in its run folder. The run answers after
its current step, and removes the file:

- `save-now`: save the word as it is now, in `WORD-run/steps` (a `saved` event names the file).
- `sample-now`: generate the images of `--sample_prompts` (a `sampled` event names them).
"""


def tables() -> Iterator[str]:
    """Yield the lines of the page about each kind of event."""
    for kind in Event.__subclasses__():
        yield f"\n### {kind.kind}\n\n`{kind.__name__}`: {kind.__doc__}\n\n| key | type | meaning |\n|---|---|---|"
        hints, names = get_type_hints(kind, include_extras=True), kind.__annotations__
        for field in (field for field in fields(kind) if field.name in names):
            meaning = get_args(hints[field.name])[1]
            yield f"| `{field.name}` | {JSON_TYPES[type_name(names[field.name])]} | {meaning} |"


def type_name(annotation: Any) -> str:
    """Return the type in an annotation, such as `int` for `Annotated[int, "meaning"]`."""
    return re.sub(r"^Annotated\[(.+?), ['\"].*", r"\1", str(annotation))


def page() -> str:
    """Return the whole page."""
    return HEAD + "\n## Kinds\n" + "\n".join(tables()) + "\n"


if __name__ == "__main__":
    write_or_check(PAGE, page())
