"""Settings that have no effect in combination with others. No setting is accepted and silently ignored."""

from collections.abc import Iterable, Iterator

from neonym.config.data_settings import DatasetSettings
from neonym.config.learning_settings import ObjectiveSettings
from neonym.config.output_settings import LogSettings
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.errors import Problem

SETTINGS = {name: (section, field.default) for section, name, field in fields_of(RunConfig)}
BALANCE = "its noise levels are balanced by --timestep_sampling"
NO_NOISE = "it predicts neither noise nor v, but a direction"
DIFFUSION_ONLY = {  # settings of the loss and of the noise -> why they have no effect on a flow
    "zero_terminal_snr": "it always ends at pure noise",
    "min_snr_gamma": BALANCE,
    "debiased_estimation_loss": BALANCE,
    "scale_v_pred_loss_like_noise_pred": NO_NOISE,
    "v_pred_like_loss": NO_NOISE,
}
FLOW_ONLY = (  # those that have no effect on a diffusion model
    "timestep_sampling", "discrete_flow_shift", "sigmoid_scale", "logit_mean", "logit_std", "mode_scale",
    "weighting_scheme", "model_prediction_type", "guidance_scale",
)  # fmt: skip
SIGMOIDS = ("sigmoid", "shift", "flux_shift", "flux2_shift")
METADATA = tuple(name for section, name, _ in fields_of(RunConfig) if section == "metadata")


def tracker_kinds(log: LogSettings) -> list[str]:
    """Return the names of the trackers of a run. A folder is enough to choose TensorBoard."""
    if log.log_with == "all":
        return ["tensorboard", "wandb"]
    return [log.log_with] if log.log_with else ["tensorboard"] * (log.logging_dir is not None)


def no_effect_warnings(run: RunConfig) -> Iterator[Problem]:
    """Yield a warning for each setting that was changed but has no effect without another one."""
    for names, works, needed in setting_conditions(run):
        for name in () if works else names:
            section, default = SETTINGS[name]
            if getattr(getattr(run, section), name) not in (default, None, "", 0):
                yield Problem("warning", f"has no effect {needed}", f"--{name}")


def diffusion_warnings(objective: ObjectiveSettings) -> Iterator[Problem]:
    """Yield a warning for each setting that was changed but has no effect on a diffusion model."""
    for name in changed(objective, FLOW_ONLY):
        fix = "To draw timesteps at random, use --timestep_draws=uniform" if name == "timestep_sampling" else ""
        yield Problem("warning", "has no effect on a diffusion model: it is for flows", f"--{name}", fix)


def flow_warnings(objective: ObjectiveSettings, sampling: str, reads_guidance: bool) -> Iterator[Problem]:
    """Yield a warning for each setting that was changed but has no effect on a flow.

    `sampling` is the distribution of sigma, and `reads_guidance` says whether the model reads a guidance scale.
    """
    for name in changed(objective, DIFFUSION_ONLY):
        yield Problem("warning", f"has no effect on a flow: {DIFFUSION_ONLY[name]}", f"--{name}", "Leave it out")
    for names, works, needed in flow_conditions(objective, sampling, reads_guidance):
        for name in () if works else changed(objective, names):
            yield Problem("warning", f"has no effect {needed}", f"--{name}")


def changed(objective: ObjectiveSettings, names: Iterable[str]) -> list[str]:
    """Return those of the settings `names` that were changed and are not switched off."""
    return [name for name in names if getattr(objective, name) not in (SETTINGS[name][1], None, False)]


def flow_conditions(
    objective: ObjectiveSettings, sampling: str, reads_guidance: bool
) -> list[tuple[tuple[str, ...], bool, str]]:
    """Return rows as `setting_conditions` does, for a flow whose sigma is drawn by `sampling`."""
    scheme = objective.weighting_scheme
    density, scaled = scheme in ("logit_normal", "mode"), objective.model_prediction_type == "sigma_scaled"
    return [
        (("discrete_flow_shift",), sampling in ("sigma", "shift", "logit_normal"),
         f"on --timestep_sampling={sampling}, whose shift is fixed or follows from the size of images"),
        (("sigmoid_scale",), sampling in SIGMOIDS, f"on --timestep_sampling={sampling}"),
        (("logit_mean", "logit_std"),
         sampling == "logit_normal" or (sampling == "sigma" and scheme == "logit_normal"),
         "without --timestep_sampling=logit_normal, or sigma with --weighting_scheme=logit_normal"),
        (("mode_scale",), sampling == "sigma" and scheme == "mode",
         "without --timestep_sampling=sigma and --weighting_scheme=mode"),
        (("weighting_scheme",), sampling == "sigma" if density else scaled or scheme == "uniform",
         "without --timestep_sampling=sigma" if density else "without --model_prediction_type=sigma_scaled"),
        (("model_prediction_type",), objective.model_prediction_type != "additive",
         "as additive: the noised latents are added to both sides of the loss, which is then that of raw"),
        (("guidance_scale",), reads_guidance, "on a model that reads no guidance scale"),
    ]  # fmt: skip


