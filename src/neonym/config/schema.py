"""What the classes of settings are made of: sections, fields with help and limits, and a way to list all fields."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo


class Section(BaseModel):
    """A frozen part of the settings. An unknown name is an error; a number is accepted where a text is meant."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


def setting(
    default: Any, help: str, *, above: float | None = None, least: float | None = None, most: float | None = None
) -> Any:
    """Return a field with its help and limits. `range_problems` checks the limits, all of them at once."""
    given = (("above", above), ("least", least), ("most", most))
    limits: Any = {name: value for name, value in given if value is not None}
    return Field(default, description=help, json_schema_extra=limits or None)


def group(section: type[BaseModel]) -> Any:
    """Return a field of settings with their own help. Without it, tyro searches the source for one: a sixth of a second."""
    return Field(section(), description=section.__doc__ or "")


def fields_of(model: type[BaseModel]) -> Iterator[tuple[str, str, FieldInfo]]:
    """Yield (section, name, field) of every setting in the sections of `model`."""
    for section, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for name, field in kind.model_fields.items():
                yield section, name, field
