"""The syntax of prompts: variants, inline options, emphasis, BREAK, long prompts, spellings of a word."""

import itertools
import math
import random
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from neonym.config.generate import GenerateSettings
from neonym.errors import ConfigError
from neonym.generation.conditioning import TextRules, chunks_of, conditioning, plain_spelling, words_and_tokens_cut
from neonym.generation.request.jobs import JobPlan, NativeValues, batches
from neonym.generation.request.lines import read_prompt_line, take_seeds
from neonym.generation.request.other_syntax import find_other_syntax
from neonym.generation.request.variants import enumerate_variants, parse_variants, pick_text
from neonym.generation.samplers import SAMPLERS, make_scheduler, possible_steps
from neonym.models.model import load_model


def all_of(text, seed=0):
    return [pick_text(parts, random.Random(seed)) for parts in enumerate_variants(parse_variants(text))]


def possible_texts(text, times=200):
    return {pick_text(parse_variants(text), random.Random(i)) for i in range(times)}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a {red|blue} cat", {"a red cat", "a blue cat"}),
        ("{2$$a|b|c}", {", ".join(pair) for pair in itertools.permutations("abc", 2)}),
        ("{1-2$$ and $$a|b}", {"a", "b", "a and b", "b and a"}),
        ("{1-2$$, $$a|b}", {"a", "b", "a, b", "b, a"}),
        ("{3$$ + $$x|y}", {"x + y", "y + x"}),
        ("{{a|b} c|d}", {"a c", "b c", "d"}),
        ("{a|}", {"a", ""}),
        (r"\{a\|b\}", {"{a|b}"}),
        ("{a|b", {"{a|b"}),
        ("a|b}", {"a|b}"}),
        ("{}", {"{}"}),
        ("{only}", {"only"}),
        ("{5$$a|b}", {"a, b", "b, a"}),
        ("{2$$}", {"{2$$}"}),
        ("{-$$a|b}", {"a", "b"}),
    ],
)
def test_variants_are_chosen_at_random(text, found):
    assert possible_texts(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{e$$a|b}", ["a", "b"]),
        ("{E$$a|b} {e$$1|2}", ["a 1", "a 2", "b 1", "b 2"]),
        ("{e$$2$$a|b|c}", ["a, b", "a, c", "b, c"]),
        ("{e$$1-2$$ & $$a|b}", ["a", "b", "a & b"]),
        ("{e$${e$$a|b} x|c}", ["a x", "c", "b x", "c"]),
    ],
)
def test_variants_are_enumerated(text, found):
    assert all_of(text) == found


def test_a_random_group_within_an_enumerated_one_ends():
    assert all_of("{e$${a|b}|c}")[1] == "c"
    assert {all_of("{e$${a|b}|c}", seed)[0] for seed in range(20)} == {"a", "b"}


def parse_independently(body):
    """Return whether a group without nested groups is enumerated, and its possible texts, by sd-scripts' gen_img.py."""
    every = body[:3].lower() == "e$$"
    parts = body[3 if every else 0 :].split("$$")
    count = re.fullmatch(r"(\d+)(?:-(\d+))?", parts[0]) if len(parts) > 1 else None
    low, high = sorted((int(count[1]), int(count[2] or count[1]))) if count else (1, 1)
    parts = parts[1:] if count else parts
    joiner, options = (parts[0] if len(parts) > 1 else ", "), parts[-1].split("|")
    choose = itertools.combinations if every else itertools.permutations
    counts = range(min(low, len(options)), min(high, len(options)) + 1)
    return every, [joiner.join(chosen) for count in counts for chosen in choose(options, count)]


GROUPS = st.tuples(
    st.sampled_from(["", "e$$", "E$$"]), st.sampled_from(["", "0$$", "1$$", "2$$", "7$$", "1-2$$", "2-1$$", "2-9$$"]),
    st.sampled_from(["", ", $$", " and $$", "-$$"]),
    st.lists(st.text("ab c1.,()", min_size=1, max_size=3), min_size=1, max_size=4).map("|".join),
).map("".join)  # fmt: skip