def takes_tags(data: DatasetSettings) -> bool:
    """Return whether captions are split into tags that are shuffled, dropped or added later (token warm-up)."""
    return data.shuffle_caption or data.caption_tag_dropout_rate > 0 or data.token_warmup_step > 0


def uses_separator(data: DatasetSettings) -> bool:
    """Return whether the separator has an effect even if tags do not change, because it joins parts of a caption."""
    return bool(data.keep_tokens_separator or data.secondary_separator or data.in_json)


def setting_conditions(run: RunConfig) -> list[tuple[tuple[str, ...], bool, str]]:
    """Return rows of settings, whether they have an effect in this run, and the words for why they have none."""
    data, objective, save, hub, log = run.dataset, run.objective, run.save, run.hub, run.log
    file, kinds = data.dataset_config is not None, tracker_kinds(log)  # a dataset file may need these values
    states = save.save_state or save.save_state_on_train_end
    epochs = bool(save.save_every_n_epochs or save.save_n_epoch_ratio)
    return [
        (("huber_schedule", "huber_c", "huber_scale"), objective.loss_type in ("huber", "smooth_l1"),
         "without --loss_type=huber or smooth_l1"),
        (("noise_offset_random_strength",), bool(objective.noise_offset), "without --noise_offset"),
        (("adaptive_noise_scale",), objective.noise_offset != 0, "with a --noise_offset of 0"),
        (("ip_noise_gamma_random_strength",), bool(objective.ip_noise_gamma), "without --ip_noise_gamma"),
        (("multires_noise_discount",), bool(objective.multires_noise_iterations),
         "without --multires_noise_iterations"),
        (("mask_normalize",), file or data.masked_loss or data.alpha_mask, "without --masked_loss or --alpha_mask"),
        (("prior_loss_weight",), file or data.reg_data_dir is not None, "without --reg_data_dir"),
        (("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale"), file or data.enable_bucket,
         "without --enable_bucket"),
        (("keep_tokens",), file or takes_tags(data),
         "without --shuffle_caption, --caption_tag_dropout_rate or --token_warmup_step"),
        (("caption_separator",), file or takes_tags(data) or uses_separator(data),
         "without --shuffle_caption or another setting that splits or joins tags"),
        (("caption_extension",), file or data.in_json is None, "with --in_json, whose captions are used"),
        (("token_warmup_min",), file or data.token_warmup_step > 0, "without --token_warmup_step"),
        (("max_train_steps",), run.optim.max_train_epochs is None, "with --max_train_epochs"),
        (("dynamo_backend",), run.compute.torch_compile, "without --torch_compile"),
        (("latent_cache_dir",), run.cache.cache_latents_to_disk, "without --cache_latents_to_disk"),
        (("save_every_n_epochs",), not save.save_n_epoch_ratio, "with --save_n_epoch_ratio"),
        (("save_last_n_steps",), save.save_every_n_steps is not None, "without --save_every_n_steps"),
        (("save_last_n_epochs",), epochs, "without --save_every_n_epochs"),
        (("save_last_n_steps_state",), save.save_state and save.save_every_n_steps is not None,
         "without --save_state and --save_every_n_steps"),
        (("save_last_n_epochs_state",), save.save_state and epochs, "without --save_state and --save_every_n_epochs"),
        (("sample_sampler",), run.sample.sample_prompts is not None, "without --sample_prompts"),
        (METADATA, save.save_model_as == "safetensors", f"on .{save.save_model_as} files"),
        (("log_prefix", "log_tracker_name", "log_tracker_config", "log_config"), bool(kinds),
         "without --logging_dir or --log_with"),
        (("wandb_run_name", "wandb_api_key"), "wandb" in kinds, "without --log_with=wandb"),
        (("huggingface_path_in_repo", "huggingface_repo_visibility", "async_upload", "save_state_to_huggingface"),
         hub.huggingface_repo_id is not None, "without --huggingface_repo_id"),
        (("save_state_to_huggingface",), states or hub.huggingface_repo_id is None, "without --save_state"),
        (("huggingface_token",), hub.huggingface_repo_id is not None or hub.resume_from_huggingface,
         "without --huggingface_repo_id"),
        (("early_stop_window", "early_stop_threshold"), run.eval.early_stop, "without --early_stop"),
        (("validation_seed",), file or run.eval.validation_split > 0, "without --validation_split"),
    ]  # fmt: skip
