"""Assemble a model from files: a transformer, text encoders and a VAE, each recognised by its header.

Every file is looked at before anything is reported, so that swapped, wrong and missing ones are named together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neonym.errors import ModelError, Problem
from neonym.models.family import Configs, Family
from neonym.models.file_layout import FileLayout
from neonym.models.loading.encoder_configs import encoder_config
from neonym.models.loading.encoder_files import ENCODERS, PRUNED, EncoderFacts, VaeFacts
from neonym.models.loading.file_roles import FileFacts, facts_of, with_library_names
from neonym.models.loading.folder import Weights, read_config, weights_in
from neonym.models.loading.header import Header, Part
from neonym.models.loading.vae_config import separate_vae_config
from neonym.models.loading.weight_files import read_header
from neonym.models.signatures import origin_of

FLAGS = {  # sd-scripts' flags for text encoders -> kinds of encoders
    "clip_l": ("clip_l",), "clip_g": ("clip_g",), "t5xxl": ("t5xxl",), "qwen3": ("qwen3_06b", "qwen3_4b", "qwen3_8b"),
}  # fmt: skip
ANY_ENCODER = "text_encoders"  # the flag for files that only their headers tell apart
ARCHITECTURES = {kind: own.architecture for own in ENCODERS for kind in own.kinds.values()}


@dataclass(frozen=True)
class Given:
    """A file that the user gives for a text encoder."""

    flag: str  # without dashes
    path: str

    def __str__(self) -> str:
        return f"--{self.flag} {self.path}"


def given_files(settings: object) -> tuple[Given, ...]:
    """Return the files in settings that have these flags as attributes."""
    one = [(flag, getattr(settings, flag)) for flag in FLAGS]
    several = [(ANY_ENCODER, path) for path in getattr(settings, ANY_ENCODER)]
    return tuple(Given(flag, path) for flag, path in (*one, *several) if path)


@dataclass(frozen=True)
class Found:
    """A part in a file."""

    file: Path
    header: Header
    facts: EncoderFacts
    where: str  # the flag and the path, or the model


@dataclass(frozen=True)
class Assembled:
    """A record of what the files of a model have."""

    configs: Configs
    weights: dict[str, Weights]
    headers: dict[Path, Header]


def assemble(
    name: str, path: Path, header: Header, facts: FileFacts, family: Family, files: Sequence[Given], vae: Path | None,
    wrong: Sequence[Problem] = (),
) -> Assembled:  # fmt: skip
    """Return the configs that a Diffusers folder of the model would have, and the file of each part.

    `facts` are those of the transformer's file at `path`; `wrong` is why `vae` could not be found. Raises ModelError
    with all problems of all files.
    """
    layout, library = layout_of(family), with_library_names(header)
    wanted = {spec.name: spec.file_key for spec in family.encoders}  # component -> kind
    own = [Found(path, library, encoder, name) for encoder in facts.encoders.values()]
    encoders, problems = matched(wanted, own, files, family)
    problems += missing_encoders(wanted, encoders, family, name)
    problems += wrong or vae_problems(facts.vae, vae, layout, family, name)
    if problems:
        raise together(problems)
    part = Part(library, facts.prefix)
    try:
        configs = {
            "model_index": {"_class_name": family.pipeline},
            "origin": {"variant": facts.variant, **origin_of(facts.assumed)},
            "scheduler": layout.scheduler(facts.variant, chosen(facts)),
            family.denoiser.part: denoiser_config(part, facts, layout, path),
            **{more: inside.config_from(part) for more, inside in layout.more.items()},
            **{
                encoder: encoder_config(Part(own.header, own.facts.prefix), own.facts, wanted[encoder])
                for encoder, own in encoders.items()
            },
        }
        configs["vae"], vae_weights = vae_of(library, path, facts.vae, vae, family)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        what = f"looks like {family.label}, but weights are missing or have other shapes ({str(error).strip(chr(39))})"
        raise ModelError(what, name, "Is the file complete?") from error
    weights = {
        family.denoiser.part: Weights((path,), start=facts.prefix, original=facts.naming == "original"),
        **{more: Weights((path,), start=f"{facts.prefix}{inside.start}") for more, inside in layout.more.items()},
        **{encoder: Weights((own.file,), start=own.facts.prefix) for encoder, own in encoders.items()},
        "vae": vae_weights,
    }  # fmt: skip
    return Assembled(configs, weights, {path: header})


def layout_of(family: Family) -> FileLayout:
    """Return the layout of a family's files, which it must have."""
    assert family.files is not None
    return family.files