@given(st.lists(st.tuples(st.text("ab ,", max_size=3), GROUPS), min_size=1, max_size=2), st.integers(0, 9))
def test_variants_agree_with_an_independent_parser(parts, seed):
    """Enumerated groups give all texts in order, the first group slowest; the others give one possible text."""
    axes = [
        [[x] for x in found] if every else [found]
        for every, found in (parse_independently(group) for _, group in parts)
    ]
    found_texts = all_of("".join(f"{text}{{{group}}}" for text, group in parts), seed)
    assert len(found_texts) == math.prod(map(len, axes))
    for got, sets in zip(found_texts, itertools.product(*axes), strict=True):
        texts = ("".join(t + c for (t, _), c in zip(parts, chosen, strict=True)) for chosen in itertools.product(*sets))
        assert got in texts


@given(st.text(alphabet="ab{}|$\\e12-, ", max_size=30), st.integers(0, 5))
def test_a_seed_always_chooses_the_same_text(text, seed):
    first, second = (pick_text(parse_variants(text), random.Random(seed)) for _ in range(2))
    assert first == second


@given(st.text(alphabet="abc ,.()[]:", max_size=40))
def test_text_without_braces_is_unchanged(text):
    assert all_of(text) == [text]


@given(st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=6, unique=True), st.integers(0, 9))
def test_the_chosen_text_is_one_of_the_options(options, seed):
    assert pick_text(parse_variants("{" + "|".join(options) + "}"), random.Random(seed)) in options


