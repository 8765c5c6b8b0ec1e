"""YAML files in typed models: read strictly, every fault said in one line with a hint.

The configuration (:mod:`detransfer.study`) and all recipes (:mod:`detransfer.recipes`) are such.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from detransfer.console import InputError

NAME = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME)]
Word = TypeVar("Word", str, Path)
Values = TypeVar("Values", bound=tuple[Any, ...])


def _plain(word: Word) -> Word:
    if not re.fullmatch(r"[\w./+:@%=,-]*", str(word)):
        raise ValueError(
            "the commands of the workflow cannot hold a blank, a quote, ~ or another sign of the "
            "shell; choose another name, or make a link that has one"
        )
    return word


def _distinct(values: Values) -> Values:
    names = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} stands there twice")
    return values


Place = Annotated[Path, AfterValidator(_plain)]
Plain = Annotated[str, AfterValidator(_plain)]
Distinct = AfterValidator(_distinct)
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class Strict(BaseModel):
    """A section of a configuration or recipe: frozen, and without room for unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


DEEPEST = 50  # lists and mappings inside one another
MOST_VALUES = 100_000  # in one file, its aliases written out: the catalog has some thousands
# Where pydantic puts the kind of a section into the place of a fault: after so many steps.
KIND_AT = {"pretrainings": 2, "head": 1, "metric": 1}
M = TypeVar("M", bound=Strict)


def load_file(path: Path, model: type[M]) -> M:
    """Read one YAML file into a typed model.

    Raises InputError for a missing file, broken YAML or a key that stands there twice (with the
    line), an unknown key (with the closest known one), a value of the wrong type or range, and
    more values than any honest file has.
    """
    try:
        text = path.read_text()
        _check_depth(text)
        content = yaml.load(text, _Loader)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; write one or correct its name") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise InputError(f"{path}: {line}not readable as YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys and values, found {type(content).__name__}")
    return validate(model, content, str(path))


def _check_depth(text: str) -> None:
    """Raise YAMLError for what is nested so deeply that loading it overflows the stack."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise yaml.YAMLError(f"nested more than {DEEPEST} deep")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML without the trap that of two equal keys the last one counts."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for place, (key, _) in enumerate(node.value):
            if key.value in keys[:place]:
                problem = f"key {key.value!r} stands there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def validate(model: type[M], content: Mapping[str, Any], source: str) -> M:
    """Return ``content`` as ``model``; raises InputError with one line a fault.

    Where a recipe is for another task, that is the one fault: all others follow from it.
    """
    _check_extent(content, source)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = error.errors()
        other_task = [fault for fault in faults if fault["loc"] == ("task",)]
        lines = [f"{source}: {_describe(model, fault)}" for fault in other_task or faults]
        raise InputError("\n".join(lines)) from None


def _check_extent(content: Any, source: str) -> None:
    """Raise InputError for aliases of aliases, which a few lines can make into billions of values.

    They cost nothing until something looks at every value, as a check or a message does.
    """
    if _extent(content, {}) > MOST_VALUES:
        raise InputError(
            f"{source}: holds more than {MOST_VALUES} values once its aliases (*name) are written "
            "out; write out what is meant"
        )


def _extent(content: Any, known: dict[int, float]) -> float:
    """Return how many values there are, each as often as it occurs; in a circle: without end."""
    if not isinstance(content, Mapping | list | tuple):
        return 1
    if id(content) not in known:
        known[id(content)] = float("inf")
        values = content.values() if isinstance(content, Mapping) else content
        known[id(content)] = 1 + sum(_extent(value, known) for value in values)
    return known[id(content)]


def suggest(word: str, known: Mapping[str, Any] | set[str] | list[str]) -> str:
    """Return the hint that closes an error message: the closest known name, or all names."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _describe(model: type[Strict], fault: ErrorDetails) -> str:
    steps = [str(part) for part in fault["loc"]]
    tag = KIND_AT.get(steps[0]) if steps else None
    if tag is not None:
        del steps[tag : tag + 1]
    place = ".".join(steps)
    if fault["type"] == "union_tag_not_found":
        return f"key '{place}.kind' is missing"
    if fault["type"] == "extra_forbidden":
        known = set(_fields_at(model, [str(part) for part in fault["loc"][:-1]]))
        key = str(fault["loc"][-1])
        return f"unknown key {place!r}{suggest(key, known)}"
    if fault["type"] == "missing":
        return f"key {place!r} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    given = fault["input"]
    shown = "" if isinstance(given, Mapping | BaseModel) else f" (got {given!r})"
    return f"{place}: {message}{shown}" if place else message


def _fields_at(model: type[Strict], place: list[str]) -> Iterator[str]:
    """Yield the keys known at ``place``; steps that are no fields (keys, tags) are passed over."""
    models = [model]
    for step in place:
        fields = [m.model_fields[step].annotation for m in models if step in m.model_fields]
        inner = [m for annotation in fields for m in _models_in(annotation)]
        tagged = [m for m in models if step in _tags(m)]
        models = inner or tagged or models
    for found in models:
        yield from found.model_fields


def _models_in(annotation: Any) -> Iterator[type[Strict]]:
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _tags(model: type[Strict]) -> tuple[Any, ...]:
    return tuple(
        tag
        for name in ("kind", "task")
        if name in model.model_fields
        for tag in get_args(model.model_fields[name].annotation)
    )