def chosen(facts: FileFacts) -> str:
    """Return which of several models of the same shapes a file is taken for; empty if there is only one."""
    return facts.assumed.choice.name if facts.assumed is not None else ""


def denoiser_config(part: Part, facts: FileFacts, layout: FileLayout, path: Path) -> dict[str, Any]:
    """Return the config of the transformer: from its shapes, or from the file beside it for diffusers' own names.

    Raises KeyError for missing weights, and ModelError if there is no such file.
    """
    if facts.naming == "original":
        return layout.config_from(part)
    config = path.with_name("config.json")
    if not config.is_file():
        what = "has the names of diffusers, but no config.json beside it"
        raise ModelError(what, str(path), "Name the whole Diffusers folder, or put its config.json beside the file")
    return read_config(config)


def matched(
    wanted: Mapping[str, str], own: Sequence[Found], files: Sequence[Given], family: Family
) -> tuple[dict[str, Found], list[Problem]]:
    """Return the file of each text encoder, and what is wrong with those given. They replace the model's own."""
    found: dict[str, Found] = {}
    problems: list[Problem] = []
    for given in files:
        try:
            encoder = read_given(given)
            part = place_of(encoder, given, wanted, found, family)
            found[part] = encoder
        except ModelError as error:
            problems += error.problems
    for encoder in own:
        free = [part for part in wanted if part not in found and fits(encoder.facts, wanted[part])]
        named = [part for part in free if wanted[part] in encoder.facts.prefix]  # which of two of unknown sizes
        if free:
            found[(named or free)[0]] = encoder
    return found, problems


def read_given(given: Given) -> Found:
    """Return the text encoder in a file. Raises ModelError if there is none."""
    path = Path(given.path)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "there is no such file"
        raise ModelError(what, str(given), "Name a file with the weights of a text encoder")
    header = with_library_names(read_header(path))
    facts = facts_of(header, path.name)
    if facts.role != "text_encoder":
        raise ModelError(f"is {described(facts)}, not a text encoder", str(given), fix_of(facts))
    return Found(path, header, next(iter(facts.encoders.values())), str(given))


def place_of(
    encoder: Found, given: Given, wanted: Mapping[str, str], found: Mapping[str, Found], family: Family
) -> str:
    """Return the component that a text encoder is for. Raises ModelError if there is none, or if it is taken."""
    kind, own = encoder.facts.kind or encoder.facts.architecture, FLAGS.get(given.flag)
    fitting = [part for part, other in wanted.items() if fits(encoder.facts, other)]
    if not fitting:
        reads = " and ".join(sorted(wanted.values()))
        raise ModelError(f"is {kind}, which {family.label} does not read", encoder.where, f"It reads {reads}")
    expected = [part for part in fitting if own is None or wanted[part] in own]
    if not expected:
        fix = f"Pass it with --{flag_of(wanted[fitting[0]])}"
        raise ModelError(f"is {kind}, not {' or '.join(own or ())}", encoder.where, fix)
    free = [part for part in expected if part not in found]
    if not free:
        raise ModelError(f"is {kind}, like {found[expected[0]].where}", encoder.where, "Leave one of them out")
    return free[0]


def fits(facts: EncoderFacts, kind: str) -> bool:
    """Return whether an encoder is of a kind; of one whose sizes are unknown, only the architecture counts."""
    return (
        PRUNED.get(facts.kind, facts.kind) == kind
        if facts.kind is not None
        else facts.architecture == ARCHITECTURES.get(kind)
    )


def flag_of(kind: str) -> str:
    """Return the flag for a kind of text encoder."""
    return next((flag for flag, kinds in FLAGS.items() if kind in kinds), ANY_ENCODER)


