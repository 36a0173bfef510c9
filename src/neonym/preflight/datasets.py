"""Converts the tables of a dataset file into the folders, rules and buckets with which images are scanned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from neonym.config.data_settings import DatasetSettings
from neonym.config.dataset import DatasetConfig, SubsetSpec
from neonym.data.buckets import BucketRules
from neonym.data.caption_files import text_of
from neonym.data.captions import OBJECT_TEMPLATES, STYLE_TEMPLATES, by_tags, template_lines
from neonym.data.datasets import Dataset, Folder
from neonym.errors import DataError, Problem, some
from neonym.types import CaptionRules, ImageRules, Size


def make_datasets(
    config: DatasetConfig, settings: DatasetSettings, native_size: int, templates: tuple[str, ...]
) -> tuple[Dataset, ...]:
    """Return the datasets of a run. One without a resolution gets the model's `native_size`, in pixels."""
    tokens = [concept.token_string for concept in config.concepts]
    return tuple(
        Dataset(
            folders=tuple(as_folder(subset, settings, tokens, templates) for subset in spec.subsets),
            batch_size=spec.batch_size or settings.train_batch_size or 1,
            buckets=BucketRules(
                resolution=spec.resolution or (native_size, native_size),
                enabled=spec.enable_bucket,
                shortest=spec.min_bucket_reso,
                longest=spec.max_bucket_reso,
                steps=spec.bucket_reso_steps,
                no_upscale=spec.bucket_no_upscale,
            ),
            held_out_share=spec.validation_split,
            held_out_seed=spec.validation_seed or 0,
        )
        for spec in config.datasets
    )


def as_folder(spec: SubsetSpec, settings: DatasetSettings, tokens: Sequence[str], templates: tuple[str, ...]) -> Folder:
    """Return the folder of a subset, with its rules for captions and images.

    Templates do not replace the captions of regularisation images, because these images do not show the word.
    """
    concept = tokens.index(spec.concept) if spec.concept else 0
    captions = CaptionRules(
        word=tokens[concept],
        prefix=spec.caption_prefix,
        suffix=spec.caption_suffix,
        separator=spec.caption_separator,
        shuffle=spec.shuffle_caption,
        keep_tokens=spec.keep_tokens,
        keep_separator=spec.keep_tokens_separator,
        secondary_separator=spec.secondary_separator,
        wildcards=spec.enable_wildcard,
        dropout=spec.caption_dropout_rate,
        drop_every_n_epochs=spec.caption_dropout_every_n_epochs,
        tag_dropout=spec.caption_tag_dropout_rate,
        warmup_min=spec.token_warmup_min,
        warmup_steps=spec.token_warmup_step,
        weighted=settings.weighted_captions,
        templates=() if spec.is_reg else templates,
    )
    images = ImageRules(
        background=settings.background.rgb,
        interpolation=spec.resize_interpolation,
        flip=spec.flip_aug,
        random_crop=spec.random_crop,
        color=spec.color_aug,
        face_crop=spec.face_crop_aug_range,
        alpha_mask=spec.alpha_mask,
    )
    return Folder(
        path=Path(spec.image_dir) if spec.image_dir else None,
        concept=concept,
        repeats=spec.num_repeats,
        is_reg=spec.is_reg,
        caption_extension=spec.caption_extension,
        class_tokens=spec.class_tokens,
        metadata=Path(spec.metadata_file) if spec.metadata_file else None,
        masks=Path(spec.conditioning_data_dir) if spec.conditioning_data_dir else None,
        rules=captions,
        image_rules=images,
    )


def read_templates(settings: DatasetSettings) -> tuple[str, ...]:
    """Return the templates that are used instead of captions, if any.

    Raises DataError if the template file cannot be read, or if the word is in none of its lines.
    """
    if settings.template_file is not None:
        lines = template_lines(text_of(Path(settings.template_file), all_lines=True))
        if not any(mark in line for line in lines for mark in ("{}", "[name]")):
            what = "has no line with the word"
            raise DataError(what, settings.template_file, "Write [name] or {} in place of the word")
        return tuple(lines)
    if settings.use_object_template:
        return OBJECT_TEMPLATES
    return STYLE_TEMPLATES if settings.use_style_template else ()


def resolution_problems(datasets: Sequence[Dataset], multiple: int) -> Iterator[Problem]:
    """Yield an error for each resolution without buckets whose sides are not multiples of `multiple`."""
    wrong: set[Size] = {d.buckets.resolution for d in datasets if not d.buckets.enabled}
    for size in sorted(size for size in wrong if any(side % multiple for side in size)):
        what = f"{size} is not a multiple of {multiple}"
        yield Problem("error", what, "resolution", "Change it, or use --enable_bucket")


def separator_problems(datasets: Sequence[Dataset]) -> Iterator[Problem]:
    """Yield an error if captions are split into tags although the separator is empty."""
    places = [
        f"datasets[{d}] subsets[{s}]"
        for d, dataset in enumerate(datasets)
        for s, folder in enumerate(dataset.folders)
        if not folder.rules.separator and by_tags(folder.rules)
    ]
    if places:
        what = "`caption_separator` is empty, but captions are split into tags"
        fix = 'Write caption_separator = ",", or leave out the settings that shuffle, drop or keep tags'
        yield Problem("error", what, some(places), fix)
