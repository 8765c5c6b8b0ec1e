from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from detransfer.console import InputError
from detransfer.recipes.classification import FeatureRecipe
from detransfer.strict import load_file
from detransfer.study import load_study
from detransfer.visualization.recipe import load_visualization

STUDIES = ("demo", "sample", "evening", "paper")


@pytest.mark.parametrize("name", STUDIES)
def test_the_square_hides_as_much_of_every_studys_view(repository: Path, name: str) -> None:
    file = repository / "config" / ("config.yaml" if name == "paper" else f"{name}.yaml")
    content = yaml.safe_load(file.read_text())
    study = load_study({**content, "recipes": str(repository / "config/recipes")}, str(file))
    view = load_file(study.recipe("features"), FeatureRecipe)
    recipe = load_visualization(study, view)
    assert recipe.mask / view.size == pytest.approx(60 / 224, abs=0.005)
    assert (recipe.images is None) == (name != "evening")  # whose time is short


@pytest.mark.parametrize("key", ["mask", "stride"])
def test_what_does_not_fit_into_the_view_is_refused(
    repository: Path, tmp_path: Path, key: str
) -> None:
    content = yaml.safe_load((repository / "config/demo.yaml").read_text())
    study = load_study({**content, "recipes": str(tmp_path)}, "demo.yaml")
    given = {"task": "visualization", "mask": 10, "stride": 8, "images": 5, "precision": "fp32"}
    study.recipe("visualization").parent.mkdir()
    study.recipe("visualization").write_text(yaml.safe_dump({**given, "batch_size": 4, key: 48}))
    view = FeatureRecipe(
        task="features", size=48, resize=56, output_stride=16, precision="fp32",
        batch_size=4, checkpoint_seconds=30,
    )  # fmt: skip
    with pytest.raises(InputError, match=f"{key}: 48 pixels do not fit into a view of 48"):
        load_visualization(study, view)
