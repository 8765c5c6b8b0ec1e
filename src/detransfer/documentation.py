"""Typed models as Markdown: every key with its type, range, default and description.

Reads the JSON schema that pydantic makes of a model, so what a page says is what is checked.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from detransfer.strict import NAME, Strict

Schema = Mapping[str, Any]
LONGEST = 72  # characters of a default that is shown whole
LIMITS = {
    "exclusiveMinimum": "> {}",
    "minimum": "≥ {}",
    "exclusiveMaximum": "< {}",
    "maximum": "≤ {}",
    "multipleOf": "a multiple of {}",
}
PLAIN = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`"}


@dataclass
class Page:
    """The sections of one page; a model that several keys hold is described once.

    ``own`` names the models that have a handwritten heading somewhere on the page.
    """

    own: frozenset[str] = frozenset()
    described: set[str] = field(default_factory=set)

    def sections(self, model: type[Strict], level: int = 3) -> str:
        """Return Markdown: the keys of a model, then a section for each model inside it."""
        schema = model.model_json_schema()
        definitions: Schema = schema.get("$defs", {})
        name = model.__name__
        anchor = f'<a id="{_identifier(name)}"></a>' if name in self.own else ""
        text = escape(schema.get("description", ""))
        blocks = [f"{anchor}{text}\n\n{_table(schema, definitions)}"]
        self.described.add(model.__name__)
        for name, place in _inner(schema, definitions, ""):
            if name not in self.described | self.own:
                self.described.add(name)
                heading = f"{'#' * level} {place} {{ #{_identifier(name)} }}"
                text = definitions[name].get("description", "")
                blocks.append(
                    f"{heading}\n\n{escape(text)}\n\n{_table(definitions[name], definitions)}"
                )
        return "\n\n".join(blocks)


def escape(text: str) -> str:
    """Return text in which ``<name>`` outside of code is not taken for HTML."""
    parts = text.split("`")
    return "`".join(
        part if place % 2 else part.replace("<", "&lt;") for place, part in enumerate(parts)
    )


def typed_models() -> list[type[Strict]]:
    """Return every section of a configuration, recipe or catalog that the package has."""
    root = Path(__file__).parent
    found: dict[type[Strict], None] = {}
    for path in sorted(root.rglob("*.py")):
        if "(Strict)" in path.read_text():
            module = ".".join(path.relative_to(root.parent).with_suffix("").parts)
            for value in vars(importlib.import_module(module)).values():
                if isinstance(value, type) and issubclass(value, Strict) and value is not Strict:
                    found[value] = None
    return list(found)


def recipe_models() -> list[type[Strict]]:
    """Return what a recipe file is read into: models that a key ``task`` chooses."""
    return [
        model
        for model in typed_models()
        if "task" in model.model_fields and "const" in _property(model, "task")
    ]


def _property(model: type[Strict], key: str) -> Schema:
    found: Schema = model.model_json_schema()["properties"][key]
    return found


def undescribed(model: type[Strict]) -> list[str]:
    """Return the keys of a model, and of those inside it, that say nothing of what they mean."""
    schema = model.model_json_schema()
    every = {model.__name__: schema, **schema.get("$defs", {})}
    return [
        f"{name}.{key}"
        for name, each in every.items()
        for key, value in each.get("properties", {}).items()
        if not _meaning(value, schema.get("$defs", {}))
    ]


def _identifier(name: str) -> str:
    return name.lower().replace("__", "-")


def _table(schema: Schema, definitions: Schema) -> str:
    required = schema.get("required", ())
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, value in schema.get("properties", {}).items():
        default = "required" if key in required else _default(value)
        meaning = escape(_meaning(value, definitions))
        cells = (f"`{key}`", _type(value, definitions), default, meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _meaning(value: Schema, definitions: Schema) -> str:
    """Return what a key says of itself, else what the model that it holds says, else its role."""
    text = str(value.get("description", ""))
    if not text and "$ref" in value:
        text = definitions[value["$ref"].removeprefix("#/$defs/")].get("description", "")
    if not text and "const" in value:
        return "the word by which these keys are chosen"
    return text.replace("\n", " ")


def _default(value: Schema) -> str:
    default = value.get("default")
    if "$ref" in value:
        return "as there"
    if isinstance(default, dict) and default:
        return f"`{{{', '.join(f'{key}: ...' for key in default)}}}`"
    text = yaml.safe_dump(default, default_flow_style=True, width=10_000, allow_unicode=True)
    text = text.removesuffix("\n").removesuffix("...").strip()
    if len(text) > LONGEST and isinstance(default, list):
        return f"`[{default[0]}, ...]` ({len(default)})"
    return f"`{text}`"


def _type(value: Schema, definitions: Schema) -> str:
    """Return in words what a key may hold."""
    match value:
        case {"$ref": reference}:
            return _link(reference, definitions)
        case {"anyOf": choices} | {"oneOf": choices}:
            return ", or ".join(_type(choice, definitions) for choice in choices)
        case {"const": constant}:
            return f"`{constant}`"
        case {"enum": constants}:
            return ", ".join(f"`{constant}`" for constant in constants)
        case {"type": "null"}:
            return "`null`"
        case {"type": "array", "prefixItems": items}:
            return f"[{', '.join(_type(item, definitions) for item in items)}]"
        case {"type": "array", "items": item}:
            least = "non-empty " if value.get("minItems") else ""
            return f"{least}list of {_type(item, definitions)}"
        case {"type": "object", "additionalProperties": dict(item)}:
            return f"by name: {_type(item, definitions)}"
        case {"type": "object", "patternProperties": dict(patterns)}:
            return f"by name: {_type(next(iter(patterns.values())), definitions)}"
        case {"type": "object"}:
            return "keys and values"
        case {"type": "string"}:
            return _text(value)
    limits = [form.format(f"{value[name]:g}") for name, form in LIMITS.items() if name in value]
    return f"{PLAIN[value['type']]} {', '.join(limits)}".strip()


def _text(value: Schema) -> str:
    if value.get("pattern") == NAME:
        return "name"
    if "pattern" in value:
        return f"text like `{value['pattern']}`"
    return {"path": "path"}.get(value.get("format", ""), "text")


def _link(reference: str, definitions: Schema) -> str:
    name = reference.removeprefix("#/$defs/")
    kind = _kind(definitions[name])
    return f"[{f'`{kind}`' if kind else 'these keys'}](#{_identifier(name)})"


def _kind(schema: Schema) -> str:
    """Return the constant by which one of several models is chosen, such as ``kind: imported``."""
    kind = schema.get("properties", {}).get("kind", {})
    values: Sequence[str] = [kind["const"]] if "const" in kind else kind.get("enum", ())
    return f"kind: {' or '.join(values)}" if values else ""


def _inner(schema: Schema, definitions: Schema, before: str) -> Iterator[tuple[str, str]]:
    """Yield the models that a model holds, each with the place of its keys, from the outside in."""
    found = []
    for key, value in schema.get("properties", {}).items():
        for reference, step in _references(value):
            name = reference.removeprefix("#/$defs/")
            kind = _kind(definitions[name])
            found.append((name, f"{before}{key}{step}", f" with `{kind}`" if kind else ""))
    for name, place, kind in found:
        yield name, f"`{place}`{kind}"
    for name, place, _ in found:
        yield from _inner(definitions[name], definitions, f"{place}.")


def _references(value: Schema) -> Iterator[tuple[str, str]]:
    """Yield every model that a key may hold, and what stands between the key and it."""
    if "$ref" in value:
        yield value["$ref"], ""
    for choice in (*value.get("anyOf", ()), *value.get("oneOf", ())):
        yield from _references(choice)
    named = value.get("additionalProperties")
    for item in ([named] if isinstance(named, dict) else []) + [
        *value.get("patternProperties", {}).values()
    ]:
        yield from ((reference, f".<name>{step}") for reference, step in _references(item))
    if isinstance(value.get("items"), dict):
        yield from _references(value["items"])
