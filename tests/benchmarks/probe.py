"""Linear probes at full size: the whole penalty path beside scikit-learn's, and the widest layer.

The path: 15,420 images of 2,048 features and 257 classes (Caltech-256), five penalties on four
fifths of the images and the best one on all, each solution starting the next, by both to the same
objective (about 1e-5 above its minimum, where scikit-learn needs a tolerance of 1e-5). The widest
layer: 50,176 features of as many images in a file of 3 GB, a few evaluations, for its memory.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from detransfer.classification.accuracy import held_out
from detransfer.classification.probe import fit_probe
from detransfer.recipes.classification import ProbeRecipe

IMAGES, DIMENSION, CLASSES, WIDE = 15_420, 2048, 257, 50_176
PENALTIES = (1.0, 0.1, 0.01, 0.001)
THREADS = 2
NAMES = [str(number) for number in range(CLASSES)]


def recipe(penalties: tuple[float, ...], iterations: int) -> ProbeRecipe:
    return ProbeRecipe(
        task="probe",
        penalties=penalties,
        tolerance=1e-4,
        iterations=iterations,
        shots=(),
        neighbours=(),
    )


def made_up(rng: np.random.Generator, class_ids: np.ndarray) -> np.ndarray:
    """Features as a network has them: not negative, correlated, a spectrum that falls."""
    spectrum = 1 / np.sqrt(1 + np.arange(DIMENSION))
    mixing = np.float32(rng.normal(size=(DIMENSION, DIMENSION)) * spectrum[:, None])
    centres = np.float32(0.35 * rng.normal(size=(CLASSES, DIMENSION)))
    noise = rng.standard_normal((len(class_ids), DIMENSION), np.float32)
    return np.maximum((centres[class_ids] + noise) @ mixing, 0)


def objective(x: np.ndarray, y: np.ndarray, model: LogisticRegression, penalty: float) -> float:
    scores = x @ model.coef_.T + model.intercept_
    loss = (logsumexp(scores, axis=1) - scores[np.arange(len(y)), y]).mean()
    return float(loss + penalty / 2 * (model.coef_**2).sum())


def scikit_learn(
    features: np.ndarray, class_ids: np.ndarray, held: np.ndarray, chosen: float
) -> list[float]:
    """Fit the path and the refit, in its own float64; return the objectives."""
    x = features.astype(np.float64)
    x -= x.mean(0)
    x /= x.std(0)
    found = []
    model = LogisticRegression(warm_start=True, max_iter=5000, tol=1e-6)
    for penalty in PENALTIES:
        model.set_params(C=1 / (penalty * (~held).sum()))
        model.fit(x[~held], class_ids[~held])
        found.append(objective(x[~held], class_ids[~held], model, penalty))
    model.set_params(C=1 / (chosen * len(x))).fit(x, class_ids)
    return [*found, objective(x, class_ids, model, chosen)]


def path() -> None:
    rng = np.random.default_rng(0)
    class_ids = np.repeat(np.arange(CLASSES), IMAGES // CLASSES)
    features = made_up(rng, class_ids)
    rows, held = np.arange(len(class_ids)), held_out(class_ids, 0)
    started = time.perf_counter(), time.process_time()
    probe = fit_probe(features, rows, class_ids, NAMES, recipe(PENALTIES, 2000), 0)
    ours = time.perf_counter() - started[0], time.process_time() - started[1]
    started = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs_found = scikit_learn(features, class_ids, held, probe.solution.penalty)
    theirs = time.perf_counter() - started[0], time.process_time() - started[1]
    solutions = [*(point.solution for point in probe.path), probe.solution]
    for solution, other in zip(solutions, theirs_found, strict=True):
        print(
            f"penalty {solution.penalty:g}: objective {solution.objective:.7f} after "
            f"{solution.evaluations} evaluations, scikit-learn {other:.7f}"
        )
    print(f"chosen: {probe.solution.penalty:g}")
    print(
        f"path and refit: {ours[0]:.1f} s ({ours[1]:.1f} s of processor), scikit-learn "
        f"{theirs[0]:.1f} s ({theirs[1]:.1f} s): {theirs[0] / ours[0]:.1f} times as fast"
    )


def widest() -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        shape = (IMAGES, WIDE)
        features = np.lib.format.open_memmap(
            Path(folder) / "blob.npy", mode="w+", dtype=np.float32, shape=shape
        )
        for start in range(0, IMAGES, 257):
            block = rng.standard_normal((min(257, IMAGES - start), WIDE), np.float32)
            features[start : start + 257] = np.maximum(block, 0)
        features.flush()
        class_ids = np.arange(IMAGES) % CLASSES
        mapped = np.load(Path(folder) / "blob.npy", mmap_mode="r")
        started = time.perf_counter()
        probe = fit_probe(mapped, np.arange(IMAGES), class_ids, NAMES, recipe((0.1,), 12), 0)
        seconds = time.perf_counter() - started
        evaluations = probe.path[0].solution.evaluations + probe.solution.evaluations
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{WIDE} features: {evaluations} evaluations in {seconds:.0f} s, peak of the process "
        f"{peak:.2f} GiB"
    )


if __name__ == "__main__":
    with threadpool_limits(THREADS):
        widest() if sys.argv[1:] == ["widest"] else path()
