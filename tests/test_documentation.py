"""Typed models as Markdown: a hand-worked model, and every model of the package."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field

from detransfer.documentation import Page, escape, recipe_models, typed_models, undescribed
from detransfer.strict import Name, Strict


class Inner(Strict):
    """What lies inside."""

    kind: Literal["inner"]
    share: float = Field(0.5, gt=0, le=1, description="share of the <image>")


class Other(Strict):
    """Another choice."""

    kind: Literal["other"]


class Outer(Strict):
    """What lies outside."""

    count: int = Field(ge=2, description="images, `a | b`")
    pair: tuple[int, float] = Field((1, 2.5), description="[least, largest]")
    names: tuple[Name, ...] | None = Field(None, min_length=1, description="which")
    choice: Annotated[Inner | Other, Field(discriminator="kind")] = Field(description="either")
    inner: dict[str, Inner] = Field({}, description="by name")
    filled: dict[str, int] = Field({"a": 1, "b": 2}, description="numbers")
    secret: bool = False


def rows(markdown: str) -> dict[str, list[str]]:
    """Return the cells of each row of Markdown tables, by the first one."""
    lines = [line.replace("\\|", "\0") for line in markdown.splitlines() if line.startswith("| `")]
    cells = [[cell.strip().replace("\0", "|") for cell in line.split("|")[1:-1]] for line in lines]
    return {first: others for first, *others in cells}


def test_a_table_says_what_the_model_checks() -> None:
    text = Page(frozenset({"Outer"})).sections(Outer)
    assert text.startswith('<a id="outer"></a>What lies outside.')
    found = rows(text)
    assert found["`count`"] == ["whole number ≥ 2", "required", "images, `a | b`"]
    assert found["`pair`"] == ["[whole number, number]", "`[1, 2.5]`", "[least, largest]"]
    assert found["`names`"] == ["non-empty list of name, or `null`", "`null`", "which"]
    choice = "[`kind: inner`](#inner), or [`kind: other`](#other)"
    assert found["`choice`"] == [choice, "required", "either"]
    assert found["`inner`"] == ["by name: [`kind: inner`](#inner)", "`{}`", "by name"]
    assert found["`filled`"] == ["by name: whole number", "`{a: ..., b: ...}`", "numbers"]
    assert found["`share`"] == ["number > 0, ≤ 1", "`0.5`", "share of the &lt;image>"]
    assert "### `choice` with `kind: inner` { #inner }\n\nWhat lies inside." in text
    assert text.count("{ #inner }") == 1, "a model is described once"


def test_a_model_with_a_place_of_its_own_is_not_described_elsewhere() -> None:
    assert "{ #inner }" not in Page(frozenset({"Inner"})).sections(Outer)


def test_a_key_without_a_description_is_found() -> None:
    assert undescribed(Outer) == ["Outer.secret"]


def test_only_code_may_hold_angle_brackets() -> None:
    assert escape("a <b> `c <d>` <e>") == "a &lt;b> `c <d>` &lt;e>"


MODELS = typed_models()


def test_models_of_every_kind_are_found() -> None:
    names = {f"{model.__module__}.{model.__name__}" for model in MODELS}
    assert {
        "detransfer.study.Study",
        "detransfer.recipes.classification.ProbeRecipe",
        "detransfer.data.options.coco.CocoSet",
        "detransfer.data.miniature.recipe.WorldRecipe",
    } <= names
    tasks = {model.__name__ for model in recipe_models()}
    assert {"DetectionRecipe", "InferenceRecipe", "FeatureRecipe"} <= tasks
    assert not tasks & {"Target", "TrainingRecipe"}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.__module__}.{model.__name__}")
def test_no_key_lacks_a_description(model: type[Strict]) -> None:
    assert undescribed(model) == []
