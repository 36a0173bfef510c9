"""Find out from a model's configs which model it is and what does not fit it, without reading its weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from neonym.config.generate import GenerateSettings
from neonym.errors import Problem, UserError
from neonym.formats.fitting import OTHER_MODEL, doubts, misfit
from neonym.generation.request.axes import Words
from neonym.generation.request.jobs import LARGEST_SIDE, USUAL_STEPS, Job, NativeValues
from neonym.generation.request.lines import LETTERS
from neonym.generation.samplers import SAMPLERS, Process, check_process, check_pure_noise, split_spacing
from neonym.models.loading.identify import identify
from neonym.models.loading.recognise import source_notes
from neonym.models.loading.separate_files import given_files
from neonym.models.registry import families
from neonym.models.source import ModelSource
from neonym.models.tokenizers.loading import with_tokenizers
from neonym.types import Embedding

UNKNOWN_MODEL = NativeValues(512, 7.5)  # for a model that cannot be read
SIZE_OPTIONS = (  # size conditioning, by the names of settings and of jobs
    "original_width", "original_height", "original_width_negative", "original_height_negative", "crop_top", "crop_left",
)  # fmt: skip
UnreadOptions = tuple[tuple[str, ...], str]  # names of settings and of jobs, and why they have no effect
DEEPEST_FIXED = 2  # the --clip_skip of the layer that families with a fixed layer read


def recognised_model(settings: GenerateSettings) -> ModelSource:
    """Return the model, identified by its header or configs. Raises UserError, also if it contradicts the flags."""
    source = identify(
        resolve_model_name(settings),
        settings.vae,
        settings.v_parameterization or None,
        settings.offline,
        settings.variant,
        given_files(settings),
        settings.model_version,
    )
    source = with_tokenizers(source, settings.tokenizer)
    family = source.family
    for other in families():
        # a family may have a flag that only training has, or that no program has yet
        if other.flag and getattr(settings, other.flag, False) and other.name != family.name:
            raise UserError(f"the model is {family.label}, not {other.label}", f"--{other.flag}", "Remove the flag")
    if settings.v_parameterization and source.prediction_type != "v_prediction":
        predicted = "noise" if source.prediction_type == "epsilon" else "the velocity of a flow"
        what = f"the model predicts {predicted}, not v, according to {source.prediction_from}"
        raise UserError(what, "--v_parameterization", "Remove the flag")
    if settings.zero_terminal_snr and source.prediction_type == "epsilon":
        what = "a model that predicts noise cannot start at pure noise"
        raise UserError(what, "--zero_terminal_snr", "Remove the flag, or use a model that predicts v")
    return source


def resolve_model_name(settings: GenerateSettings) -> str:
    """Return the model's name or, for a pattern, the only file that matches. Raises UserError if it is not unique."""
    path = Path(settings.ckpt)
    if "*" not in path.name or path.exists():
        return settings.ckpt
    files = sorted(path.parent.glob(path.name))
    if len(files) != 1:
        raise UserError(
            f"the pattern matches {len(files)} files", f"--ckpt {settings.ckpt}", "It must match exactly one"
        )
    return str(files[0])


def native_values(source: ModelSource | None) -> NativeValues:
    """Return the native values of a model, or common ones for a model that cannot be read."""
    if source is None:
        return UNKNOWN_MODEL
    steps = source.facts.steps or USUAL_STEPS
    most = source.facts.largest_side or LARGEST_SIDE
    return NativeValues(source.native_size, source.guidance, source.latents.multiple, steps, most)


def sampler_process(source: ModelSource | None) -> Process:
    """Return the noising process of a model, or the usual one for a model that cannot be read."""
    return source.family.process if source else "diffusion"


def sampler_problems(
    samplers: Sequence[str], settings: GenerateSettings, source: ModelSource | None
) -> Iterator[Problem]:
    """Yield an error for each sampler, by its name in SAMPLERS, that cannot be used with a model and the settings."""
    process = sampler_process(source)
    zero_snr = settings.zero_terminal_snr or (source and source.configs["scheduler"].get("rescale_betas_zero_snr"))
    for sampler in dict.fromkeys(samplers):
        try:
            if source:
                check_process(sampler, process, source.family.label)
            if zero_snr and process == "diffusion" and split_spacing(sampler)[0] in SAMPLERS:
                check_pure_noise(sampler)
        except UserError as error:
            yield error.problem


def model_fit_problems(settings: GenerateSettings, source: ModelSource, words: Words) -> Iterator[Problem]:
    """Yield errors for words that do not fit the model, and warnings for settings that it does not read."""
    family = source.family
    for word, (file, embedding) in words.items():
        yield from embedding_misfits(word, file, embedding, source)
    yield from source_notes(source)
    if family.no_clip_skip and settings.clip_skip > 1:
        yield Problem("error", f"{family.no_clip_skip}, so no layer can be skipped", "--clip_skip", "Leave it out")
    elif settings.clip_skip > source.text_layers:
        what = f"{settings.clip_skip} is more than the text encoder's {source.text_layers} layers"
        yield Problem("error", what, "--clip_skip")
    elif family.fixed_text_layer and settings.clip_skip > DEEPEST_FIXED:
        yield Problem("warning", f"has no effect: {family.label} always reads the penultimate layer", "--clip_skip")
    if settings.zero_terminal_snr and family.process == "flow":
        yield Problem("warning", f"has no effect: {family.label} always starts at pure noise", "--zero_terminal_snr")
    if settings.skip_layer_guidance_scale and not source.facts.skipped_blocks:
        what = f"{source.name} ({family.label}) is not meant for it"
        yield Problem("error", what, "--skip_layer_guidance_scale", "Leave it out")
    for names, what in unread_options(source):
        if given := [name for name in names if getattr(settings, name)]:
            yield Problem("warning", what, ", ".join(f"--{name}" for name in given))


def embedding_misfits(word: str, file: Path, embedding: Embedding, source: ModelSource) -> Iterator[Problem]:
    """Yield an error if an embedding does not fit a model; if it does, warnings and notes."""
    if what := misfit(word, embedding, source.family, source.widths, source.name):
        yield Problem("error", what, str(file), OTHER_MODEL)
    else:
        yield from doubts(word, file, embedding, source.family)


def unread_options(source: ModelSource) -> list[UnreadOptions]:
    """Return the options of jobs that a model does not read, each group with a message."""
    found: list[UnreadOptions] = [] if source.family.reads_sizes else [(SIZE_OPTIONS, only_some_read_sizes())]
    if source.facts.embedded_guidance is None:
        what = f"has no effect: this model ({source.family.label}) reads no guidance scale as a number"
        found.append((("embedded_guidance",), what))
    return found


def unread_problems(job: Job, base: Job, unread: Sequence[UnreadOptions]) -> Iterator[Problem]:
    """Yield a warning for options in a line that the model does not read; `base` is the job of the settings."""
    for names, what in unread:
        changed = [name for name in names if getattr(job, name) != getattr(base, name)]
        if changed:
            flags = ", ".join(f"--{letter}" for letter, (name, _) in LETTERS.items() if name in changed)
            yield Problem("warning", f"{flags}: {what}", job.raw_prompt[:80])


def only_some_read_sizes() -> str:
    """Return a message that names the families with size conditioning."""
    labels = [family.label for family in families() if family.reads_sizes]
    return f"only {' and '.join(labels)} {'read' if len(labels) > 1 else 'reads'} the sizes of images"
