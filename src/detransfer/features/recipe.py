"""The recipe of the feature analysis (Figures 5 to 7 and what stands beside them): analysis.yaml.

It lies beside what it governs, so that an edit here makes no training stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from detransfer.console import InputError
from detransfer.strict import Distinct, Name, Strict, load_file, suggest
from detransfer.study import Study

Count = Annotated[int, Field(ge=2)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Distinct]


class ClusterRecipe(Strict):
    """k-means in each space, and what is asked of pairs of images (Figures 5 and 6)."""

    counts: Annotated[tuple[Count, ...], Distinct] = Field(
        min_length=1, description="numbers of clusters of Figure 6, rising (paper: 2 to 1000)"
    )
    close: Count = Field(
        description="a pair is close if it shares one of so many clusters (paper: more than 1000)"
    )
    distant: Count = Field(
        description="a pair is distant if it shares none of so few clusters (paper: less than 5)"
    )
    seeds: Seeds = Field(
        min_length=1, description="of the images that k-means starts from, the same in every space"
    )
    tolerance: float = Field(
        gt=0,
        lt=1,
        description="k-means ends when a pass lowers the inertia by less than this share",
    )
    passes: int = Field(gt=0, description="most passes over the images for one k and seed")
    sampled_pairs: int = Field(
        gt=0, description="pairs drawn beside the exact probability (paper: 100,000)"
    )

    @model_validator(mode="after")
    def _rising(self) -> ClusterRecipe:
        if list(self.counts) != sorted(self.counts):
            raise ValueError("counts: the smallest comes first")
        return self

    @property
    def all_counts(self) -> tuple[int, ...]:
        """Every number of clusters that is computed."""
        return tuple(sorted({*self.counts, self.close, self.distant}))


class PairRecipe(Strict):
    """The pairs of images that Figure 5 shows."""

    near_copy: float = Field(
        gt=0, le=1, description="pairs of a higher correlation are copies: left out, and counted"
    )
    listed: int = Field(gt=0, description="nearest pairs of a space in the table")
    drawn: int = Field(
        gt=0, description="pairs of each kind in the picture, no image twice, where a page has room"
    )


class EmbeddingRecipe(Strict):
    """Barnes-Hut t-SNE and the neighbours that are counted beside it (Figure 7)."""

    perplexity: float = Field(gt=0, description="effective number of neighbours (paper: 10)")
    theta: float = Field(ge=0, le=1, description="angle of Barnes-Hut's approximation (paper: 0.5)")
    seed: int = Field(ge=0, description="of the random numbers of t-SNE")
    neighbours: int = Field(gt=0, description="nearest images whose class is compared")
    classes: int = Field(gt=0, le=8, description="the largest classes have a colour of their own")


class ExplorerRecipe(Strict):
    """The page on which one can look around in the spaces."""

    images: int = Field(gt=1, description="images on the page, at most; drawn evenly over classes")
    thumbnail: int = Field(gt=0, description="side of an image on the page, pixels")
    neighbours: int = Field(gt=0, description="nearest images shown at a click")


class AnalysisRecipe(Strict):
    """What is asked of the feature spaces (the paper's section 4.3)."""

    task: Literal["analysis"]
    targets: Annotated[tuple[Name, ...], Field(min_length=1), Distinct] | None = Field(
        None, description="targets of classification to look at; null: the first"
    )
    pairs: Annotated[tuple[tuple[Name, Name], ...], Field(min_length=1), Distinct] | None = Field(
        None,
        description="pre-trainings to compare; null: each detection pre-training and its start",
    )
    clusters: ClusterRecipe
    nearest: PairRecipe
    embedding: EmbeddingRecipe
    explorer: ExplorerRecipe


def load_analysis(study: Study) -> AnalysisRecipe | None:
    """Return the study's recipe of the analysis; None where it has no target of classification.

    Raises InputError for a recipe that is missing or wrong, for names that the study lacks, and for
    a named pair of which a target lacks one.
    """
    classified = study.targets_of("classification")
    if not classified:
        return None
    path = study.recipe("analysis")
    recipe = load_file(path, AnalysisRecipe)
    _check_known(f"{path}: targets", recipe.targets or (), classified, "target of classification")
    for pair in recipe.pairs or ():
        _check_known(f"{path}: pairs", pair, study.pretrainings, "pre-training")
        if pair[0] == pair[1]:
            raise InputError(f"{path}: pairs: {pair[0]} is compared with itself; name two")
        for target in analysed_targets(study, recipe):
            _check_run(f"{path}: pairs", pair, study.fine_tuned(target), target)
    return recipe


def analysed_targets(study: Study, recipe: AnalysisRecipe | None) -> tuple[str, ...]:
    """Return the targets whose images are looked at."""
    if recipe is None:
        return ()
    return recipe.targets or tuple(study.targets_of("classification"))[:1]


def pairs_of(study: Study, recipe: AnalysisRecipe | None) -> list[tuple[str, str]]:
    """Return the pre-trainings that are compared, in the paper's order: (A, B).

    By default A is where the pre-training on detection B started.
    """
    if recipe is not None and recipe.pairs is not None:
        return [*recipe.pairs]
    return [(start, name) for name, start in study.contrasts.items()]


def compared(study: Study, recipe: AnalysisRecipe | None, target: str) -> list[tuple[str, str]]:
    """Return the pairs of :func:`pairs_of` that are both run on a target."""
    return [pair for pair in pairs_of(study, recipe) if {*pair} <= {*study.fine_tuned(target)}]


def _check_known(key: str, names: Iterable[str], known: Mapping[str, object], what: str) -> None:
    for name in names:
        if name not in known:
            raise InputError(f"{key}: there is no {what} {name!r}{suggest(name, known)}")


def _check_run(key: str, pair: tuple[str, str], run: Iterable[str], target: str) -> None:
    if missing := " and ".join(name for name in pair if name not in run):
        raise InputError(
            f"{key}: {pair[0]} and {pair[1]} cannot be compared on {target}, which is without "
            f"{missing}; leave the pair out, or name all in targets.{target}.pretrainings"
        )
