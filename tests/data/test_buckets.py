"""Verify buckets: sd-scripts' sizes and choices, and images that do not fit the grid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neonym.data.buckets import BucketRules, bucket_sizes, fit
from neonym.types import Fit
from support.golden import golden


def rules_of(values: dict) -> BucketRules:
    return BucketRules(
        tuple(values["resolution"]), values.get("enable_bucket", True), values.get("min_bucket_reso", 256),
        values.get("max_bucket_reso", 1024), values.get("bucket_reso_steps", 64), values.get("bucket_no_upscale", False),
    )  # fmt: skip


@pytest.mark.parametrize("case", golden("a_bucket_resolutions.json"))
def test_golden_bucket_resolutions(case):
    if "error" in case["expected"]:
        with pytest.raises(ValueError, match="reso"):
            rules_of(case["inputs"]).adjusted()
        return
    rules = rules_of(case["inputs"]).adjusted()
    assert (rules.shortest, rules.longest) == (case["expected"]["adjusted_min"], case["expected"]["adjusted_max"])
    assert [list(s) for s in bucket_sizes(rules)] == case["expected"]["resolutions"]


def test_golden_bucket_selection():
    for case in golden("b_bucket_selection.json"):
        rules, expected = rules_of(case["inputs"]), case["expected"]
        rules = rules.adjusted() if rules.enabled else rules
        size = tuple(case["inputs"]["image_size"])
        if "error" in expected or 0 in expected.get("bucket", [1]):
            with pytest.raises(ValueError, match="too"):
                fit(size, rules, bucket_sizes(rules))
            continue
        found = fit(size, rules, bucket_sizes(rules))
        assert list(found.bucket) == expected["bucket"], case
        assert list(found.resized) == expected["resized_size"], case
        if expected["pixel_crop_ltrb_in_resized"] is not None:  # upstream was not asked for the widest ones
            assert list(found.crop) == expected["pixel_crop_ltrb_in_resized"], case


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_every_image_covers_its_bucket(width, height):
    rules = BucketRules((512, 512), enabled=True)
    found = fit((width, height), rules, bucket_sizes(rules))
    assert found.resized[0] >= found.bucket[0]
    assert found.resized[1] >= found.bucket[1]
    assert found.bucket[0] * found.bucket[1] <= 512 * 512


def test_golden_limits_off_the_grid():
    """Some limits are not multiples of the steps, which settings do not allow."""
    for case in golden("a_bucket_resolutions.json", "raw_make_bucket_resolutions"):
        inputs = case["inputs"]
        rules = BucketRules(
            tuple(inputs["resolution"]), True, inputs["min_size"], inputs["max_size"], inputs["divisible"]
        )
        assert [list(size) for size in bucket_sizes(rules)] == case["expected"]["resolutions"]


def test_a_longest_side_far_above_the_resolution_is_fast():
    rules = BucketRules((512, 512), True, longest=10**15)
    assert bucket_sizes(rules.adjusted()) == bucket_sizes(BucketRules((512, 512), True, longest=1024).adjusted())


def test_steps_above_the_shortest_side_without_upscaling():
    """There is no list of buckets then: each image is cropped to its own shape."""
    rules = BucketRules((512, 512), True, shortest=32, steps=64, no_upscale=True)
    assert rules.adjusted().shortest == 0
    assert bucket_sizes(rules.adjusted()) == []
    assert fit((300, 200), rules.adjusted(), []).bucket == (256, 192)
    with pytest.raises(ValueError, match="min_bucket_reso 32 is smaller than bucket_reso_steps 64"):
        BucketRules((512, 512), True, shortest=32, steps=64).adjusted()


def test_a_thin_image_is_shrunk_by_the_side_that_fits():
    """Shrinking it by its height would leave no width; shrinking it by its width fits."""
    rules = BucketRules((512, 512), True, no_upscale=True)
    assert fit((157, 10_000), rules, []) == Fit((64, 4032), (64, 4076), (0, 22, 64, 4054))
