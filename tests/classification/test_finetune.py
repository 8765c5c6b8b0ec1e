from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import kstest
from torch import nn
from torchvision.transforms import CenterCrop, Compose, RandomResizedCrop, Resize
from torchvision.transforms.v2 import functional

from detransfer.backbone import build, save_backbone
from detransfer.classification.finetune import (
    RATIO,
    Classifier,
    labelled_images,
    load_classifier,
    random_crop,
    random_view,
)
from detransfer.console import InputError
from detransfer.data.index import Index, empty_objects
from detransfer.data.views import central_view
from detransfer.recipes.classification import ClassificationRecipe, ImageRecipe
from detransfer.study import BackboneChoice

TINY = BackboneChoice(name="resnet10t", arguments={"channels": [8, 8, 16, 16], "stem_width": 4})
VIEW = ImageRecipe(size=32, resize=36)


def recipe(**changes: object) -> ClassificationRecipe:
    content = {
        "task": "classification",
        "training": {
            "epochs": 1,
            "batch_size": 4,
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "weight_decay": 0,
            "schedule": "constant",
        },
        "backbone": {"output_stride": 32, "batch_norm": "trained"},
        "images": {"size": 32, "resize": 36},
    }
    return ClassificationRecipe.model_validate({**content, **changes})


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A smooth random image: what a resize does to it hardly depends on rounding."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    large = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(large)).permute(2, 0, 1).contiguous()


@pytest.fixture
def index(tmp_path: Path) -> Index:
    for number in range(3):
        functional.to_pil_image(picture(40, 56, number)).save(tmp_path / f"{number}.png")
    images = pd.DataFrame(
        {
            "image_id": [0, 1, 2],
            "path": [f"{number}.png" for number in range(3)],
            "width": 56,
            "height": 40,
            "split": "train",
            "class_id": [1, 0, 1],
        }
    )
    classes = pd.DataFrame(
        {"class_id": [0, 1], "name": ["ape", "bee"], "source_id": "", "superclass": ""}
    )
    return Index(images, empty_objects(), classes, tmp_path)


def test_an_example_is_a_view_its_class_and_its_file(index: Index, tmp_path: Path) -> None:
    images = labelled_images(index, VIEW, (0, 0))
    example = images[2]
    assert len(images) == 3
    assert example.image.shape == (3, 32, 32) and example.image.dtype == torch.uint8
    assert example.target.shape == () and example.target.dtype == torch.int64
    assert (int(example.target), example.name) == (1, str(tmp_path / "2.png"))


def test_an_example_depends_on_seed_epoch_and_index_alone(index: Index) -> None:
    views = {
        (seed, epoch, item): labelled_images(index, VIEW, (seed, epoch))[item].image
        for seed in (0, 1)
        for epoch in (0, 1)
        for item in (0, 1)
    }
    again = labelled_images(index, VIEW, (1, 0))
    assert torch.equal(again[1].image, views[1, 0, 1])  # asked for alone
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002  (the global state must not matter)
    assert torch.equal(again[1].image, views[1, 0, 1])
    pictures = list(views.values())
    assert all(not torch.equal(a, b) for n, a in enumerate(pictures) for b in pictures[:n])


def test_the_crop_is_keyed_by_the_item_and_not_only_its_image(index: Index) -> None:
    twins = replace(index, images=index.images.assign(path="0.png"))
    images = labelled_images(twins, VIEW, (0, 0))
    assert not torch.equal(images[0].image, images[1].image)


@pytest.mark.parametrize(("height", "width"), [(300, 500), (400, 260)])
@pytest.mark.parametrize("minimum_area", [0.08, 0.6])
def test_crops_are_distributed_as_torchvisions(
    height: int, width: int, minimum_area: float
) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    image = torch.zeros(3, height, width)
    scale, ratio = [minimum_area, 1.0], list(RATIO)
    theirs = np.array([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(3000)])
    ours = np.array([random_crop(height, width, minimum_area, rng) for _ in range(3000)])
    for crops in (ours, theirs):
        assert (crops[:, :2] >= 0).all()
        assert (crops[:, 0] + crops[:, 2] <= height).all()
        assert (crops[:, 1] + crops[:, 3] <= width).all()
    for of in (
        lambda c: c[:, 0],
        lambda c: c[:, 1],
        lambda c: c[:, 2] * c[:, 3],
        lambda c: c[:, 3] / c[:, 2],
    ):
        assert kstest(of(ours), of(theirs)).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(20, 400), (400, 20), (1, 9)])
