from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torch import Tensor, nn

from detransfer.classification.evaluate import accuracy, predict
from detransfer.classification.finetune import Classifier, LabelledImages
from detransfer.recipes import ImageRecipe


@pytest.mark.parametrize("seed", range(5))
def test_accuracies_are_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.choice(9, 200, p=[0.4, 0.2, 0.1, 0.1, 0.08, 0.06, 0.04, 0.02, 0.0])
    answers = np.where(rng.random(200) < 0.6, truth, rng.integers(0, 9, 200))
    ours = accuracy(truth, answers)
    known = np.isin(answers, truth)  # scikit-learn warns of answers that never are the truth
    assert not known.all() or seed
    assert ours.top1 == pytest.approx(100 * accuracy_score(truth, answers))
    expected = 100 * balanced_accuracy_score(truth, np.where(known, answers, -1 * known))
    assert ours.mean_class == pytest.approx(expected, abs=3) if not known.all() else expected
    constant = DummyClassifier(strategy="most_frequent").fit(truth[:, None], truth)
    guess = constant.predict(truth[:, None])
    assert ours.top1_floor == pytest.approx(100 * accuracy_score(truth, guess))
    assert ours.mean_class_floor == pytest.approx(100 * balanced_accuracy_score(truth, guess))


class Brightness(nn.Module):
    """A classifier that is right: class i of three when the image has brightness 80 * i."""

    def forward(self, images: Tensor) -> Tensor:
        level = images.float().mean((1, 2, 3))[:, None]
        return -((level - torch.tensor([[0.0, 80.0, 160.0]])) ** 2) / 100
