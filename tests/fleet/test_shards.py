"""Tests of how words are cut into shards, and of what becomes of a shard whose worker dies."""

from neonym.fleet.shards import after_death, cut, next_shard
from neonym.fleet.words import Shard, Word


def words(count: int, group: str = "a") -> list[Word]:
    return [Word(f"{group}{i}", f"{group}{i}", {}, f"words[{i}]", group) for i in range(count)]


def test_a_shard_has_one_group_and_every_word_is_in_one():
    all_words = [*words(10, "a"), *words(3, "b")]
    shards = cut(all_words, (), workers=1, size=4)
    assert [len(shard.words) for shard in shards] == [4, 4, 2, 3]
    assert all(len({word.group for word in shard.words}) == 1 for shard in shards)
    assert [word for shard in shards for word in shard.words] == all_words


def test_workers_get_equally_many_shards():
    assert [len(shard.words) for shard in cut(words(80), (), workers=8)] == [10] * 8
    assert [len(shard.words) for shard in cut(words(100), (), workers=1)] == [34, 34, 32]
    assert {len(shard.words) for shard in cut(words(10_000), (), workers=100)} == {34, 4}
    assert {len(shard.words) for shard in cut(words(10_000), (), workers=8)} == {32, 16}


def test_finished_words_come_first_and_together():
    first, *rest = cut(words(10), {"a3", "a7"}, workers=1)
    assert [word.name for word in first.words] == ["a3", "a7"]
    assert sum(len(shard.words) for shard in rest) == 8


def test_finished_words_are_shared_out_as_well():
    """They are trained if the plan has more steps now."""
    names = {word.name for word in words(200)}
    assert [len(shard.words) for shard in cut(words(200), names, workers=4)] == [25] * 8
    assert [len(shard.words) for shard in cut(words(5), names, workers=4, size=2)] == [2, 2, 1]


def test_a_worker_keeps_its_model_and_others_take_the_longest_queue():
    waiting = [Shard(tuple(words(1, "a"))), *(Shard(tuple(words(1, "b"))) for _ in range(3))]
    assert next_shard(waiting, [], "a") == 0
    assert waiting[next_shard(waiting, ["b"], "")].group == "b"  # 3 shards for one worker more than a's 1 for none
    assert waiting[next_shard(waiting, ["b", "b", "b"], "")].group == "a"


def test_after_a_second_death_words_go_on_alone():
    shard = Shard(tuple(words(3)))
    (again,) = after_death(shard, {"a0"})
    assert [word.name for word in again.words] == ["a1", "a2"]
    assert again.deaths == 1
    assert [[word.name for word in own.words] for own in after_death(again, {"a0"})] == [["a1"], ["a2"]]
    assert after_death(again, {"a1", "a2"}) == []
