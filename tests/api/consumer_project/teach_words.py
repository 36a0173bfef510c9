"""A fully typed program that uses every part of Neonym's Python API. It is type-checked, never run."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image
from typing_extensions import assert_type

import neonym


class Progress:
    """A listener with state, which stops the run once the loss is low enough."""

    def __init__(self, stop: neonym.Stop, enough: float):
        self.stop, self.enough = stop, enough
        self.saved: list[Path] = []

    def __call__(self, event: neonym.Event) -> None:
        if isinstance(event, neonym.Started):
            assert_type(event.steps, int)
        elif isinstance(event, neonym.Stepped):
            assert_type(event.step, int)
        elif isinstance(event, neonym.Evaluated) and event.loss < self.enough:
            self.stop.request()
        elif isinstance(event, neonym.Saved):
            self.saved.append(event.file)
        elif isinstance(event, neonym.Noted):
            assert_type(event.level, neonym.Level)
            print(event.level, event.text)


def report(event: neonym.Event) -> None:
    """Print an event: a listener can be a plain function, and can refuse a run."""
    if isinstance(event, neonym.Opened) and "cat" in event.words:
        raise neonym.RefuseRun("the model knows cats", "`cat`", "Choose another word")
    print(event.kind, event.facts())


def settings(folder: Path, word: str) -> neonym.RunConfig:
    try:
        return neonym.RunConfig.parse(train_data_dir=folder, token_string=word, learning_rate=1e-3)
    except neonym.ConfigError as error:
        assert_type(error.problems, list[neonym.Problem])
        sys.exit(error.exit_code)


def learn(run: neonym.RunConfig) -> list[Path]:
    problems = neonym.check(run)
    assert_type(problems, list[neonym.Problem])
    if any(problem.severity == "error" for problem in problems):
        return []
    stop = neonym.Stop()
    progress = Progress(stop, enough=0.05)
    listeners: list[neonym.Listener] = [progress, report]
    result = neonym.train(run, listeners=listeners, stop=stop)
    assert_type(result, neonym.Result)
    for verdict in result.verdicts:
        assert_type(verdict, neonym.Verdict)
        print(f"{verdict.token}: {verdict.word} ({verdict.reason}); {verdict.advice}")
        assert_type(verdict.encoders, dict[str, neonym.EncoderFigures])
    if result.was_finished:
        print("finished already")
    assert_type(result.files, list[Path])
    return result.files


def show(files: list[Path], prompt: str) -> list[Image.Image]:
    model = neonym.load_model("builtin:emoji", "cpu", torch.float32)
    assert_type(model, neonym.Model)
    words = [neonym.read_embedding(file) for file in files]
    size: neonym.Size = (64, 64)
    images = neonym.generate([prompt, prompt], words, model, seed=3, size=size, guidance=4.0)
    assert_type(images, list[Image.Image])
    return images + neonym.generate(prompt, words=["frimble=frimble.pt", Path("a.bin")])


def inspect_file(file: Path) -> dict[str, int]:
    facts = neonym.inspect(file, model="builtin:emoji")
    assert_type(facts, neonym.FileFacts)
    for word in facts.words:
        assert_type(word, neonym.WordFacts)
        for encoder, beside in word.neighbours.items():
            assert_type(beside, neonym.Neighbours)
            print(encoder, beside.norm_of_words, beside.nearest[0])
        for found in word.encoders.values():
            assert_type(found, neonym.EncoderFacts)
    return facts.words[0].widths


def rescaled(file: Path, factor: float) -> Path:
    word = neonym.read_embedding(file)
    vectors = {name: rows * factor for name, rows in word.vectors.items()}
    assert_type(vectors, dict[str, torch.Tensor])
    written = neonym.write_embedding(neonym.Embedding(word.token, vectors, word.metadata), file.with_suffix(".pt"))
    assert_type(neonym.convert(written, to="png", overwrite=True), list[Path])
    return written


def main() -> int:
    try:
        files = learn(settings(Path("images"), "frimble"))
        for image in show(files, "a frimble on a beach"):
            image.show()
        print(inspect_file(files[0]), rescaled(files[0], 0.9))
    except (neonym.DataError, neonym.ModelError, neonym.FormatError) as error:
        print(error.problem.what, error.problem.fix)
        return error.exit_code
    except neonym.NeonymError as error:
        print(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
