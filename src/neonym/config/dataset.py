"""The schema of a dataset file, table by table: `[general]`, `[[concepts]]`, `[[datasets]]`, `[[datasets.subsets]]`.

Keys and types are those of sd-scripts, except that Neonym also accepts a whole number where a fraction is expected, a
text that holds a number or a boolean, and a number where a text that is not a file name is expected.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator

from neonym.config.data_settings import Interpolation
from neonym.config.schema import Section
from neonym.config.values import Resolution, from_text
from neonym.io.json import is_text

Style = Literal["dreambooth", "finetuning", "controlnet"]


def _whole(value: Any) -> Any:
    """Return a whole number. As in sd-scripts, true and false count as numbers, but 4.0 does not. Raises ValueError."""
    value = from_text(value, (int,)) if isinstance(value, str) else value
    if not isinstance(value, int):
        raise ValueError("a whole number is expected")
    return int(value)


def _number(value: Any) -> Any:
    """Return a number, whole or not. Raises ValueError for any other value."""
    value = from_text(value, (float,)) if isinstance(value, str) else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("a number is expected")
    return value


def _yes_or_no(value: Any) -> Any:
    """Return a boolean. Raises ValueError for any other value."""
    value = from_text(value, (bool,)) if isinstance(value, str) else value
    if not isinstance(value, bool):
        raise ValueError("true or false is expected")
    return value


def _text(value: Any) -> Any:
    """Return a text; a number is converted to one. Raises ValueError for any other value."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("a text is expected")
    return str(value)


def _name(value: Any) -> Any:
    """Return a path that a file can have and UTF-8 text can hold. Raises ValueError for any other value."""
    if not isinstance(value, str) or not value:
        raise ValueError("a name is expected")
    if "\0" in value:
        raise ValueError("a name cannot contain the character NUL")
    if not is_text(value):
        raise ValueError("a name must be UTF-8 text: rename the file or folder")
    return value


def _ending(value: Any) -> Any:
    """Return the ending of a file name, such as `.txt`. Raises ValueError for any other value."""
    if "/" in _name(value):
        raise ValueError('a file extension such as ".txt" is expected, without a folder')
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number)]
YesOrNo = Annotated[bool, BeforeValidator(_yes_or_no)]
Text = Annotated[str, BeforeValidator(_text)]
PathText = Annotated[str, BeforeValidator(_name)]  # the path of a file or folder
Ending = Annotated[str, BeforeValidator(_ending)]
Share = Annotated[Number, Field(ge=0, le=1)]


DEFAULT_INIT_WORD = "picture"
LARGEST_SIDE = 8192  # pixels per side of a training image; a larger number is a typing error