def test_where_no_crop_fits_the_centre_is_taken_as_by_torchvision(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    image = torch.zeros(3, height, width)
    expected = RandomResizedCrop.get_params(image, [0.9, 1.0], list(RATIO))
    assert random_crop(height, width, 0.9, rng) == expected


def test_half_of_the_training_views_are_mirrored() -> None:
    image = picture(48, 48)
    view, plain = (
        ImageRecipe(size=32, resize=36, flip=flip, minimum_area=0.5) for flip in (True, False)
    )
    mirrored = 0
    for seed in range(200):
        turned, straight = (
            random_view(image, r, np.random.default_rng(seed)) for r in (view, plain)
        )
        if not torch.equal(turned, straight):
            assert torch.equal(turned, straight.flip(2))
            mirrored += 1
    assert 70 < mirrored < 130  # 4 sigma


def test_a_training_view_is_the_crop_resized() -> None:
    image = picture(120, 90)
    plain = ImageRecipe(size=32, resize=36, flip=False)
    for seed in range(5):
        top, left, height, width = random_crop(120, 90, 0.08, np.random.default_rng(seed))
        box = (left, top, left + width, top + height)
        expected = functional.to_pil_image(image).crop(box).resize((32, 32), Image.BILINEAR)
        view = random_view(image, plain, np.random.default_rng(seed))
        difference = np.array(expected).astype(int) - view.permute(1, 2, 0).numpy()
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(120, 90), (50, 101), (20, 30)])
def test_the_test_view_is_the_centre_of_the_resized_image(height: int, width: int) -> None:
    image = picture(height, width)
    official = Compose([Resize(36), CenterCrop(32)])
    expected = np.array(official(functional.to_pil_image(image))).astype(int)
    difference = expected - central_view(image, 32, 36).permute(1, 2, 0).numpy()
    assert np.abs(difference).max() <= 1


def test_scores_are_those_of_the_timm_model_on_normalised_images() -> None:
    network = build(TINY, classes=3)
    model = Classifier(network, recipe()).eval()
    images = torch.stack([picture(32, 32, seed) for seed in range(4)])
    config = network.pretrained_cfg
    mean, std = (torch.tensor(config[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        expected = network((images / 255 - mean) / std)
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)


def test_the_loss_spreads_the_smoothing_over_all_classes() -> None:
    torch.manual_seed(0)
    model = Classifier(build(TINY, classes=3), recipe(label_smoothing=0.3)).train()
    images = torch.stack([picture(32, 32, seed) for seed in range(4)])
    targets = [torch.tensor(c) for c in (0, 2, 1, 2)]
    loss = model(images, targets)["loss_class"]
    scores = model.backbone((images / 255 - _constant("mean", model)) / _constant("std", model))
    aims = 0.7 * nn.functional.one_hot(torch.stack(targets), 3) + 0.3 / 3
    by_hand = -(aims * scores.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, by_hand, rtol=1e-4, atol=1e-5)


def _constant(name: str, model: Classifier) -> torch.Tensor:
    return torch.tensor(model.backbone.pretrained_cfg[name]).view(1, 3, 1, 1)


def test_what_the_recipe_freezes_survives_train() -> None:
    frozen = recipe(
        backbone={"output_stride": 32, "batch_norm": "frozen", "freeze": ["conv1", "layer1"]}
    )
    model = Classifier(build(TINY, classes=3), frozen)
    model.eval()
    model.train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert model.training and norms and not any(norm.training for norm in norms)
    still = {n for n, p in model.backbone.named_parameters() if not p.requires_grad}
    assert {n for n, _ in model.backbone.named_parameters() if n.startswith("layer1.")} <= still
    assert "fc.weight" not in still


def test_an_index_without_classes_is_refused(index: Index, tmp_path: Path) -> None:
    bare = replace(index, images=index.images.drop(columns="class_id"))
    with pytest.raises(InputError, match="its images have no class"):
        labelled_images(bare, VIEW)
    wrong = replace(index, images=index.images.assign(class_id=[0, 2, 1]))
    with pytest.raises(InputError, match=r"1\.png: class_id 2 is none of the 2 classes"):
        labelled_images(wrong, VIEW)


def save_classifier(path: Path, **changes: object) -> Classifier:
    model = Classifier(build(TINY, classes=3), recipe()).eval()
    header = {
        "architecture": TINY.model_dump(mode="json"),
        "task": "classification",
        "classes": ["a", "b", "c"],
        "recipe": model.recipe.model_dump(mode="json"),
    }
    save_backbone(path, model.state_dict(), {**header, **changes})
    return model


def test_a_classifier_is_rebuilt_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = save_classifier(path)
    loaded, header = load_classifier(path)
    images = torch.stack([picture(32, 32, seed) for seed in range(2)])
    assert header["classes"] == ["a", "b", "c"] and loaded.recipe == model.recipe
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))


def test_a_file_that_is_no_classifier_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_classifier(path, task="detection")
    with pytest.raises(InputError, match=r"holds no classifier \(task: detection\)"):
        load_classifier(path)
    save_classifier(path, classes=["a", "b"])
    with pytest.raises(InputError, match="not those of its header"):
        load_classifier(path)
