"""What can be known to be wrong, doubtful or replaced before a weight is read."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING

from neonym.config.optimizers import optimizer_name
from neonym.config.rules import objective_problems, run_problems
from neonym.config.run import OptimSettings, RunConfig
from neonym.config.values import parse_count, schedule_name
from neonym.errors import ConfigError, Problem, nearest
from neonym.models.loading.recognise import source_notes
from neonym.models.registry import families
from neonym.models.source import ModelSource
from neonym.optim.optimizers import (
    averages,
    finds_rate,
    longest_step,
    make_optimizer,
    reach,
    sets_own_rate,
)
from neonym.optim.rates import TOO_SHORT, arguments, base_rate, rate_of, suiting_rate
from neonym.preflight.inputs import predicts_v
from neonym.preflight.milestones import Rhythm

if TYPE_CHECKING:
    from neonym.preflight.prepare import Prepared

PROBE_STEPS = 100  # of a schedule that is made before the length of the run is known


def optimizer_errors(run: RunConfig) -> list[Problem]:
    """The optimizer and the schedule are made once on the side, so that nothing of them can fail later."""
    optim = run.optim
    if any(p.severity == "error" for p in run_problems(run)):
        return []
    try:
        rate_of(optim, None, optim.max_train_steps or PROBE_STEPS)
        if optimizer_name(optim.optimizer_type) == "AdamW" and not arguments(optim):
            return []  # nothing that could go wrong
        from torch import ones, zeros
        from torch.nn import Parameter

        probe = Parameter(zeros(1, 4))
        probe.grad = ones(1, 4)  # not zeros: DAdaptSGD divides by the norm of the first one
        optimizer = make_optimizer([probe], optim.optimizer_type, base_rate(optim), arguments(optim))
    except ConfigError as error:
        return error.problems
    try:
        optimizer.step()
    except Exception as error:  # each class has errors of its own: LBFGS wants a closure, SparseAdam other gradients
        what = f"{optim.optimizer_type} cannot make a plain step ({error})"
        fix = "Choose another one, or other --optimizer_args"
        return [Problem("error", what, "--optimizer_type", fix)]
    return []


def learning_problems(ready: Prepared, source: ModelSource, rhythm: Rhythm) -> list[Problem]:
    """Rates that cannot learn, and settings that the optimizer does not use."""
    assert ready.config is not None
    optim, name = ready.run.optim, optimizer_name(ready.run.optim.optimizer_type)
    warmup = source.defaults.lr_warmup_steps.value
    own = sets_own_rate(name, arguments(optim))
    problems = own_schedule_problems(optim, name) if own else schedule_problems(optim, rhythm)
    if optim.ema_decay is not None and averages(name):
        what = f"{name} saves an average already: it has no effect"
        problems.append(Problem("warning", what, "--ema_decay", "Leave it out, or choose another optimizer"))
    for spec in ready.config.concepts:
        rate = base_rate(optim, spec)
        if finds_rate(name) and rate <= 0.1:
            what = f"{name} finds the learning rate itself: the one given is a factor, and {rate:g} stalls it"
            problems.append(Problem("warning", what, "--learning_rate", "Give --learning_rate=1"))
        longest = longest_step(name, arguments(optim), optim.max_grad_norm, min(source.widths.values()))
        if longest < math.inf:
            at_step = (lambda _, rate=rate: rate) if own else rate_of(optim, spec, rhythm.total, warmup)
            farthest = longest * reach(at_step, rhythm.first, rhythm.total)
            problems += reach_problems(farthest, rate, rhythm, source, steps_are_gradients=longest != 1)
    return list(dict.fromkeys(problems))


def own_schedule_problems(optim: OptimSettings, name: str) -> list[Problem]:
    """Of an optimizer that has a schedule of its own."""
    problems = []
    alike = schedule_name(optim.lr_scheduler) in ("constant", "adafactor") and not optim.lr_scheduler_type
    if {"lr_scheduler", "lr_scheduler_type"} & optim.model_fields_set and not alike:
        what = f"{name} has a schedule of its own: --lr_scheduler is not used"
        problems.append(Problem("warning", what, "--optimizer_type"))
    if isinstance(optim.learning_rate, str) or optim.lr_warmup_steps not in (None, "0"):
        what = f"{name} has a schedule of its own: stages and warm-up are not used"
        problems.append(Problem("warning", what, "--learning_rate, --lr_warmup_steps"))
    return problems


def schedule_problems(optim: OptimSettings, rhythm: Rhythm) -> list[Problem]:
    """A warm-up and a decay that are longer than the training."""
    falls = optim.lr_decay_steps if schedule_name(optim.lr_scheduler) == "warmup_stable_decay" else None
    rising, falling = (parse_count(text or "0", rhythm.total) for text in (optim.lr_warmup_steps, falls))
    if rising + falling <= rhythm.total and rising != rhythm.total:
        return []
    what = f"the learning rate rises for {rising} steps and falls for {falling}, but the training has {rhythm.total}"
    return [Problem("warning", what, "--lr_warmup_steps, --lr_decay_steps")]


def reach_problems(
    farthest: float, rate: float, rhythm: Rhythm, source: ModelSource, steps_are_gradients: bool
) -> list[Problem]:
    """Of a run that can carry a number of the word no farther than this."""
    if farthest >= TOO_SHORT * source.word_spread:
        return []
    steps = rhythm.total - rhythm.first
    what = (
        f"{steps} step{'s' * (steps != 1)} at learning rate {rate:g} can move a number of the word by no more than "
        f"{farthest:.2g}, {100 * farthest / source.word_spread:.0f} % of the spread of this model's words "
        f"({source.word_spread:.2g}): the word can hardly be learned"
    )
    if steps_are_gradients:
        fix = "Its steps are as long as gradients, which are small: give a far larger rate, or use AdamW"
        return [Problem("warning", what, "--optimizer_type, --learning_rate", fix)]
    suits, enough = suiting_rate(source), source.defaults.max_train_steps.value
    if rate >= suits:
        return [Problem("warning", what, "--max_train_steps", f"{enough} steps are the default for this model")]
    fix = f"Values around {suits:g} suit this model, in {enough} steps"
    return [Problem("warning", what, "--learning_rate", fix)]


def setting_problems(run: RunConfig, source: ModelSource) -> list[Problem]:
    """Settings that contradict the model, the disk or each other."""
    problems = []
    if run.model.clip_skip > source.text_layers:
        what = f"the model has {source.text_layers} text layers, not {run.model.clip_skip}"
        problems.append(Problem("error", what, "--clip_skip"))
    unknown = [name for name in run.concept.train_encoders if name not in source.encoders]
    if unknown:
        what = f"the model has no {', '.join(unknown)}"
        problems.append(Problem("error", what, "--train_encoders", f"It has {', '.join(source.encoders)}"))
    if source.family.clip_skip_note and run.model.clip_skip > 1:
        what, fix = source.family.clip_skip_note
        problems.append(Problem("warning", what, "--clip_skip", fix))
    if run.compute.torch_compile:
        problems += compile_problems(run.compute.dynamo_backend)
    problems += flag_problems(run, source)
    if predicts_v(run.model) is None:  # else it was told at the first look
        problems += objective_problems(run.objective, source.prediction_type == "v_prediction")
    return problems


def flag_problems(run: RunConfig, source: ModelSource) -> list[Problem]:
    """What the user says of the model, against what it is."""
    problems, model = [], run.model
    for flag, family in ((family.flag, family) for family in families() if family.flag):
        if getattr(model, flag, False) and source.family.name != family.name:
            what = f"{source.name} is not a model of {family.label} but of {source.family.label}"
            instead = " (sdxl_train_textual_inversion.py gives it; train_textual_inversion.py does not)"
            fix = f"Leave it out{instead if flag == 'sdxl' else ''}: models are recognised"
            problems.append(Problem("error", what, f"--{flag}", fix))
    if model.v_parameterization and source.prediction_type != "v_prediction":
        what = f"the model predicts noise ({source.prediction_type}): so says {source.prediction_from}"
        problems.append(Problem("error", what, "--v_parameterization", "Leave it out: models are recognised"))
    return [*problems, *source_notes(source)]


def compile_problems(backend: str) -> list[Problem]:
    """What torch.compile would fail for at the first step."""
    from torch._dynamo import list_backends

    known = [*list_backends(exclude_tags=("debug",)), "eager", "aot_eager"]
    if backend not in known:
        fix = nearest(backend, known) or f"Known: {', '.join(sorted(known))}"
        return [Problem("error", f"`{backend}` is not known", "--dynamo_backend", fix)]
    if backend == "inductor" and not any(map(shutil.which, ("g++", "c++", "clang++", "cl"))):
        fix = "Install one, or use --dynamo_backend=aot_eager"
        return [Problem("error", "needs a C++ compiler, and there is none", "--torch_compile", fix)]
    return []


def setting_notes(run: RunConfig) -> list[Problem]:
    """What a user should know about the settings: replaced, without effect, hopeless."""
    notes = []
    if run.model.pretrained_model_name_or_path == "builtin:emoji":
        notes.append(
            Problem(
                "note",
                "the small built-in model is used (builtin:emoji); name yours with --pretrained_model_name_or_path",
            )
        )
    plain = optimizer_name(run.optim.optimizer_type)
    if plain.lower() != (run.optim.optimizer_type or plain).lower():
        what = f"{run.optim.optimizer_type} -> {plain}: the optimizer state is a few kilobytes, so there is nothing to save"
        notes.append(Problem("note", what))
    if run.compute.xformers or run.compute.mem_eff_attn:
        notes.append(Problem("note", "xformers / mem_eff_attn -> PyTorch's own attention, which gives the same result"))
    if run.save.save_precision != "float":
        exact = (
            "an eighth bit of each number" if run.save.save_precision == "bf16" else "an eleventh bit of each number"
        )
        what = f"the file keeps no more than {exact}, and stable-diffusion.cpp reads float only"
        notes.append(
            Problem("warning", what, f"--save_precision={run.save.save_precision}", "The file is small: leave it out")
        )
    if run.cache.cache_latents:
        notes.append(Problem("note", "cache_latents: pictures are always encoded once, before training"))
    return notes
