"""Settings of how a run learns: the optimizer, the loss, and evaluation with early stopping."""

from typing import Any, Literal

from neonym.config.schema import Section, setting
from neonym.config.values import Arguments, Rate, RatesByEncoder, Steps, schedule_name

LONGEST = 10_000_000  # steps of a training
FlowSampling = Literal[
    "logit_normal", "sigma", "uniform", "sigmoid", "shift", "flux_shift", "flux2_shift", "inverted_parabola"
]


class OptimSettings(Section):
    """The settings of the optimizer, the learning rate and the length of the training."""

    optimizer_type: str = setting("AdamW", "The optimizer: one of sd-scripts' names (in any case), or a dotted path.")
    optimizer_args: Arguments = setting(
        Arguments(), 'Arguments of the optimizer: "name=value", with the value as in Python.'
    )
    learning_rate: Rate | None = setting(
        None,
        "The learning rate of the vectors (default: what the model suggests: 4e-3 for Stable Diffusion 1.x and 2.x, "
        "2e-3 for SDXL, 0.02 for the built-in model; 1 for DAdapt* and Prodigy, which find the rate themselves), or stages as "
        'AUTOMATIC1111 writes them: "0.005:100, 1e-3:1000, 5e-4".',
        above=0,
    )
    encoder_learning_rates: RatesByEncoder = setting(
        RatesByEncoder(),
        'Learning rates of single text encoders: "name=rate", by name (text_encoder_2) or by key in embedding files '
        "(t5xxl). The first encoder that is trained has the learning_rate; by default, the others have it in proportion "
        "to the spreads of their vocabularies, or all have the same where that is published, as for SDXL.",
    )
    lr_scheduler: str = setting("cosine", "How the learning rate changes over the steps: one of sd-scripts' names.")
    lr_scheduler_type: str = setting(
        "", "A class of torch.optim.lr_scheduler, or a dotted path, instead of lr_scheduler."
    )
    lr_scheduler_args: Arguments = setting(Arguments(), 'Arguments of the schedule: "name=value".')
    lr_warmup_steps: Steps | None = setting(
        None,
        'Steps of linear warm-up, or a share ("0.1", "10%") (default: what the model suggests: 10 % of the '
        "run for Stable Diffusion; at least 30, at most 30 % of the run; none for `constant`).",
    )
    lr_decay_steps: Steps | None = setting(None, "The decay of `warmup_stable_decay`: steps, or a share.")
    lr_scheduler_num_cycles: int = setting(1, "How many cycles `cosine_with_restarts` has.", least=1)
    lr_scheduler_power: float = setting(1.0, "The exponent of `polynomial`.", above=0)
    lr_scheduler_timescale: int | None = setting(
        None, "The time scale of `inverse_sqrt` (default: the warm-up).", least=1
    )
    lr_scheduler_min_lr_ratio: float | None = setting(
        None,
        "The lowest rate of `cosine_with_min_lr` and `warmup_stable_decay`, as a share of the learning rate.",
        least=0,
        most=1,
    )
    max_train_steps: int | None = setting(
        None,
        "The length of the training in optimizer steps (default: what the model suggests: 2000 for Stable Diffusion, "
        "100 for the built-in model).",
        least=1,
        most=LONGEST,
    )
    max_train_epochs: int | None = setting(
        None, "The length of the training in epochs; it takes precedence over the steps.", least=1, most=LONGEST
    )
    max_train_time: float | None = setting(
        None, "End the training after this many minutes, as if that were its last step.", above=0
    )
    initial_step: int | None = setting(None, "Start at this step and skip those before it.", least=0)
    initial_epoch: int | None = setting(None, "Start at this epoch (1: the first).", least=1)
    gradient_accumulation_steps: int = setting(
        1, "The number of micro-batches per step: a step uses this many times the batch size.", least=1
    )
    weight_decay: float | None = setting(
        None,
        "The weight decay (default: the optimizer's own, but none for AdamW, because it shrinks a word whether or not "
        "the word learns).",
        least=0,
    )
    max_grad_norm: float = setting(1.0, "Clip the gradient of a word's vectors to this norm (0: no clipping).", least=0)
    ema_decay: float | None = setting(
        None, "Save the moving average of the vectors with this decay, such as 0.99.", above=0
    )
    seed: int = setting(0, "The seed of all random choices.", least=0)

    @property
    def schedule(self) -> str:
        """The name of the schedule as it is listed, in lower case."""
        return schedule_name(self.lr_scheduler)

    @property
    def optimizer_arguments(self) -> dict[str, Any]:
        """The arguments of the optimizer by name, including the weight decay if it is given."""
        decay = {} if self.weight_decay is None else {"weight_decay": self.weight_decay}
        return {**decay, **self.optimizer_args.values}


