"""The archives of the targets for classification: Caltech-256, SUN-397 and Flowers-102."""

from __future__ import annotations

import string
import zipfile
from pathlib import Path

import numpy as np

from detransfer.data.miniature.flowers import FLOWERS, render_flower
from detransfer.data.miniature.packing import (
    Stream,
    add,
    jpeg,
    labels,
    matlab,
    numbers,
    open_tar,
    open_tgz,
    words,
    zip_add,
)
from detransfer.data.miniature.places import PLACES, render_place
from detransfer.data.miniature.scenes import render_classification
from detransfer.data.miniature.world import World

CALTECH = ("256_ObjectCategories.tar",)
SUN = ("Partitions.zip", "SUN397.tar.gz")
FLOWERS_102 = ("102flowers.tgz", "imagelabels.mat", "setid.mat")

_PARTITIONS = 10
_SPARE = 2  # images of a scene class that a partition leaves out; the official ones leave out many


def write_caltech(world: World, folder: Path) -> None:
    """Write the images of Caltech-256's layout; the clutter class comes last."""
    classes = (*world.caltech, None)
    names = [*(spec.name.replace("_", "-") for spec in world.caltech), "clutter"]
    chosen = labels(world, Stream.CALTECH, len(classes), world.recipe.caltech.images)
    with open_tar(folder / CALTECH[0]) as archive:
        for label, (spec, name) in enumerate(zip(classes, names, strict=True)):
            number = f"{label + 1:03d}"
            for order, index in enumerate(np.flatnonzero(chosen == label).tolist()):
                scene = render_classification(world, spec, Stream.CALTECH, index)
                file = f"{number}.{name}/{number}_{order + 1:04d}.jpg"
                add(archive, f"256_ObjectCategories/{file}", jpeg(world, scene))


def write_sun(world: World, folder: Path) -> None:
    """Write the images of the scene classes and ten random partitions of them."""
    recipe = world.recipe.sun397
    places = list(PLACES)[: recipe.classes]
    each = recipe.train + recipe.test + _SPARE
    chosen = labels(world, Stream.SUN, len(places), each)
    names = words(world, Stream.SUN, len(chosen), 16, string.ascii_lowercase)
    files: dict[str, list[str]] = {place: [] for place in places}
    listed = "".join(f"/{place}\n" for place in places).encode()
    with open_tgz(folder / "SUN397.tar.gz") as archive:
        add(archive, "SUN397/ClassName.txt", listed)
        for label, place in enumerate(places):
            for index in sorted(np.flatnonzero(chosen == label).tolist(), key=names.__getitem__):
                file = f"/{place}/sun_{names[index]}.jpg"
                scene = render_place(world, place, Stream.SUN, index)
                add(archive, f"SUN397{file}", jpeg(world, scene))
                files[place].append(file)
    rng = np.random.default_rng((world.recipe.seed, Stream.NUMBERS, Stream.SUN, 2))
    with zipfile.ZipFile(folder / "Partitions.zip", "w") as archive:
        zip_add(archive, "ClassName.txt", listed)
        for number in range(1, _PARTITIONS + 1):
            lists: dict[str, list[str]] = {"Training": [], "Testing": []}
            for place in places:
                order = [files[place][k] for k in rng.permutation(each)]
                lists["Training"] += sorted(order[: recipe.train])
                lists["Testing"] += sorted(order[recipe.train : recipe.train + recipe.test])
            for name, members in lists.items():
                content = "".join(f"{member}\n" for member in members).encode()
                zip_add(archive, f"{name}_{number:02d}.txt", content)


def write_flowers(world: World, folder: Path) -> None:
    """Write the images in random order, their labels (from 1) and the three lists."""
    recipe = world.recipe.flowers102
    each = recipe.train + recipe.val + recipe.test
    chosen = labels(world, Stream.FLOWERS, recipe.classes, each)
    with open_tgz(folder / "102flowers.tgz") as archive:
        for index, label in enumerate(chosen):
            scene = render_flower(world, FLOWERS[label], Stream.FLOWERS, index)
            add(archive, f"jpg/image_{index + 1:05d}.jpg", jpeg(world, scene))
    whole = {"labels": (chosen + 1).astype(np.uint8)[None]}
    (folder / "imagelabels.mat").write_bytes(matlab(whole, compress=True))
    order = np.array(numbers(world, Stream.FLOWERS, len(chosen), len(chosen)))
    # Within a class the images take their places in the lists in a random order.
    ranked = order[np.argsort(chosen[order - 1], kind="stable")].reshape(recipe.classes, each)
    ends = np.cumsum([recipe.train, recipe.val, recipe.test])[:-1]
    parts = np.split(ranked, ends, axis=1)
    lists = {
        name: np.sort(part.ravel()).astype(np.uint16)[None]
        for name, part in zip(("trnid", "valid", "tstid"), parts, strict=True)
    }
    (folder / "setid.mat").write_bytes(matlab(lists, compress=True))
