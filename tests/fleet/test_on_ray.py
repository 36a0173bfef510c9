"""Tests of how many actors a cluster gets; tests/fleet/test_ray.py runs them."""

import pytest

pytest.importorskip("ray", reason="`make setup` installs it")
from neonym.fleet.on_ray import Size, size_for

HEAD = {"memory": 1e9}


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus", "size"),
    [
        ([HEAD, {"CPU": 8, "GPU": 2}, {"CPU": 4, "GPU": 1}], None, None, Size(3, 1, 1)),
        ([HEAD, {"CPU": 8, "GPU": 2}], 8, None, Size(8, 1, 1)),  # the others are for machines that come later
        ([HEAD], 8, 1, Size(8, 1, 1)),
        ([HEAD, {"CPU": 8}, {"CPU": 4}], None, None, Size(2, 4, 0)),
        ([{"CPU": 8}], 2, None, Size(2, 4, 0)),
        ([{"CPU": 2}, {"CPU": 2}], 3, None, Size(3, 1, 0)),
        ([{"CPU": 8, "GPU": 1}], None, 0, Size(1, 8, 0)),
        ([HEAD], None, None, Size(1, 1, 0)),
    ],
)
def test_actors_fit_the_machines(nodes, workers, gpus, size):
    assert size_for(nodes, workers, gpus) == size