def test_inline_options_are_read():
    problems = []
    line = (
        "a cat --n bad, worse --W 512 --h 256 --s 20 --l 7.5 --nl none --t 0.5 --am 1,0.5 --c x --f out/name --ow 1024"
    )
    read = read_prompt_line(line, "here", problems)
    assert problems == []
    assert read.prompt == "a cat"
    assert read.values == {
        "negative_prompt": "bad, worse", "width": 512, "height": 256, "steps": 20, "scale": 7.5, "negative_scale": None,
        "strength": 0.5, "multipliers": (1.0, 0.5), "clip_prompt": "x", "file": "out/name.png", "original_width": 1024,
    }  # fmt: skip
    assert read_prompt_line("a cat\t--N\tbad --L  3", "here", problems).values == {
        "negative_prompt": "bad",
        "scale": 3.0,
    }
    assert take_seeds("a cat --d 1,2,3 --s 4", "here", problems) == ("a cat --s 4", (1, 2, 3))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a cat --q 3", "`--q` is not an inline option"),
        ("a cat --s x", "`--s x`"),
        ("a cat --w", "`--w` has no value"),
        ("a cat --t 2", "0 to 1"),
        ("a cat --d 1+2", "`--d 1+2`"),
        ("a cat --d", "`--d` is given twice or has no value"),
        ("a cat --f ../x.png", "within --outdir"),
        ("a cat --f /tmp/x.png", "within --outdir"),
        ("a cat --f x.exe", ".png"),
        ("a cat --dsd1 3", "Deep Shrink"),
        ("a cat --glt 3", "Gradual Latent"),
        ("a (cat:1.2.3)", "`1.2.3` is no weight"),
        ("a\0cat", "contains characters that are not text"),
        ("a cat --ow 9999999999", "a whole number from 1 to"),
        ("x" * 70_000 + " --f a.jpg", "too long to be stored in a JPEG file"),
    ],
)
def test_a_wrong_line_is_reported_with_its_location(line, message, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text(f"# a comment\n\na dog\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        list(JobPlan(GenerateSettings(from_file=str(file)), NATIVE).jobs())
    assert message in str(caught.value)
    assert "line 4" in str(caught.value)


NATIVE = NativeValues(128, 3.0, 8)


def plan(**settings):
    return list(JobPlan(GenerateSettings(seed=10, **settings), NATIVE).jobs())


def test_seeds_count_up_over_prompts_and_passes():
    assert [job.seed for job in plan(prompt=("a", "b"), images_per_prompt=2, n_iter=2)] == list(range(10, 18))
    assert [job.seed for job in plan(prompt=("a", "b"), n_iter=2, iter_same_seed=True)] == [10, 10, 11, 11]
    own = plan(prompt=("a --d 5,7", "b"), images_per_prompt=3)
    assert [job.seed for job in own] == [5, 7, 8, 13, 14, 15]


def test_variants_depend_on_the_seed_of_the_image():
    jobs = plan(prompt=("a {red|green|blue|white|black|pink} cat",), images_per_prompt=6)
    assert len({job.prompt for job in jobs}) > 2
    (again,) = plan(prompt=("a {red|green|blue|white|black|pink} cat --d 13",))
    assert again.prompt == jobs[3].prompt
    assert [job.prompt for job in plan(prompt=("{e$$a|b}",), images_per_prompt=5)] == ["a", "b"]
    assert [job.width for job in plan(prompt=("a --w {e$$64|96}",))] == [64, 96]


def test_sides_are_rounded_with_a_warning():
    made = JobPlan(GenerateSettings(W=100, prompt=("a --h 130",)), NATIVE)
    (job,) = made.jobs()
    assert (job.width, job.height) == (96, 128)
    warning = "{} is not a multiple of 8: using {} instead, here and elsewhere"
    assert [p.what for p in made.problems] == [warning.format(100, 96), warning.format(130, 128)]


def test_steps_are_limited_with_a_warning():
    made = JobPlan(GenerateSettings(prompt=("a --s 0", "b --s 5000", "c --s 7")), NATIVE)
    assert [job.steps for job in made.jobs()] == [1, 998, 7]
    assert [job.steps for job in made.jobs()] == [1, 998, 7]
    assert [p.what for p in made.problems] == [
        "0 steps are not possible with ddim: using 1 instead",
        "5000 steps are not possible with ddim: using 998 instead",
    ]  # fmt: skip
    few = JobPlan(GenerateSettings(prompt=("a",), steps=60, sampler="lcm"), NATIVE)
    assert [job.steps for job in few.jobs()] == [50]
    assert [p.what for p in few.problems] == ["60 steps are not possible with lcm: using 50 instead"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_can_take_its_possible_steps(model, sampler):
    steps = possible_steps(sampler, 1000)
    scheduler = make_scheduler(model, sampler)
    scheduler.set_timesteps(steps)
    levels = scheduler.timesteps.tolist()
    assert 0 <= min(levels) <= max(levels) < 1000
    assert len(set(levels)) >= min(steps, len(levels) // 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": ("a --t 0.5",)}, "--t has no effect without --image_path or --highres_fix_scale"),
        ({"prompt": ("a --d 3",), "n_iter": 2}, "with --d, every pass of --n_iter generates the same images"),
        ({"prompt": ("a --w 64 --w 32",)}, "`--w` is set more than once: only the last one counts"),
        ({"image_path": "odd.png", "prompt": ("a",)}, "an image of 100 x 70 is scaled to 96 x 64, multiples of 32"),
        ({"highres_fix_scale": 0.3, "prompt": ("a",)}, "the first of two stages has 32 x 32 pixels, multiples of 32"),
    ],
)
def test_options_that_are_not_followed_exactly_are_reported(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (100, 70)).save("odd.png")
    made = JobPlan(GenerateSettings(**settings), NATIVE)
    assert list(made.jobs())
    assert [p.what for p in made.problems] == [message]


def test_a_negative_prompt_without_effect_is_reported_once():
    made = JobPlan(GenerateSettings(prompt=("a --n b", "c --n d", "e --nl 3"), scale=1.0), NATIVE)
    list(made.jobs())
    assert [p.what for p in made.problems] == ["with a guidance scale of 1, the negative prompt has no effect"]


def test_shuffled_prompts_occur_once_in_each_pass():
    jobs = plan(prompt=tuple("abcdefgh"), n_iter=2, shuffle_prompts=True)
    first, second = [j.prompt for j in jobs[:8]], [j.prompt for j in jobs[8:]]
    assert sorted(first) == sorted(second) == list("abcdefgh")
    assert first != second


def test_a_batch_has_jobs_of_one_shape():
    jobs = plan(prompt=("a", "b", "c --w 64", "d --w 64", "e --s 3", "f --l 9", "g"))
    together = [[job.prompt for job in batch] for batch in batches(jobs, 3)]
    assert together == [["a", "b"], ["c", "d"], ["e"], ["f", "g"]]


def test_a_long_prompt_file_is_read_lazily(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"a cat number {i} --s 2\n" for i in range(10_000)))
    jobs = JobPlan(GenerateSettings(from_file=str(file), seed=0), NATIVE).jobs()
    assert next(jobs).prompt == "a cat number 0"
    assert sum(1 for _ in jobs) == 9_999


@pytest.fixture(scope="module")
def model():
    loaded = load_model()
    loaded.text.add_word("zyzzo", {"text_encoder": torch.randn(2, 128, generator=torch.Generator().manual_seed(1))})
    return loaded


def test_words_in_the_syntax_of_other_programs_are_read(model):
    tokenizer = model.text.tokenizers["text_encoder"]
    plain = chunks_of(tokenizer, "a zyzzo, (zyzzo:1.2) on blue")
    for other in ("a embedding:zyzzo, (embedding:zyzzo:1.2) on blue", "a <zyzzo>, (<zyzzo>:1.2) on blue",
                  "a embedding:zyzzo.safetensors, (Embedding:ZYZZO.pt:1.2) on blue"):  # fmt: skip
        assert chunks_of(tokenizer, other) == plain
    for end in (".", ";", "!", "'s", "?", '"'):
        assert plain_spelling(f"an embedding:zyzzo{end} here", ["zyzzo"]) == f"an zyzzo{end} here"
    for other in ("embedding:zyzzo-2", "embedding:zyzzoo", "embedding:zyzzo.v2"):
        assert plain_spelling(other, ["zyzzo"]) == other
    assert plain_spelling("embedding:zyzzo.v2.pt", ["zyzzo", "zyzzo.v2"]) == "zyzzo.v2"
    assert plain_spelling("embedding:other <other>", ["zyzzo"]) == "embedding:other <other>"
    assert {token for token, _ in plain[0] if token >= tokenizer.vocab} == {tokenizer.vocab, tokenizer.vocab + 1}


def test_break_starts_a_new_part(model):
    tokenizer = model.text.tokenizers["text_encoder"]
    parts = chunks_of(tokenizer, "a (red cat BREAK blue:1.5) dog")
    assert [len(part) for part in parts] == [3, 2]
    assert [weight for part in parts for _, weight in part] == [1.0, 1.5, 1.5, 1.5, 1.0]
    assert len(chunks_of(tokenizer, "unBREAKable")) == 1


def test_long_prompts_are_read_whole_or_the_cut_tokens_are_counted(model):
    long = " ".join(["cat"] * 100)
    assert conditioning(model, [long]).sequence.shape == (1, 152, 128)
    assert conditioning(model, [long], rules=TextRules(most_chunks=1)).sequence.shape == (1, 77, 128)
    tokenizer = model.text.tokenizers["text_encoder"]
    assert words_and_tokens_cut(tokenizer, f"Zyzzo {long}", TextRules(most_chunks=1)) == ({"zyzzo"}, 27)
    assert words_and_tokens_cut(tokenizer, long) == (set(), 0)


def test_emphasis_scales_the_encoding_and_keeps_the_requested_mean(model):
    plain = conditioning(model, ["a red cat"]).sequence
    weights = torch.ones(1, 77, 1)
    weights[0, 2] = 1.4  # "red"
    expected = plain * weights
    none, original, absolute = (
        conditioning(model, ["a (red:1.4) cat"], rules=TextRules(keep=keep)).sequence
        for keep in ("none", "original", "abs")
    )
    assert torch.allclose(none, expected, atol=1e-6)
    assert torch.allclose(original, expected * plain.mean() / expected.mean(), atol=1e-5)
    assert torch.allclose(absolute, expected * plain.abs().mean() / expected.abs().mean(), atol=1e-5)
    assert torch.equal(conditioning(model, [r"a \(red\) cat"]).sequence[:, :1], plain[:, :1])


def test_a_word_at_the_end_of_a_part_moves_to_the_next_as_a_whole(model):
    """As in AUTOMATIC1111, no part holds half a word, emphasised or not. Other prompts are cut at 75 tokens."""
    tokenizer = model.text.tokenizers["text_encoder"]
    rows = list(tokenizer.words["zyzzo"])
    for before in (72, 73, 74, 75):
        for spelled, weight in (("zyzzo", 1.0), ("(zyzzo:1.3)", 1.3), ("<zyzzo>", 1.0)):
            parts = chunks_of(tokenizer, f"{'cat ' * before}{spelled} dog")
            assert max(map(len, parts)) <= 75
            (part,) = (part for part in parts if (rows[0], weight) in part)
            at = part.index((rows[0], weight))
            assert part[at : at + 2] == [(row, weight) for row in rows]
            assert len(parts[0]) == (before if before == 74 else min(75, before + 2 + (before == 72)))
    assert [len(part) for part in chunks_of(tokenizer, "cat " * 160)] == [75, 75, 10]


def test_a_word_may_have_more_vectors_than_a_part_holds(model):
    tokenizer = replace(model.text.tokenizers["text_encoder"], words={}, cached_ids={})
    tokenizer.add_word("much", 80)
    assert [len(part) for part in chunks_of(tokenizer, "a much cat")] == [1, 75, 6]
    assert [token for part in chunks_of(tokenizer, "much") for token, _ in part] == list(tokenizer.words["much"])


@pytest.mark.parametrize(
    ("spelled", "plain"),
    [
        ("a (<zyzzo>)1.2, b", "a (zyzzo:1.2), b"),
        ("a <zyzzo>++ b", "a (zyzzo:1.21) b"),
        ("a <zyzzo>- b", "a (zyzzo:0.9) b"),
        ("a (<ZYZZO>)--, b", "a (ZYZZO:0.81), b"),
        ("(a <zyzzo> in snow)1.3", "(a zyzzo in snow:1.3)"),
        ("((<zyzzo>)1.2 b)1.1", "((zyzzo:1.2) b:1.1)"),
        ('"a <zyzzo>".5', "(a zyzzo:0.5)"),
        ("<zyzzo>-themed, <zyzzo>, 2", "zyzzo-themed, zyzzo, 2"),
        ("(<zyzzo>:1.2) (<zyzzo>) 1.3", "(zyzzo:1.2) (zyzzo) 1.3"),
        ("(<other>)1.2 (cat)1.2 cat++", "(<other>)1.2 (cat)1.2 cat++"),
    ],
)
def test_invokeais_emphasis_of_a_word_is_read(model, spelled, plain):
    """It is read as InvokeAI's own parser does. In a prompt without a word, it is plain text, with a warning."""
    assert plain_spelling(spelled, ["zyzzo"]) == plain
    tokenizer = model.text.tokenizers["text_encoder"]
    assert chunks_of(tokenizer, spelled) == chunks_of(tokenizer, plain)


def test_invokeais_emphasis_without_a_word_is_reported():
    for text, syntax in (("(cat)1.2", "(cat)1.2"), ("a cat++ here", "cat++"), ("a (red cat)-", "(red cat)-")):
        assert [(found, what) for found, what, _ in find_other_syntax(text)] == [
            (syntax, "does not change the emphasis")
        ]
    for text in ("(cat:1.2), 3", "well-known", "(a) 1.2", "a (b)-like", "--", "<x>"):
        assert "does not change the emphasis" not in [what for _, what, _ in find_other_syntax(text)]
