"""What the options of each format promise is what its reader makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from detransfer.data.catalog import load_catalog
from detransfer.data.datasets import TRUTH
from detransfer.data.extract import Part, extract
from detransfer.data.formats import READERS
from detransfer.data.index import Index
from detransfer.data.miniature.archives import ARCHIVES, write_archives
from detransfer.data.miniature.recipe import MOST_CLASSES, RENDERED, WorldRecipe
from detransfer.data.miniature.world import World, class_pools, make_world
from detransfer.data.readers import check_options, read_dataset
from detransfer.strict import load_file

SMALL: dict[str, Any] = {
    "image_size": 64,
    "imagenet_cls": {"train": 2, "val": 1},
    "coco": {"train": 6, "val": 3},
    "openimages": {"train": 9, "validation": 3, "test": 2},
    "imagenet_loc": {"images": 2},
    "imagenet_det": {"val": 4},
    "voc": {"trainval2007": 4, "trainval2012": 8, "test2007": 4, "sbd": 4},
    "caltech": {"images": 32},
    "sun397": {"train": 1, "test": 1},
    "flowers102": {"train": 1, "val": 1, "test": 1},
}


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(WorldRecipe.model_validate(SMALL))


def provided(index: Index) -> set[str]:
    """The tasks that the tables of an index have the truth for."""
    found = {"classification": "class_id" in index.images, "segmentation": "mask" in index.images}
    return {task for task, there in {**found, "detection": len(index.objects) > 0}.items() if there}


@pytest.mark.parametrize("name", RENDERED)
def test_an_index_holds_what_the_options_promise(
    repository: Path, world: World, tmp_path: Path, name: str
) -> None:
    demo = yaml.safe_load((repository / "config/demo.yaml").read_text())["datasets"]
    changes = demo.get(name, {}).get("options", {})
    catalog = load_catalog()
    known = catalog.datasets[name]
    write_archives(world, tmp_path, known.archives)
    parts = [Part(tmp_path / each, catalog.archives[each].extract_to) for each in known.archives]
    extract(parts, tmp_path / "extracted")
    options = check_options(known.reader, {**known.options, **changes})
    index = read_dataset(known.reader, tmp_path / "extracted", {**known.options, **changes})
    assert provided(index) == {options.provides}
    assert options.split_names() == dict.fromkeys(index.images["split"], True)


def test_a_folder_of_ones_own_holds_what_its_options_promise(tmp_path: Path) -> None:
    for split in ("seen", "unseen", "more"):
        (tmp_path / split / "wren").mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / split / "wren" / "1.png")
    chosen = {"splits": ["seen", "unseen"]}
    index = read_dataset("image_folder", tmp_path, chosen)
    assert provided(index) == {check_options("image_folder", chosen).provides}
    expected = dict.fromkeys(index.images["split"], True)
    assert check_options("image_folder", chosen).split_names() == expected
    assert check_options("image_folder", {}).split_names() is None


def test_every_format_is_for_a_known_task() -> None:
    assert {check_options(reader, {}).provides for reader in READERS} == set(TRUTH)


def test_the_recipe_of_a_world_knows_what_can_be_rendered(repository: Path) -> None:
    datasets = load_catalog().datasets
    assert {archive for name in RENDERED for archive in datasets[name].fetched} == set(ARCHIVES)
    for distinction, most in MOST_CLASSES.items():
        pools = class_pools(distinction)
        assert {name: len(pool) for name, pool in pools.items()} == most
    demo = repository / "config/recipes/demo/world.yaml"
    assert load_file(demo, WorldRecipe) == WorldRecipe()
