"""What the network sees of an image and its mask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detransfer.backbone import build
from detransfer.console import InputError
from detransfer.data.index import Index
from detransfer.data.masks import VOID
from detransfer.recipes.segmentation import ResizeRecipe
from detransfer.segmentation.deeplab import Segmenter
from detransfer.segmentation.images import MaskedImages, masked_images
from detransfer.segmentation.predict import batches_by_size, predict
from tests.segmentation.scenes import CLASSES, COLOURS, TINY, scene, write_scenes
from tests.segmentation.test_deeplab import awake, recipe

NATIVE = ResizeRecipe(short=1, long=1000)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return write_scenes(tmp_path_factory.mktemp("scenes"), 6, 3)


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ((375, 500), (360, 480)),
        ((500, 375), (480, 360)),
        ((333, 500), (360, 541)),
        ((281, 500), (337, 600)),  # 360 would make it 641 wide
        ((500, 281), (600, 337)),
        ((300, 500), (360, 600)),
        ((1, 500), (1, 600)),
    ],
)
def test_the_papers_resize_rule(given: tuple[int, int], seen: tuple[int, int]) -> None:
    assert ResizeRecipe(short=360, long=600).size(*given) == seen


def agreement(images: MaskedImages, number: int) -> float:
    """Return the share of labelled pixels whose colour is nearest to that of their class."""
    image, mask, _ = images[number]
    assert image.dtype == mask.dtype == torch.uint8 and image.shape[1:] == mask.shape
    colours = torch.from_numpy(COLOURS).float()
    away = (image.float()[None] - colours[:, :, None, None]).square().sum(1)
    labelled = mask != VOID
    return float((away.argmin(0) == mask)[labelled].float().mean())


@pytest.mark.parametrize(("short", "long"), [(48, 1000), (96, 1000), (30, 40)])
def test_masks_follow_their_images(index: Index, short: int, long: int) -> None:
    given = ResizeRecipe(short=short, long=long)
    images = masked_images(index, given, mirrored=True)
    assert len(images) == 18
    for number in range(len(images)):
        assert agreement(images, number) > 0.97
        assert tuple(images[number].target.shape) == tuple(images.sizes[number % 9])


def test_an_epoch_is_every_image_and_its_mirror_image(index: Index) -> None:
    images = masked_images(index, ResizeRecipe(short=48, long=64), mirrored=True)
    for number in range(9):
        plain, mirror = images[number], images[number + 9]
        assert torch.equal(mirror.image, plain.image.flip(2))
        assert torch.equal(mirror.target, plain.target.flip(1))
        assert mirror.name == plain.name
    assert len(masked_images(index, ResizeRecipe(short=48, long=64))) == 9


def test_at_its_own_size_a_mask_is_as_it_was(index: Index) -> None:
    number = 1
    height, width = scene(number)[1].shape
    images = masked_images(index, ResizeRecipe(short=min(height, width), long=1000))
    assert np.array_equal(images[number].target.numpy(), scene(number)[1])


def test_an_index_without_masks_is_refused(index: Index) -> None:
    bare = replace(index, images=index.images.drop(columns="mask"))
    with pytest.raises(InputError, match="its images have no masks"):
        masked_images(bare, NATIVE)


def test_a_label_beyond_the_classes_is_refused(index: Index, tmp_path: Path) -> None:
    few = replace(index, classes=index.classes.head(2))
    images = masked_images(few, ResizeRecipe(short=48, long=64))
    with pytest.raises(InputError, match=r"_mask.png: pixel .* neither a class \(0 to 1\)"):
        [images[number] for number in range(len(images))]


def test_batches_hold_images_of_one_size() -> None:
    sizes = np.array([(4, 6), (6, 4), (4, 6), (4, 6), (6, 4)])
    assert batches_by_size(sizes, 2) == [[0, 2], [3], [1, 4]]


def test_predictions_do_not_depend_on_who_else_is_in_the_batch(index: Index) -> None:
    torch.manual_seed(0)
    model = Segmenter(awake(build(TINY, 0, 16, 1)), len(CLASSES), recipe())
    images = masked_images(index, recipe().images)
    found = {row: (mask, truth) for row, mask, truth in predict(model, images, torch.device("cpu"))}
    assert sorted(found) == list(range(9))
    for row, (mask, truth) in found.items():
        with torch.inference_mode():
            alone = model(images[row].image[None]).argmax(1)[0]
        assert mask.dtype == np.uint8 and mask.shape == tuple(images.sizes[row])
        assert (mask == alone.numpy()).mean() > 0.999
        assert np.array_equal(truth, images[row].target.numpy())
    assert len({int(label) for mask, _ in found.values() for label in np.unique(mask)}) > 1


def test_greyscale_images_are_read(tmp_path: Path) -> None:
    index = write_scenes(tmp_path, 1, 0)
    path = index.root / "0.png"
    Image.open(path).convert("L").save(path)
    assert masked_images(index, NATIVE)[0].image.shape[0] == 3