def missing_encoders(
    wanted: Mapping[str, str], found: Mapping[str, Found], family: Family, name: str
) -> Iterator[Problem]:
    """Yield a problem for each text encoder that no file has, though the family needs it."""
    optional = {spec.name for spec in family.encoders if spec.optional}
    for part, kind in wanted.items():
        if part not in found and part not in optional:
            flags = dict.fromkeys((f"--{flag_of(kind)}", f"--{ANY_ENCODER}"))
            fix = f"Pass its file with {', or with '.join(flags)}"
            yield Problem("error", f"needs the text encoder {kind}, which is not in the file", name, fix)


def vae_problems(
    own: VaeFacts | None, given: Path | None, layout: FileLayout, family: Family, name: str
) -> Iterator[Problem]:
    """Yield a problem if there is no VAE, or one of another kind."""
    if given is None:
        if own is None:
            fix = f"Pass its file with --vae, such as {layout.vae_example}"
            yield Problem("error", "needs a VAE, which is not in the file", name, fix)
        elif own.kind != layout.vae:
            yield Problem(
                "error",
                f"has the VAE {own.kind}, but {family.label} needs {layout.vae}",
                name,
                "Name another with --vae",
            )
        return
    try:
        yield from wrong_vae(given, layout, family)
    except ModelError as error:
        yield from error.problems


def wrong_vae(path: Path, layout: FileLayout, family: Family) -> Iterator[Problem]:
    """Yield a problem if the VAE that the user gives is not of the family's kind. Raises ModelError."""
    where = f"--vae {path}"
    if path.is_dir():
        kind = read_config(path / "config.json").get("_class_name", family.latents.module)
        if kind != family.latents.module:
            yield Problem("error", f"is {kind}, but {family.label} needs {family.latents.module}", where, "Check --vae")
        return
    facts = facts_of(read_header(path), path.name)
    if facts.vae is None:
        yield Problem("error", f"is {described(facts)}, not a VAE", where, fix_of(facts))
    elif facts.vae.kind != layout.vae:
        what = f"is the VAE {facts.vae.kind}, but {family.label} needs {layout.vae}"
        yield Problem("error", what, where, f"Use the VAE of {family.label}, such as {layout.vae_example}")


def vae_of(
    header: Header, path: Path, own: VaeFacts | None, given: Path | None, family: Family
) -> tuple[dict[str, Any], Weights]:
    """Return the config and the weights of the VAE: the given one, else that in the model's file at `path`."""
    if given is not None:
        return given_vae(given, family)
    assert own is not None
    return separate_vae_config(header, own, family.latents), Weights((path,), start=own.prefix)


def given_vae(path: Path, family: Family) -> tuple[dict[str, Any], Weights]:
    """Return the config and the weights of a separate VAE. Raises ModelError if it is not of the family's kind."""
    if problems := list(wrong_vae(path, layout_of(family), family)):
        raise together(problems)
    if path.is_dir():
        return read_config(path / "config.json"), weights_in(path, str(path))
    header = read_header(path)
    facts = facts_of(header, path.name).vae
    assert facts is not None
    return separate_vae_config(header, facts, family.latents), Weights((path,), start=facts.prefix)


def described(facts: FileFacts) -> str:
    """Return what a file is, as a noun."""
    label = facts.signature.label if facts.signature is not None else ""
    kinds: dict[str, str] = {
        "model": f"a whole {label} model", "transformer": f"a {label} transformer", "lora": "a LoRA",
        "text_encoder": f"the text encoder {facts.variant}", "vae": f"the VAE {facts.variant}",
    }  # fmt: skip
    return kinds.get(facts.role, "a file of another kind")


def fix_of(facts: FileFacts) -> str:
    """Return where a file belongs instead."""
    flags = {"vae": "vae", "transformer": "pretrained_model_name_or_path", "model": "pretrained_model_name_or_path"}
    if facts.role == "text_encoder":
        return f"Pass it with --{flag_of(facts.variant or '')}"
    return f"Pass it with --{flags[facts.role]}" if facts.role in flags else "Name the right file"


def together(problems: Sequence[Problem]) -> ModelError:
    """Return an error with all problems."""
    error = ModelError(problems[0].what, problems[0].where, problems[0].fix)
    error.problems = list(problems)
    return error
