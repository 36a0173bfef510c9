"""Settings of what a run learns from: the model, the new word, and the images with their captions."""

from typing import Literal

from neonym.config.schema import Section, Unset, setting
from neonym.config.values import Colour, Range, Resolution

BUILTIN = "builtin:emoji"
Interpolation = Literal["lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area", "box"]


class ModelSettings(Section):
    """The settings of the model."""

    pretrained_model_name_or_path: str = setting(
        BUILTIN, "The model: a checkpoint file, a Diffusers folder, a hub ID (owner/name), or the built-in one."
    )
    vae: Unset = setting(None, "A VAE to use instead of the model's: a file, a Diffusers folder or a hub ID.")
    clip_l: Unset = setting(None, "The file of the text encoder CLIP-L, for a transformer in a file of its own.")
    clip_g: Unset = setting(None, "The file of the text encoder CLIP-G, likewise.")
    t5xxl: Unset = setting(None, "The file of the text encoder T5-XXL, likewise.")
    qwen3: Unset = setting(None, "The file of the text encoder Qwen3, likewise.")
    text_encoders: tuple[str, ...] = setting(
        (),
        "The files of text encoders, likewise, each recognised by what is in it, so that their order does not matter.",
    )
    tokenizer: Unset = setting(
        None,
        "A folder with tokenizers to use instead of the model's: a tokenizer.json, or folders as in a Diffusers folder.",
    )
    variant: Unset = setting(
        None, "The variant of the weights to use, such as fp16, where a Diffusers folder or a hub ID has several."
    )
    model_version: Unset = setting(
        None,
        "Which of several models of the same shapes it is, such as turbo, base, distilled or kontext, whatever its name and "
        "metadata say. Shapes tell neither Z-Image from its Turbo nor FLUX.1 dev from Kontext.",
    )
    offline: bool = setting(False, "Never use the network, not even for a hub ID.")
    v2: bool = setting(
        False,
        "State that the model is Stable Diffusion 2.x. It is recognised without this flag; a wrong flag is an error.",
    )
    sdxl: bool = setting(
        False,
        "State that the model is SDXL, as sdxl_train_textual_inversion.py does. It is recognised without this flag; "
        "a wrong flag is an error.",
    )
    v_parameterization: bool = setting(False, "State that the model predicts v, if its files do not record that.")
    max_token_length: Literal[75, 150, 225] = setting(75, "The largest number of text tokens in a caption.")
    tokenize_as: Literal["mix", "comfyui", "diffusers"] = setting(
        "mix",
        "Read captions as ComfyUI reads a prompt with embedding:NAME, as diffusers does, or each half of the time. It matters "
        "for language models with spaces in their tokens (Z-Image, FLUX.2, Anima), and for T5's padding (FLUX.1 dev, SD3).",
    )
    clip_skip: int = setting(1, "The text encoder layer to use, counted from the end (1: the last).", least=1)


class ConceptSettings(Section):
    """The settings of the new word, if a run has only one."""

    token_string: str | None = setting(None, "The new word, as it is written in captions and prompts.")
    init_word: str | None = setting(
        None, "The word or words whose vectors the new word starts from (default: picture)."
    )
    num_vectors_per_token: int | None = setting(
        None,
        "How many vectors the word has; each takes one token of a prompt (default: as many as the --weights file "
        "has, or else what the model suggests: 4 for Stable Diffusion, 1 for the built-in model).",
        least=1,
        most=225,
    )
    weights: str | None = setting(None, "An embedding file to start from instead of an init word.")
    train_encoders: tuple[str, ...] = setting(
        (),
        "The text encoders whose vectors are trained, by name (text_encoder, text_encoder_2) or by key in embedding files "
        "(clip_l, t5xxl). In the others, the word stands for its init word. Default: all that the model has.",
    )