class ConceptSpec(Section):
    """The settings of one new word. A run learns a word for each row of `[[concepts]]`.

    A row may also have the settings that `config/own_settings.py` lists, which then hold for this word.
    """

    token_string: str
    init_word: str | None = None
    num_vectors_per_token: int | None = Field(None, ge=1)  # None: the default of the model
    learning_rate: float | None = Field(None, gt=0)
    weights: str | None = None
    _settings: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the run that are others for this word, {name: value}."""
        return self._settings

    def with_settings(self, settings: Mapping[str, Any]) -> "ConceptSpec":
        """Return a copy with these settings of its own."""
        found = self.model_copy()
        found._settings = dict(settings)
        return found

    @property
    def vectors(self) -> int:
        """The number of vectors of the word. Raises ValueError before the defaults of the model are filled in."""
        if self.num_vectors_per_token is None:
            raise ValueError(f"the number of vectors of `{self.token_string}` is not known yet: the model decides it")
        return self.num_vectors_per_token


class SubsetValues(Section):
    """The values that may be set in `[general]`, in a dataset and in a subset."""

    num_repeats: Whole = 1
    shuffle_caption: YesOrNo = False
    caption_separator: Text = ","
    keep_tokens: Whole = 0
    keep_tokens_separator: Text = ""
    secondary_separator: Text | None = None
    enable_wildcard: YesOrNo = False
    caption_prefix: Text | None = None
    caption_suffix: Text | None = None
    caption_dropout_rate: Share = 0.0
    caption_dropout_every_n_epochs: Whole = 0
    caption_tag_dropout_rate: Share = 0.0
    token_warmup_min: Whole = 1
    token_warmup_step: Annotated[Number, Field(ge=0)] = 0.0
    flip_aug: YesOrNo = False
    color_aug: YesOrNo = False
    random_crop: YesOrNo = False
    face_crop_aug_range: tuple[Number, Number] | None = None
    resize_interpolation: Interpolation | None = None
    custom_attributes: dict[str, Any] | None = None

    @field_validator("face_crop_aug_range", mode="before")
    @classmethod
    def _low_and_high(cls, value: Any) -> Any:
        """Return a pair of positive numbers, the smaller one first. Raises ValueError for any other value."""
        if value is None:
            return None
        pair = value if isinstance(value, (list, tuple)) else ()
        if len(pair) != 2 or not all(type(number) in (int, float) for number in pair):
            raise ValueError("two numbers are expected: [low, high]")
        low, high = pair
        if not 0 < low <= high:
            raise ValueError("the first number must be above 0 and no larger than the second")
        return low, high


class FolderValues(Section):
    """The values that may be set beside `SubsetValues` where images are found by folder."""

    caption_extension: Ending | None = None
    class_tokens: Text | None = None
    cache_info: YesOrNo = False


class DatasetValues(Section):
    """The values that may be set in `[general]` and in a dataset."""

    batch_size: Annotated[Whole, Field(ge=1)] | None = None  # None: the default of the model
    resolution: tuple[int, int] | None = None
    enable_bucket: YesOrNo = False
    min_bucket_reso: Annotated[Whole, Field(ge=8)] = 256
    max_bucket_reso: Annotated[Whole, Field(ge=8)] = 1024
    bucket_reso_steps: Annotated[Whole, Field(ge=8, multiple_of=8)] = 64
    bucket_no_upscale: YesOrNo = False
    network_multiplier: Number = 1.0
    validation_split: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    validation_seed: Whole | None = None

    @field_validator("resolution", mode="before")
    @classmethod
    def _one_number_or_two(cls, value: Any) -> Any:
        """Return (width, height) for a number, a pair or a text. Raises ValueError for any other value."""
        if isinstance(value, str):
            with suppress(ValueError):
                value = Resolution.parse(value).size
        if isinstance(value, int) and not isinstance(value, bool):
            value = (value, value)
        pair = value if isinstance(value, (list, tuple)) else ()
        if value is not None and not (len(pair) == 2 and all(type(side) is int and side > 0 for side in pair)):
            raise ValueError("a size is one positive whole number, or two: [width, height]")
        if max(pair, default=0) > LARGEST_SIDE:
            raise ValueError(f"the largest possible side is {LARGEST_SIDE} pixels")
        return value


class SubsetSpec(SubsetValues, FolderValues):
    """The settings of one subset: a folder of images, or a metadata file."""

    image_dir: PathText | None = None
    metadata_file: PathText | None = None
    conditioning_data_dir: PathText | None = None
    is_reg: YesOrNo = False
    alpha_mask: YesOrNo = False
    concept: Text | None = Field(
        None, description="The token of the concept that the images show; required if there are several concepts."
    )


class DatasetSpec(DatasetValues):
    """The settings of one dataset: subsets that share a batch size, a resolution and buckets."""

    subsets: tuple[SubsetSpec, ...]

    @property
    def style(self) -> Style:
        """The kind of the dataset, by sd-scripts' name. All subsets of a dataset are of the same kind."""
        if any(subset.conditioning_data_dir for subset in self.subsets):
            return "controlnet"
        return "finetuning" if any(subset.metadata_file for subset in self.subsets) else "dreambooth"


class DatasetConfig(Section):
    """A dataset file with every value resolved."""

    concepts: tuple[ConceptSpec, ...]
    datasets: tuple[DatasetSpec, ...]


KINDS: dict[Style, str] = {
    "dreambooth": "folders without masks",
    "finetuning": "metadata files",
    "controlnet": "folders with masks",
}
# Keys that a subset may have beside those of SubsetValues
OWN_KEYS: dict[Style, tuple[str, ...]] = {
    "dreambooth": (*FolderValues.model_fields, "image_dir", "is_reg", "alpha_mask", "concept"),
    "finetuning": ("image_dir", "metadata_file", "alpha_mask", "concept"),
    "controlnet": ("caption_extension", "cache_info", "image_dir", "conditioning_data_dir", "concept"),
}
NEEDED_KEYS: dict[Style, tuple[str, ...]] = {
    "dreambooth": ("image_dir",),
    "finetuning": ("metadata_file",),
    "controlnet": ("image_dir", "conditioning_data_dir"),
}
# Keys that a dataset may have beside those of DatasetValues and SubsetValues
DATASET_KEYS: dict[Style, tuple[str, ...]] = {
    "dreambooth": tuple(FolderValues.model_fields),
    "finetuning": (),
    "controlnet": ("caption_extension", "cache_info"),
}
