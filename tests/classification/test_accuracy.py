from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torch import Tensor, nn

from detransfer.backbone import build
from detransfer.classification.accuracy import accuracy, bootstrap_interval, permuted
from detransfer.classification.evaluate import predict
from detransfer.classification.finetune import Classifier, LabelledImages
from detransfer.recipes.classification import ClassificationRecipe, ImageRecipe
from detransfer.study import BackboneChoice

SHARES = [0.4, 0.2, 0.1, 0.1, 0.08, 0.07, 0.05]


@pytest.mark.parametrize("seed", range(5))
def test_accuracies_and_floors_are_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.choice(len(SHARES), 300, p=SHARES)
    answers = np.where(rng.random(300) < 0.6, truth, rng.permutation(truth))
    ours = accuracy(truth, answers)
    assert ours.top1 == pytest.approx(100 * accuracy_score(truth, answers))
    assert ours.mean_class == pytest.approx(100 * balanced_accuracy_score(truth, answers))
    constant = DummyClassifier(strategy="most_frequent").fit(truth[:, None], truth)
    guess = constant.predict(truth[:, None])
    assert ours.top1_floor == pytest.approx(100 * accuracy_score(truth, guess))
    assert ours.mean_class_floor == pytest.approx(100 * balanced_accuracy_score(truth, guess))


def test_permuted_labels_are_the_same_in_another_order() -> None:
    truth = np.repeat(np.arange(10), 200)
    dealt = permuted(truth, 0)
    np.testing.assert_array_equal(np.sort(dealt), truth)
    np.testing.assert_array_equal(dealt, permuted(truth, 0))
    assert not np.array_equal(dealt, permuted(truth, 1))
    # An image keeps its class as often as any other has it: 10 %, with deviation 0.7 %.
    assert (dealt == truth).mean() == pytest.approx(0.1, abs=0.02)


def test_an_answer_that_is_never_the_truth_is_only_wrong() -> None:
    ours = accuracy(np.array([0, 0, 0, 4]), np.array([0, 7, 0, 2]))
    assert (ours.top1, ours.top1_floor) == (50.0, 75.0)
    assert (ours.mean_class, ours.mean_class_floor) == (pytest.approx(100 / 3), 50.0)


class Brightness(nn.Module):
    """Prefers class i of three, the closer the mean of an image is to 80 * i."""

    def forward(self, images: Tensor) -> Tensor:
        level = images.float().mean((1, 2, 3))[:, None]
        return -((level - torch.tensor([[0.0, 80.0, 160.0]])) ** 2) / 1000


@pytest.fixture
def grey(tmp_path: Path) -> LabelledImages:
    levels = [0, 160, 80, 90, 0, 30, 160]
    for number, level in enumerate(levels):
        Image.new("RGB", (40, 40), (level,) * 3).save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(len(levels))]
    return LabelledImages(paths, np.array([0, 2, 1, 1, 0, 1, 0]), ImageRecipe(size=32, resize=32))


def test_predictions_follow_the_order_of_the_images(grey: LabelledImages) -> None:
    predicted, probability = predict(Brightness(), grey, torch.device("cpu"), batch_size=3)
    assert predicted.tolist() == [0, 2, 1, 1, 0, 0, 2]
    scores = -((np.array([30.0]) - [0, 80, 160]) ** 2) / 1000
    softmax = np.exp(scores) / np.exp(scores).sum()
    assert probability[5] == pytest.approx(softmax[1], rel=1e-4)  # of the true class, not the best
    assert probability.dtype == np.float32 and probability[0] > 0.99 and probability[6] < 0.01


def test_the_batch_size_does_not_matter(grey: LabelledImages) -> None:
    recipe = ClassificationRecipe.model_validate(
        {
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
            "images": {"size": 32, "resize": 32},
        }
    )
    choice = BackboneChoice(
        name="resnet10t", arguments={"channels": [8, 8, 16, 16], "stem_width": 4}
    )
    torch.manual_seed(0)
    model = Classifier(build(choice, classes=3), recipe)
    model.train()  # left so: predict must not use the statistics of a batch
    whole = predict(model, grey, torch.device("cpu"), batch_size=7)
    for size in (1, 2, 5):
        predicted, probability = predict(model, grey, torch.device("cpu"), batch_size=size)
        assert predicted.tolist() == whole[0].tolist()
        np.testing.assert_allclose(probability, whole[1], rtol=1e-5)


def test_the_interval_is_that_of_drawing_images_with_replacement() -> None:
    right = np.random.default_rng(0).random(150) < 0.7
    rng = np.random.default_rng(1)
    shares = [100 * right[rng.integers(0, 150, 150)].mean() for _ in range(4000)]
    expected = np.percentile(shares, [2.5, 97.5])
    assert bootstrap_interval(right, 0) == pytest.approx(expected, abs=0.7)  # one image
    assert bootstrap_interval(right, 0) == bootstrap_interval(right, 0)
    assert bootstrap_interval(np.ones(20, bool), 0) == (100.0, 100.0)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(300):
        low, high = bootstrap_interval(rng.random(400) < 0.8, seed)
        inside += low <= 80 <= high
    assert 0.91 < inside / 300 < 0.98
