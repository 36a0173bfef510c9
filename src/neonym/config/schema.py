"""The parts of a settings class: sections, fields with help and limits, and a function that lists all fields."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

Unset = Annotated[str | None, BeforeValidator(lambda value: None if value == "" else value)]  # empty: not given


class Section(BaseModel):
    """A frozen group of settings. An unknown name is an error; a number is accepted where a text is expected."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


def setting(
    default: Any, help: str, *, above: float | None = None, least: float | None = None, most: float | None = None
) -> Any:
    """Return a field with its help and its limits, which `rules.range_problems` checks.

    A value must be above `above`, at least `least` and at most `most`.
    """
    given = (("above", above), ("least", least), ("most", most))
    limits: Any = {name: value for name, value in given if value is not None}
    return Field(default, description=help, json_schema_extra=limits or None)


def group(section: type[BaseModel]) -> Any:
    """Return the field of a section of settings, with a description.

    Without a description, tyro spends a sixth of a second on searching the source code for one.
    """
    return Field(section(), description=section.__doc__ or "")


def fields_of(model: type[BaseModel]) -> Iterator[tuple[str, str, FieldInfo]]:
    """Yield (section, name, field) of every setting in the sections of `model`."""
    for section, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for name, field in kind.model_fields.items():
                yield section, name, field
