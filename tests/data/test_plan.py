"""Verify that the samples of a step are a function of the step, and that an epoch has every item once."""

from pathlib import Path

from neonym.data.plan import ConceptPlan, fingerprint
from neonym.types import CaptionRules, Fit, ImageRecord, ImageRules
from support.golden import golden, judge


def record(name: str = "a", repeats: int = 1, bucket=(128, 128), **more) -> ImageRecord:
    facts = {
        "path": Path(name), "caption": "x", "size": bucket, "fit": Fit(bucket, bucket, (0, 0, *bucket)), "concept": 0,
        "dataset": 0, "repeats": repeats, "is_reg": False, "rules": CaptionRules(),
    }  # fmt: skip
    return ImageRecord(**{**facts, **more})


def test_golden_epochs():
    """The order is not that of sd-scripts, but the sizes of batches and the count of each item are."""
    outcomes = {}
    for case in golden("k_epoch_order.json"):
        inputs = case["inputs"]
        repeats, size, seed = inputs["num_repeats"], inputs["batch_size"], inputs["dataset_seed"]
        records = [
            record(f"{name[0]}{i}", repeats, tuple(bucket))
            for name, bucket in inputs["images"].items()
            for i in range(int(name[-1]) + 1)
        ]
        plan, outcomes[f"seed {seed}"] = ConceptPlan(records, [size], seed, 1.0), True
        for epoch, batches in case["expected"]["batches_in_index_order_by_epoch"].items():
            first = int(epoch) * plan.steps_per_epoch
            steps = [plan.draws(first + step) for step in range(plan.steps_per_epoch)]
            names = [[str(draw.record.path) for draw in step] for step in steps]
            assert sorted(map(len, names)) == sorted(map(len, batches))
            assert sorted(name for step in names for name in step) == sorted(
                name for batch in batches for name in batch
            )
            assert all(len({name[0] for name in step}) == 1 for step in names)
            outcomes[f"seed {seed}"] &= names == batches
    judge("k", outcomes)


def test_an_epoch_has_every_item_once():
    records = [record(f"{i}", repeats=1 + i % 3, bucket=[(128, 128), (64, 192)][i % 2]) for i in range(11)]
    plan = ConceptPlan(records, [4], seed=5, reg_weight=1.0)
    for epoch in range(3):
        drawn = [plan.draws(epoch * plan.steps_per_epoch + s) for s in range(plan.steps_per_epoch)]
        assert all(len({d.record.fit.bucket for d in step}) == 1 for step in drawn)
        names = sorted(str(d.record.path) for step in drawn for d in step)
        assert names == sorted(str(r.path) for r in records for _ in range(r.repeats))


def test_the_plan_is_a_function_of_the_step():
    records = [
        record(f"{i}", caption="a, b, c, d", rules=CaptionRules(shuffle=True), image_rules=ImageRules(flip=True))
        for i in range(9)
    ]
    forward, jumping = (ConceptPlan(records, [4], 1, 1.0) for _ in range(2))
    wanted = [forward.draws(step) for step in range(20)]
    assert [jumping.draws(step) for step in reversed(range(20))] == wanted[::-1]
    assert len({d.key for step in wanted for d in step}) == sum(map(len, wanted))
    assert {d.view.flipped for step in wanted for d in step} == {True, False}
    assert len({d.caption for step in wanted for d in step}) > 5


def test_the_fingerprint_is_that_of_older_states():
    """Older versions called the class ImageRules by another name, which is part of the hash in their states."""
    rules = record().image_rules
    assert repr(rules).startswith("ImageRules(")
    older = fingerprint([record()])

    renamed = type("PictureRules", (type(rules),), {"__qualname__": "PictureRules"})
    assert fingerprint([record(image_rules=renamed(**vars(rules)))]) == older
