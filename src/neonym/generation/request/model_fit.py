"""What a model's configs say of a run of generation: which model it is, and what does not fit it. No weight is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from neonym.config.generate import GenerateSettings
from neonym.errors import Problem, UserError
from neonym.generation.request.axes import Words
from neonym.generation.request.jobs import Job, Native
from neonym.generation.request.lines import LETTERS
from neonym.generation.samplers import SAMPLERS, Process, check_process, check_pure_noise, split_spacing
from neonym.models.loading.identify import identify
from neonym.models.loading.recognise import source_notes
from neonym.models.registry import families
from neonym.models.source import ModelSource
from neonym.types import Embedding

UNKNOWN = Native(512, 7.5)  # for a model that is not there
SIZE_OPTIONS = (  # size conditioning, by the names of settings and of jobs
    "original_width", "original_height", "original_width_negative", "original_height_negative", "crop_top", "crop_left",
)  # fmt: skip
DEEPEST_FIXED = 2  # --clip_skip up to the layer that families with a fixed one read


def recognised_model(settings: GenerateSettings) -> ModelSource:
    """Return the model, by its header or configs. Raises UserError, also if it is not what the flags say."""
    source = identify(
        model_name(settings), settings.vae, settings.v_parameterization or None, settings.offline, settings.variant
    )
    family = source.family
    for other in families():
        if other.flag and getattr(settings, other.flag) and other.name != family.name:
            raise UserError(f"the model is {family.label}, not {other.label}", f"--{other.flag}", "Leave the flag out")
    if settings.v_parameterization and source.prediction_type != "v_prediction":
        predicted = "noise" if source.prediction_type == "epsilon" else "the velocity of a flow"
        what = f"the model predicts {predicted}, not v, as {source.prediction_from} says"
        raise UserError(what, "--v_parameterization", "Leave the flag out")
    if settings.zero_terminal_snr and source.prediction_type == "epsilon":
        what = "a model that predicts noise cannot begin at pure noise"
        raise UserError(what, "--zero_terminal_snr", "Leave the flag out, or use a model that predicts v")
    return source


def model_name(settings: GenerateSettings) -> str:
    """Return the name of the model; of a pattern, the one file that it fits. Raises UserError."""
    path = Path(settings.ckpt)
    if "*" not in path.name or path.exists():
        return settings.ckpt
    files = sorted(path.parent.glob(path.name))
    if len(files) != 1:
        raise UserError(f"the pattern fits {len(files)} files", f"--ckpt {settings.ckpt}", "It should fit one")
    return str(files[0])


def native_of(source: ModelSource | None) -> Native:
    """Return what suits a model, and something usual for one that is not there."""
    return Native(source.native_size, source.guidance, source.latents.multiple) if source else UNKNOWN


def process_of(source: ModelSource | None) -> Process:
    """Return the noising process of a model, and the usual one for a model that is not there."""
    return source.family.process if source else "diffusion"


def sampler_problems(
    samplers: Sequence[str], settings: GenerateSettings, source: ModelSource | None
) -> Iterator[Problem]:
    """Yield what keeps samplers, by their names in SAMPLERS, from stepping through the noise levels of a model."""
    process = process_of(source)
    zero_snr = settings.zero_terminal_snr or (source and source.configs["scheduler"].get("rescale_betas_zero_snr"))
    for sampler in dict.fromkeys(samplers):
        try:
            if source:
                check_process(sampler, process, source.family.label)
            if zero_snr and process == "diffusion" and split_spacing(sampler)[0] in SAMPLERS:
                check_pure_noise(sampler)
        except UserError as error:
            yield error.problem


def model_problems(settings: GenerateSettings, source: ModelSource, words: Words) -> Iterator[Problem]:
    """Yield what does not fit the model: words, and settings that it does not read."""
    family = source.family
    for word, (file, embedding) in words.items():
        yield from misfits(word, file, embedding, source)
    yield from source_notes(source)
    if settings.clip_skip > source.text_layers:
        what = f"{settings.clip_skip} is more than the {source.text_layers} layers of the text encoder"
        yield Problem("error", what, "--clip_skip")
    elif family.fixed_text_layer and settings.clip_skip > DEEPEST_FIXED:
        yield Problem("warning", f"{family.label} always reads the last layer but one", "--clip_skip")
    if settings.zero_terminal_snr and family.process == "flow":
        yield Problem("warning", f"has no effect: {family.label} always begins at pure noise", "--zero_terminal_snr")
    sizes = [name for name in SIZE_OPTIONS if getattr(settings, name)]
    if sizes and not family.reads_sizes:
        yield Problem("warning", only_some_read_sizes(), ", ".join(f"--{name}" for name in sizes))


def misfits(word: str, file: Path, embedding: Embedding, source: ModelSource) -> Iterator[Problem]:
    """Yield what keeps an embedding from fitting a model."""
    fix = "Use the kind of model that it was learned with"
    for name, width in source.widths.items():
        rows = embedding.vectors.get(name)
        if rows is None:
            yield Problem("error", f"`{word}` has no vectors for {name}, which {source.name} has", str(file), fix)
        elif rows.shape[1] != width:
            what = f"`{word}` has vectors of {rows.shape[1]} numbers, the words of {source.name} have {width}"
            yield Problem("error", what, str(file), fix)
    for name in set(embedding.vectors) - set(source.encoders):
        what = f"`{word}` was learned for {name}, which {source.name} does not have"
        yield Problem("error", what, str(file), fix)


def size_problems(job: Job, base: Job) -> Iterator[Problem]:
    """Yield a warning for sizes that a line gives to a model that reads none; `base` is the job without a line."""
    changed = [name for name in SIZE_OPTIONS if getattr(job, name) != getattr(base, name)]
    if changed:
        flags = ", ".join(f"--{letter}" for letter, (name, _) in LETTERS.items() if name in changed)
        yield Problem("warning", f"{flags}: {only_some_read_sizes()}", job.raw_prompt[:80])


def only_some_read_sizes() -> str:
    """Return a phrase that names the families with size conditioning."""
    labels = [family.label for family in families() if family.reads_sizes]
    return f"only {' and '.join(labels)} {'read' if len(labels) > 1 else 'reads'} the sizes of images"