class DatasetSettings(Section):
    """The settings of the images and captions."""

    dataset_config: str | None = setting(None, "A dataset file (TOML or JSON) as sd-scripts reads it.")
    train_data_dir: str | None = setting(None, "A folder of images, or of `N_name` folders, instead of a dataset file.")
    in_json: str | None = setting(None, "A metadata file (.json, .jsonl) for the images in train_data_dir.")
    reg_data_dir: str | None = setting(None, "A folder of `N_name` folders with regularisation images.")
    resolution: Resolution | None = setting(None, 'The training size, "S" or "W,H" (default: the model\'s own).')
    train_batch_size: int | None = setting(
        None, "The number of images per step and word (default: what the model suggests: 4).", least=1
    )
    dataset_repeats: int = setting(1, "How many times each image is used in an epoch.", least=1)
    caption_extension: str | None = setting(
        None,
        "The extension of caption files (default: .caption and, where class_tokens do not contain the word, .txt).",
    )
    caption_separator: str = setting(",", "The text between the tags of a caption.")
    caption_prefix: str | None = setting(None, "Text to put before every caption.")
    caption_suffix: str | None = setting(None, "Text to put after every caption.")
    shuffle_caption: bool = setting(False, "Shuffle the tags of a caption each time it is used.")
    keep_tokens: int = setting(0, "How many tags at the beginning of a caption are never shuffled.", least=0)
    keep_tokens_separator: str = setting(
        "", "A marker in captions. The tags before its first occurrence and after its second stay in place."
    )
    secondary_separator: str | None = setting(
        None, "Text that keeps tags together while they are shuffled; the normal separator replaces it afterwards."
    )
    enable_wildcard: bool = setting(
        False, "Each time a caption is used, choose one of {a|b|c} at random, and one of its lines if it has several."
    )
    caption_dropout_rate: float = setting(0.0, "The share of captions to reduce to the word alone.", least=0)
    caption_dropout_every_n_epochs: int = setting(0, "Reduce all captions to the word alone in every n-th epoch.")
    caption_tag_dropout_rate: float = setting(
        0.0, "The share of tags to drop. The tag with the word always stays.", least=0
    )
    token_warmup_min: int = setting(
        1, "How many tags a caption has at the first step, with token_warmup_step.", least=0
    )
    token_warmup_step: float = setting(
        0.0, "The number of steps until captions have all their tags (below 1: a share of the training).", least=0
    )
    use_object_template: bool = setting(
        False, "Instead of captions, train on ready-made sentences that use the word for an object."
    )
    use_style_template: bool = setting(
        False, "Instead of captions, train on ready-made sentences that use the word for a style."
    )
    template_file: str | None = setting(
        None,
        "Instead of captions, train on the lines of this file: [name] or {} stands for the word, [filewords] for the "
        "caption.",
    )
    weighted_captions: bool = setting(False, "Read (text:1.3), (text) and [text] in captions as emphasis.")
    flip_aug: bool = setting(False, "Mirror each image half of the time.")
    color_aug: bool = setting(False, "Change the hue or the brightness slightly, one time in three.")
    random_crop: bool = setting(False, "Crop images at a random position instead of at the centre.")
    face_crop_aug_range: Range | None = setting(
        None,
        'Zoom by a factor from "low,high" into the face whose place the file name records (name_x_y_width_height); not with '
        "buckets.",
    )
    resize_interpolation: Interpolation | None = setting(None, "How to resize images (default: lanczos).")
    alpha_mask: bool = setting(False, "Weight the loss by the opacity of the image's pixels.")
    masked_loss: bool = setting(
        False, "Weight the loss by the mask images of conditioning_data_dir (in the dataset file)."
    )
    background: Colour = setting(Colour.parse("white"), "The colour behind transparent pixels: a name or #rrggbb.")
    sdscripts_latents: bool = setting(
        False, "Read latents that sd-scripts cached beside the images (.npz), where they have the right shape."
    )
    broken_images: Literal["skip", "stop"] = setting(
        "stop",
        "What to do if images cannot be read: stop before the training, or skip them. Either way, they are listed.",
    )
    enable_bucket: bool = setting(
        False, "Train images in buckets of similar aspect ratio instead of cropping all of them to one shape."
    )
    min_bucket_reso: int = setting(256, "The shortest side of a bucket.", least=8)
    max_bucket_reso: int = setting(1024, "The longest side of a bucket.", least=8)
    bucket_reso_steps: int = setting(
        64, "The sides of buckets are multiples of this number, which must be a multiple of 8.", least=8
    )
    bucket_no_upscale: bool = setting(False, "Never enlarge an image.")
    prior_loss_weight: float = setting(1.0, "The weight of regularisation images in the loss.", least=0)