class ObjectiveSettings(Section):
    """The settings of the loss and of the noise."""

    loss_type: Literal["l2", "l1", "huber", "smooth_l1"] = setting(
        "l2", "The distance between a prediction and its target."
    )
    huber_schedule: Literal["constant", "exponential", "snr"] = setting(
        "snr", "How the threshold of the huber losses depends on the noise level."
    )
    huber_c: float = setting(0.1, "The threshold of the huber losses.", above=0)
    huber_scale: float = setting(1.0, "A factor for the threshold, with every schedule.", above=0)
    min_snr_gamma: float | None = setting(None, "Use Min-SNR loss weights with this gamma (5 is common).", least=0)
    scale_v_pred_loss_like_noise_pred: bool = setting(
        False, "Weight the loss of a v-prediction model as if it predicted noise."
    )
    v_pred_like_loss: float | None = setting(None, "Add this share of the loss, weighted as for v-prediction.", least=0)
    debiased_estimation_loss: bool = setting(
        False, "Weight the loss by 1 / sqrt(SNR), or by 1 / (SNR + 1) for v-prediction."
    )
    noise_offset: float | None = setting(
        None, "Add noise of this strength that is constant over each channel.", least=0
    )
    noise_offset_random_strength: bool = setting(False, "Draw the strength for each sample between 0 and noise_offset.")
    adaptive_noise_scale: float | None = setting(
        None, "Add the mean of each channel, times this number, to noise_offset."
    )
    multires_noise_iterations: int | None = setting(None, "The number of levels of multi-resolution noise.", least=0)
    multires_noise_discount: float = setting(
        0.3, "The strength of each level as a share of the previous level.", above=0
    )
    ip_noise_gamma: float | None = setting(
        None, "Input perturbation: the strength of extra noise that the model does not have to predict.", least=0
    )
    ip_noise_gamma_random_strength: bool = setting(
        False, "Draw the strength for each sample between 0 and ip_noise_gamma."
    )
    mask_normalize: bool = setting(
        False, "Divide a masked loss by the area of its mask, so that small masks count as much as large ones."
    )
    min_timestep: int | None = setting(None, "The lowest timestep trained on (default: 0).", least=0)
    max_timestep: int | None = setting(None, "Train on timesteps below this one (default: 1000).", least=1)
    zero_terminal_snr: bool = setting(False, "Rescale the noise schedule so that the last step is pure noise.")
    timestep_draws: Literal["uniform", "stratified"] = setting(
        "stratified",
        "Spread timesteps evenly over the samples of a step and from step to step, or draw them at random.",
    )
    timestep_sampling: FlowSampling | None = setting(
        None,
        "Flows: the distribution of sigma, the share of noise (default: what the model suggests). `sigma`: the 1000 "
        "sigmas of the scheduler, shifted by discrete_flow_shift, with the density of weighting_scheme; `uniform`; "
        "`sigmoid`: sigmoid(sigmoid_scale x n), n normal; `shift`: that, shifted by discrete_flow_shift; `flux_shift` "
        "and `flux2_shift`: that, shifted by the size of the image as for FLUX.1; `logit_normal`: sigmoid(logit_mean + "
        "logit_std x n), shifted as suits the model; `inverted_parabola`: OneTrainer's for Chroma.",
    )
    discrete_flow_shift: float | None = setting(
        None,
        "Flows: shift sigma by this factor, towards noise if it is above 1 (default: what the model suggests).",
        above=0,
    )
    sigmoid_scale: float = setting(1.0, "Flows: the scale of `sigmoid` and of the shifts of it.", above=0)
    logit_mean: float = setting(
        0.0,
        "Flows: the mean of `logit_normal`, as timestep_sampling (above 0: more noise) or as weighting_scheme of `sigma` "
        "(above 0: less noise, as in sd-scripts).",
    )
    logit_std: float = setting(1.0, "Flows: the standard deviation of `logit_normal`.", above=0)
    mode_scale: float = setting(1.29, "Flows: the scale of the weighting_scheme `mode`.", least=-1, most=1.75)
    weighting_scheme: Literal["none", "uniform", "logit_normal", "mode", "sigma_sqrt", "cosmap"] = setting(
        "none",
        "Flows: `logit_normal` and `mode` are densities of the timesteps of `sigma`; `sigma_sqrt` and `cosmap` are loss "
        "weights of `sigma_scaled` predictions.",
    )
    model_prediction_type: Literal["raw", "additive", "sigma_scaled"] = setting(
        "raw",
        "Flows: the loss compares the predicted velocity with noise - latents (`raw`), or the latents that follow from "
        "it with the latents (`sigma_scaled`). `additive` adds the noised latents to both sides, which is the same as "
        "`raw`.",
    )
    guidance_scale: float = setting(
        1.0, "Flows that read a guidance scale, such as FLUX.1 dev: its value in training.", least=0
    )


class EvalSettings(Section):
    """The settings of evaluation and early stopping."""

    eval_every_n_steps: int = setting(
        0,
        "Measure the evaluation loss every N steps. 0 means at the start and the end or, with early_stop, what the "
        "model suggests (50 for Stable Diffusion, 5 for the built-in model).",
        least=0,
    )
    early_stop: bool = setting(
        False, "End the training when the evaluation loss stops changing, and keep the vectors with the lowest loss."
    )
    early_stop_window: int = setting(
        5, "The number of recent evaluations that must agree to end the training.", least=2
    )
    early_stop_threshold: float = setting(
        0.02, "The largest variance of these evaluations, as a share of the variance of all evaluations.", above=0
    )
    eval_samples: int = setting(
        64, "The number of (image, noise, timestep) triples in an evaluation.", least=8, most=100_000
    )
    validation_split: float = setting(0.0, "The share of the images to hold out of training, for evaluation.", least=0)
    validation_seed: int = setting(0, "The seed that chooses which images are held out.", least=0)
