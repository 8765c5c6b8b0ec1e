from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from detransfer.console import InputError
from detransfer.features.recipe import AnalysisRecipe, analysed_targets, compared, load_analysis
from detransfer.strict import load_file
from detransfer.study import Study, load_study


def study(repository: Path, folder: Path, **changes: Any) -> Study:
    """The demo with its recipes in ``folder``, where analysis.yaml can be another."""
    content = yaml.safe_load((repository / "config/demo.yaml").read_text())
    recipe = yaml.safe_load((repository / "config/recipes/demo/analysis.yaml").read_text())
    (folder / "demo").mkdir()
    (folder / "demo/analysis.yaml").write_text(yaml.safe_dump({**recipe, **changes}))
    return load_study({**content, "recipes": str(folder)}, "demo")


@pytest.mark.parametrize("name", ["demo", "sample", "evening", "paper"])
def test_every_study_has_a_recipe(repository: Path, name: str) -> None:
    path = repository / "config/recipes" / name / "analysis.yaml"
    recipe = load_file(path, AnalysisRecipe)
    assert len(recipe.clusters.counts) == 30 and recipe.clusters.counts[0] == 2
    assert {recipe.clusters.close, recipe.clusters.distant} <= set(recipe.clusters.all_counts)
    assert recipe.clusters.distant < 5 and len(recipe.clusters.seeds) >= 3
    if name != "demo":  # whose images do not suffice for so many clusters
        assert recipe.clusters.counts[-1] == 1000 < recipe.clusters.close
    assert (recipe.embedding.perplexity, recipe.embedding.theta) == (10, 0.5)


def test_by_default_detectors_are_compared_with_their_start(
    repository: Path, tmp_path: Path
) -> None:
    given = study(repository, tmp_path)
    recipe = load_analysis(given)
    assert analysed_targets(given, recipe) == ("caltech256",)
    starts = [("imagenet_cls", name) for name in ("imagenet_loc", "coco", "openimages")]
    assert compared(given, recipe, "caltech256") == starts


def test_any_two_pretrainings_can_be_compared(repository: Path, tmp_path: Path) -> None:
    given = study(repository, tmp_path, pairs=[["coco", "openimages"], ["random", "coco_labels"]])
    found = compared(given, load_analysis(given), "caltech256")
    assert found == [("coco", "openimages"), ("random", "coco_labels")]


def without_coco(repository: Path, folder: Path, **changes: Any) -> Study:
    """The demo whose Caltech-256 is without the detectors of COCO and the random network."""
    given = study(repository, folder, **changes)
    target = given.targets["caltech256"]
    left = tuple(name for name in given.pretrainings if name not in ("coco", "random"))
    targets = {**given.targets, "caltech256": target.model_copy(update={"pretrainings": left})}
    return given.model_copy(update={"targets": targets})


def test_a_default_pair_that_a_target_is_without_is_left_out(
    repository: Path, tmp_path: Path
) -> None:
    given = without_coco(repository, tmp_path)
    found = compared(given, load_analysis(given), "caltech256")
    assert found == [("imagenet_cls", "imagenet_loc"), ("imagenet_cls", "openimages")]


def test_a_named_pair_that_a_target_is_without_is_refused(repository: Path, tmp_path: Path) -> None:
    given = without_coco(repository, tmp_path, pairs=[["imagenet_cls", "coco"], ["random", "coco"]])
    with pytest.raises(InputError) as caught:
        load_analysis(given)
    assert str(caught.value) == (
        f"{tmp_path}/demo/analysis.yaml: pairs: imagenet_cls and coco cannot be compared on "
        "caltech256, which is without coco; leave the pair out, or name all in "
        "targets.caltech256.pretrainings"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ["voc_detection"]}, "targets: there is no target of classification 'voc_dete"),
        (
            {"pairs": [["coco", "opennimages"]]},
            "pairs: there is no pre-training 'opennimages'; did",
        ),
        ({"pairs": [["coco", "coco"]]}, "pairs: coco is compared with itself"),
        ({"nearset": {}}, "unknown key 'nearset'; did you mean 'nearest'?"),
    ],
)
def test_what_the_study_lacks_is_refused(
    repository: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    given = study(repository, tmp_path, **change)
    with pytest.raises(InputError) as caught:
        load_analysis(given)
    assert message in str(caught.value) and "demo/analysis.yaml: " in str(caught.value)


def test_cluster_counts_rise(tmp_path: Path, repository: Path) -> None:
    text = (repository / "config/recipes/paper/analysis.yaml").read_text()
    path = tmp_path / "analysis.yaml"
    path.write_text(text.replace("[2, 3, 4,", "[3, 2, 4,"))
    with pytest.raises(InputError, match="clusters: counts: the smallest comes first"):
        load_file(path, AnalysisRecipe)
    path.write_text(text.replace("[2, 3, 4,", "[1, 3, 4,"))
    with pytest.raises(
        InputError, match=r"clusters\.counts\.0: Input should be greater than or eq"
    ):
        load_file(path, AnalysisRecipe)
