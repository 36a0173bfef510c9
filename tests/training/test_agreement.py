"""Tests of what several processes agree upon: an error or a stop of one of them ends the same work in all."""

import json

from support.runs import run_ranks

CODE = """
import json, sys
from accelerate import Accelerator
from neonym.errors import DataError, UserError
from neonym.runs.stop import StopRequested
from neonym.training.processes import agree, endings_of_all, largest, main_process_first, together

accelerator = Accelerator(cpu=True)
rank = accelerator.process_index
assert accelerator.num_processes == 2
found = {}


def described(ending):
    return None if ending is None else f"{type(ending).__name__}: {ending}"


def ends(name, do):
    try:
        found[name] = do()
    except (UserError, StopRequested) as ending:
        found[name] = described(ending)


def in_block(own):
    with together(accelerator):
        if own[rank] is not None:
            raise own[rank]
        return "went on"


def only_main():
    calls.append(rank)
    if rank == 0:
        raise DataError("is gone", "a file")


calls = []
ends("nobody", lambda: in_block([None, None]))
ends("second", lambda: in_block([None, DataError("is broken", "00.png", "Replace it")]))
ends("first", lambda: in_block([UserError("is full", "the disk"), None]))
ends("stop and error", lambda: in_block([StopRequested(15), UserError("is full", "the disk")]))
ends("error and stop", lambda: in_block([UserError("is full", "the disk"), StopRequested(2)]))
ends("main first", lambda: main_process_first(accelerator, only_main))
ends("in turn", lambda: main_process_first(accelerator, lambda: f"read by {rank}"))
found["calls"] = calls
own = [None, UserError(f"of {rank}", "both"), UserError("of one", "second") if rank else None]
found["several"] = [described(ending) for ending in endings_of_all(accelerator, own)]
found["largest"] = [largest(accelerator, [rank, 5 - rank]), agree(accelerator, rank)]
accelerator.end_training()
print(json.dumps(found))
"""


def test_what_happens_in_one_process_ends_the_same_work_in_all():
    codes, outputs = run_ranks(CODE)
    assert codes == [0, 0], outputs
    first, second = (json.loads(output.splitlines()[-1]) for output in outputs)
    assert first["nobody"] == second["nobody"] == "went on"
    assert first["second"] == "RefuseRun: 00.png is broken. Replace it."
    assert second["second"] == "DataError: 00.png is broken. Replace it."
    assert [own["first"] for own in (first, second)] == [
        f"{kind}: the disk is full." for kind in ("UserError", "RefuseRun")
    ]
    assert first["stop and error"] == second["stop and error"] == "StopRequested: 15"
    assert second["error and stop"] == "RefuseRun: the disk is full."
    assert second["main first"] == "RefuseRun: a file is gone."
    assert (first["calls"], second["calls"]) == ([0], [])
    assert (first["in turn"], second["in turn"]) == ("read by 0", "read by 1")
    assert first["several"] == [None, "UserError: both: of 0.", "RefuseRun: second: of one."]
    assert second["several"] == [None, "RefuseRun: both: of 0.", "UserError: second: of one."]
    assert first["largest"] == second["largest"] == [[1, 5], 1]
