from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from detransfer.console import InputError
from detransfer.recipes.classification import ClassificationRecipe, FeatureRecipe, ProbeRecipe
from detransfer.recipes.detection import DetectionRecipe, ScaleRecipe
from detransfer.recipes.evaluation import CocoRecipe, InferenceRecipe
from detransfer.recipes.loading import _check_stage, load_recipes, superclasses
from detransfer.recipes.training import TrainingRecipe
from detransfer.strict import Strict, load_file
from detransfer.study import load_study

TRAINING = """\
task: classification
training:
  epochs: 2  # passes
  batch_size: 16
  optimizer: sgd
  learning_rate: 1e-2  # YAML 1.1 reads a text here
  weight_decay: 0.0001
  schedule: step
  step_epochs: [1, 1.5]
backbone: {output_stride: 16, batch_norm: frozen, freeze: [layer1]}
images: {size: 96, resize: 110}
"""
DETECTION = """\
task: detection
training:
  epochs: 1
  batch_size: 4
  optimizer: sgd
  learning_rate: 0.01
  weight_decay: 0
  schedule: constant
backbone: {output_stride: 16, batch_norm: frozen}
chips:
  size: 128
  stride: [24, 40]
  minimum_side: 2
  scales:
    - {factor: 2.0, valid_range: [0, 40]}
    - {long: 128, valid_range: [30, null]}
rpn: {anchor_sizes: [16, 32]}
head: {kind: faster_rcnn}
"""
FEATURES = """\
task: features
size: 224
resize: 256
output_stride: 16
batch_size: 64
"""
PROBE = """\
task: probe
penalties: [1, 0.1]
tolerance: 1e-5
iterations: 500
shots: [1, 5]
neighbours: [1]
"""
FINEST = "chips: scales: the finest comes first, for the smallest objects; scales.1 is finer than"
INFERENCE = """\
task: detection
scales: [{short: 128, long: 256}]
batch_size: 1
soft_nms_sigma: 0.45
metric: {kind: voc, ious: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95], convention: AP07}
"""


def refusal(path: Path, text: str, model: type[Any]) -> str:
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_file(path, model)
    message = str(caught.value)
    assert all(line.startswith(f"{path}: ") for line in message.splitlines())
    return message.removeprefix(f"{path}: ")


def test_valid_recipes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(TRAINING)
    recipe = load_file(path, ClassificationRecipe)
    assert recipe.training.learning_rate == 0.01
    assert recipe.training.step_epochs == (1.0, 1.5)
    path.write_text(DETECTION)
    chips = load_file(path, DetectionRecipe).chips
    assert [scale.valid_range for scale in chips.scales] == [(0, 40), (30, None)]
    path.write_text(INFERENCE)
    assert load_file(path, InferenceRecipe).metric.ious[:2] == (0.1, 0.2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: 2", "epoch: 2", "unknown key 'training.epoch'; did you mean 'epochs'?"),
        (
            "optimizer: sgd",
            "optimizer: sdg",
            "training.optimizer: Input should be 'sgd' or 'adamw'",
        ),
        ("  batch_size: 16\n", "", "key 'training.batch_size' is missing"),
        ("batch_size: 16", "batch_size: many", "training.batch_size: Input should be a valid int"),
        ("batch_size: 16", "batch_size: 1.5", "training.batch_size: Input should be a valid int"),
        ("epochs: 2", "epochs: 0", "training.epochs: Input should be greater than 0 (got 0)"),
        ("epochs: 2", "epochs: .inf", "training.epochs: Input should be a finite number"),
        ("1e-2", ".nan", "training.learning_rate: Input should be a finite number"),
        ("[1, 1.5]", "[0, 1]", "training.step_epochs.0: Input should be greater than 0"),
        ("schedule: step", "schedule: cosine", "training: step_epochs: given exactly when"),
        ("[1, 1.5]", "[1, 9]", "training: step_epochs: 9 is no epoch of"),
        ("  step_epochs: [1, 1.5]\n", "", "training: step_epochs: given exactly when schedule"),
        (
            "batch_size: 16",
            "batch_size: 16\n  micro_batch: 5",
            "training: micro_batch: must divide",
        ),
        ("output_stride: 16", "output_stride: 12", "backbone.output_stride: Input should be 8, 16"),
        ("resize: 110", "resize: 90", "images: resize: must be at least `size`"),
        ("resize: 110", "rezise: 110", "unknown key 'images.rezise'; did you mean 'resize'?"),
    ],
)
def test_training_faults_name_file_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert TRAINING.count(old) == 1
    lines = refusal(tmp_path / "recipe.yaml", TRAINING.replace(old, new), ClassificationRecipe)
    assert message in lines


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("stride: [24, 40]", "stride: [40, 24]", "chips: stride: needs 0 < lowest <= highest < s"),
        ("stride: [24, 40]", "stride: [24, 127]", "chips: stride: needs 0 < lowest <= highest < s"),
        ("[30, null]", "[30, 20]", "chips.scales.1: valid_range: 30.0 to 20.0 is empty"),
        ("  size: 128", "  size: 120", "chips.size: 120 is no multiple of backbone.output_stride"),
        ("[0, 40]", "[-1, 40]", "chips.scales.0: valid_range: begins at -1; sizes are 0 or more"),
        ("long: 128", "long: 128, short: 200", "chips.scales.1: short: needs `long`, and must not"),
        ("factor: 2.0", "factor: 2.0, short: 9", "chips.scales.0: short: needs `long`, and must"),
        (
            "[30, null]",
            "[40.5, null]",
            "chips: scales: no valid_range has the sizes from 40 to 40.5",
        ),
        ("{long: 128, valid_range: [30, null]}", "{factor: 3, valid_range: [30, null]}", FINEST),
        ("[0, 40]", "[40, null]", FINEST),
        ("[30, null]", "[30, 39]", FINEST),
        ("factor: 2.0, ", "", "chips.scales.0: give either `long`"),
        ("factor: 2.0, ", "factor: 2.0, long: 9, ", "chips.scales.0: give either `long`"),
        ("factor: 2.0", "facto: 2.0", "unknown key 'chips.scales.0.facto'; did you mean 'factor'?"),
        ("[16, 32]", "[]", "rpn.anchor_sizes: Tuple should have at least 1 item"),
        ("[16, 32]", "[16, -32]", "rpn.anchor_sizes.1: Input should be greater than 0 (got -32)"),
        ("[16, 32]", "[16, 32, 16]", "rpn.anchor_sizes: 16 stands there twice (got [16, 32, 16])"),
        ("[16, 32]", "[16], anchor_ratios: [1, 1.0]", "rpn.anchor_ratios: 1 stands there twice"),
        ("[16, 32]", "[16], anchor_ratios: []", "rpn.anchor_ratios: Tuple should have at least 1"),
        (
            "kind: faster_rcnn",
            "kind: faster_rcnn, positive_share: 2",
            "head.positive_share: Input should be less than",
        ),
        ("kind: faster_rcnn", "kind: rfcn300", "head: Input tag 'rfcn300' found using 'kind'"),
        (
            "kind: faster_rcnn",
            "kind: rfcn3000, projecton: 9",
            "unknown key 'head.projecton'; did you mean 'projection'?",
        ),
    ],
)
def test_detection_faults_name_file_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert DETECTION.count(old) == 1
    line = refusal(tmp_path / "recipe.yaml", DETECTION.replace(old, new), DetectionRecipe)
    assert message in line and "\n" not in line


@pytest.mark.parametrize(
    ("finer", "coarser"),
    [
        ({"factor": 2.0}, {"factor": 1.5}),
        ({"long": 1280}, {"long": 512}),
        ({"short": 800, "long": 1280}, {"short": 480, "long": 512}),
        ({"short": 800, "long": 1280}, {"short": 600, "long": 1280}),
        ({"short": 1400, "long": 2000}, {"short": 800, "long": 2000}),
        ({"long": 512}, {"short": 480, "long": 512}),
    ],
)
def test_a_finer_scale_enlarges_every_image_more(
    finer: dict[str, Any], coarser: dict[str, Any]
) -> None:
    one, other = ScaleRecipe(**finer), ScaleRecipe(**coarser)
    assert one.finer_than(other) and not other.finer_than(one) and not one.finer_than(one)
    for width, height in ((500, 375), (300, 301), (100, 900)):
        assert enlargement(one, width, height) >= enlargement(other, width, height)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"factor": 2.0}, {"long": 128}),
        ({"short": 800, "long": 1280}, {"short": 600, "long": 1333}),
        ({"long": 600}, {"short": 400, "long": 700}),
    ],
)
def test_which_scale_is_finer_may_depend_on_the_image(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    first, second = ScaleRecipe(**one), ScaleRecipe(**other)
    assert not first.finer_than(second) and not second.finer_than(first)
    sizes = ((50, 20), (100, 100), (500, 490), (300, 100), (1000, 100))
    signs = {enlargement(first, *size) > enlargement(second, *size) for size in sizes}
    assert signs == {True, False}


def enlargement(scale: ScaleRecipe, width: int, height: int) -> float:
    """The factor, as SNIPER's code resizes: the shorter side first, then the longer one capped."""
    if scale.factor is not None:
        return scale.factor
    assert scale.long is not None
    cap = scale.long / max(width, height)
    return cap if scale.short is None else min(cap, scale.short / min(width, height))


def test_scales_of_inference_leave_no_size_out_in_any_order(tmp_path: Path) -> None:
    scales = "[{factor: 1, valid_range: [60, null]}, {factor: 2, valid_range: [0, 40]}]"
    text = INFERENCE.replace("[{short: 128, long: 256}]", scales)
    line = refusal(tmp_path / "recipe.yaml", text, InferenceRecipe)
    assert line == "scales: no valid_range has the sizes from 40 to 60"
    (tmp_path / "recipe.yaml").write_text(text.replace("40]", "60]"))
    load_file(tmp_path / "recipe.yaml", InferenceRecipe)
    for outer, gap in (("[0, 40]", "sizes from 0 to 5"), ("[60, null]", "sizes above 90; end one")):
        cut = {"[0, 40]": "[5, 60]", "[60, null]": "[40, 90]"}[outer]
        (tmp_path / "recipe.yaml").write_text(text.replace(outer, cut).replace("40]", "60]"))
        with pytest.raises(InputError, match=f"no valid_range has the {gap}"):
            load_file(tmp_path / "recipe.yaml", InferenceRecipe)
    # A range inside another one hides no gap behind it.
    nested = "[{factor: 4, valid_range: [1, 2]}, " + scales.removeprefix("[")
    (tmp_path / "recipe.yaml").write_text(INFERENCE.replace("[{short: 128, long: 256}]", nested))
    with pytest.raises(InputError, match="no valid_range has the sizes from 40 to 60"):
        load_file(tmp_path / "recipe.yaml", InferenceRecipe)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.95]", "95]", "metric.ious.9: Input should be less than or equal to 1 (got 95)"),
        ("0.95]", "0]", "metric.ious.9: Input should be greater than 0 (got 0)"),
        ("0.95]", "0.9000000001]", "metric.ious: 0.9 stands there twice"),
        (" 0.5,", " 0.55,", "metric: ious: 0.5 must be among them"),
    ],
)
def test_overlap_thresholds_are_distinct_shares(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    line = refusal(tmp_path / "recipe.yaml", INFERENCE.replace(old, new), InferenceRecipe)
    assert line.startswith(message)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", 3),
        ("a: 1\n\tb: 2\n", 2),
        ("a: 1\nb: c: d\n", 2),
        ("a: {b: 1}\nc:\n  b: 1\n  d: 2\n  b: 1\n", 5),
    ],
)
def test_a_syntax_error_is_one_line_that_names_the_line(
    tmp_path: Path, text: str, number: int
) -> None:
    line = refusal(tmp_path / "recipe.yaml", text, TrainingRecipe)
    assert line.startswith(f"line {number}: not readable as YAML: ")
    assert "\n" not in line


def test_files_that_are_no_recipe_are_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    assert refusal(path, "", TrainingRecipe).startswith("expected keys and values")
    assert refusal(path, "- 1\n", TrainingRecipe) == "expected keys and values, found list"
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(InputError, match=r"recipe\.yaml: not readable as YAML: 'utf-8' codec"):
        load_file(path, TrainingRecipe)
    with pytest.raises(InputError, match=r"absent\.yaml: there is no such file"):
        load_file(tmp_path / "absent.yaml", TrainingRecipe)
    with pytest.raises(InputError, match="Is a directory"):
        load_file(tmp_path, TrainingRecipe)


def test_load_recipes_reads_every_recipe_of_the_study(tmp_path: Path) -> None:
    job: dict[str, int] = {}
    study = load_study(
        {
            "study": "demo",
            "results": "results",
            "data": "data",
            "state": "state",
            "recipes": str(tmp_path),
            "seeds": [0],
            "backbone": {"name": "resnet18"},
            "pretrainings": {
                "random": {"kind": "untrained"},
                "coco": {"kind": "detection", "dataset": "coco", "start": "random"},
            },
            "targets": {
                "voc": {"task": "detection", "dataset": "voc"},
                "caltech256": {"task": "classification", "dataset": "caltech256"},
            },
            "resources": {"train": job, "predict": job, "data": job},
        },
        "demo.yaml",
    )
    texts = {
        "pretrain_coco": DETECTION,
        "finetune_voc": DETECTION,
        "finetune_caltech256": TRAINING,
        "evaluate_coco": INFERENCE.replace("kind: voc, ", "kind: coco}  # {"),
        "evaluate_voc": INFERENCE,
        "features": FEATURES,
        "probe": PROBE,
    }
    (tmp_path / "demo").mkdir()
    for stage, text in texts.items():
        with pytest.raises(InputError, match=f"{stage}.yaml: there is no such file"):
            load_recipes(study)
        (tmp_path / "demo" / f"{stage}.yaml").write_text(text)
    found = load_recipes(study)
    assert found.keys() == texts.keys()
    assert isinstance(found["evaluate_coco"].metric, CocoRecipe)  # type: ignore[attr-defined]
    for stage, text in texts.items():
        other = TRAINING if stage != "finetune_caltech256" else DETECTION
        path = tmp_path / "demo" / f"{stage}.yaml"
        path.write_text(other)
        with pytest.raises(InputError) as caught:
            load_recipes(study)
        wanted, given = ("detection", "classification")[:: 1 if other == TRAINING else -1]
        wanted = stage if stage in ("features", "probe") else wanted
        assert str(caught.value) == f"{path}: task: Input should be '{wanted}' (got '{given}')"
        path.write_text(text)
    path = tmp_path / "demo" / "evaluate_voc.yaml"
    path.write_text(INFERENCE.replace("0.3, ", "").replace("0.9, ", ""))
    with pytest.raises(InputError) as caught:
        load_recipes(study)
    assert str(caught.value) == (
        f"{path}: metric.ious: Table 2 and Figure 1 show the overlaps 0.1, 0.2, ..., 0.9; add "
        "0.3, 0.9"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("resize: 256", "resize: 200", "resize: must be at least `size`"),
        ("output_stride: 16", "output_stride: 12", "output_stride: Input should be 8, 16 or 32"),
        ("batch_size: 64", "batchsize: 64", "unknown key 'batchsize'; did you mean 'batch_size'?"),
        ("[1, 0.1]", "[0.1, 1]", "penalties: the largest comes first, where the path starts"),
        ("[1, 0.1]", "[]", "penalties: Tuple should have at least 1 item"),
        ("[1, 0.1]", "[1, 0]", "penalties.1: Input should be greater than 0"),
        ("[1, 5]", "[5, 5]", "shots: 5 stands there twice"),
        ("tolerance: 1e-5", "tolerance: 1", "tolerance: Input should be less than 1"),
    ],
)
def test_faults_of_features_and_probes_name_the_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text, model = (FEATURES, FeatureRecipe) if old in FEATURES else (PROBE, ProbeRecipe)
    assert text.count(old) == 1
    assert message in refusal(tmp_path / "recipe.yaml", text.replace(old, new), model)


RFCN = "head: {kind: rfcn3000, superclasses: 4}\n"
SEARCHING = TRAINING + "search: {learning_rates: [0.1, 0.01], weight_decays: [0]}\n"


@pytest.mark.parametrize(
    ("stage", "text", "message"),
    [
        (
            "finetune_voc",
            DETECTION.replace("head: {kind: faster_rcnn}\n", RFCN),
            "head.superclasses: only a pre-training's classes are clustered; give 1",
        ),
        (
            "pretrain_cls",
            SEARCHING,
            "search: is for targets; a pre-training takes one rate as given",
        ),
    ],
)
def test_a_stage_has_only_what_it_can_use(
    tmp_path: Path, stage: str, text: str, message: str
) -> None:
    path = tmp_path / f"{stage}.yaml"
    model = DetectionRecipe if "rpn" in text else ClassificationRecipe
    with pytest.raises(InputError) as caught:
        _check_stage(path, stage, load(path, text, model))
    assert str(caught.value) == f"{path}: {message}"
    other = "pretrain_voc" if stage == "finetune_voc" else "finetune_cls"
    _check_stage(path, other, load(path, text, model))


def load(path: Path, text: str, model: type[Strict]) -> Strict:
    path.write_text(text)
    return load_file(path, model)


def test_classes_are_grouped_by_r_fcn_3000_alone(tmp_path: Path) -> None:
    grouped = DETECTION.replace("head: {kind: faster_rcnn}\n", RFCN)
    path = tmp_path / "recipe.yaml"
    assert superclasses(load(path, grouped, DetectionRecipe)) == 4
    assert superclasses(load(path, DETECTION, DetectionRecipe)) == 1
    assert superclasses(load(path, TRAINING, ClassificationRecipe)) == 1


def test_every_key_that_holds_a_value_is_explained() -> None:
    models = [m for m in Strict.__subclasses__() if m.__module__.startswith("detransfer.recipes.")]
    unexplained = [
        f"{model.__name__}.{name}"
        for model in models
        for name, field in model.model_fields.items()
        if field.annotation not in models and not field.description
    ]
    # A section's own docstring explains it, and `task` says which recipe it is.
    assert [name for name in unexplained if not name.endswith(".task")] == []
    assert len(models) > 10


def test_sizes_between_the_scales_are_refused(tmp_path: Path) -> None:
    text = DETECTION.replace("[30, null]", "[55, null]")
    message = refusal(tmp_path / "recipe.yaml", text, DetectionRecipe)
    assert message == "chips: scales: no valid_range has the sizes from 40 to 55"
    path = tmp_path / "recipe.yaml"
    path.write_text(text.replace("  size: 128", "  size: 128\n  coarsest_takes_rest: true"))
    assert load_file(path, DetectionRecipe).chips.coarsest_takes_rest
    path.write_text(DETECTION.replace("[30, null]", "[40, null]"))
    assert not load_file(path, DetectionRecipe).chips.coarsest_takes_rest


def test_negative_chips_need_a_number_for_each_scale(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    text = DETECTION.replace("rpn:", "  negatives: {per_image: 1}\nrpn:")
    message = refusal(path, text, DetectionRecipe)
    assert "negatives.minimum_proposals: has 3 numbers for 2 scales" in message
    path.write_text(text.replace("per_image: 1", "minimum_proposals: [25, 0]"))
    negatives = load_file(path, DetectionRecipe).chips.negatives
    assert negatives is not None and negatives.per_image == 2
    path.write_text(DETECTION)
    assert load_file(path, DetectionRecipe).chips.negatives is None


def test_a_batch_that_the_gpus_of_a_job_cannot_share_is_refused(repository: Path) -> None:
    content = yaml.safe_load((repository / "config/demo.yaml").read_text())
    content["recipes"] = str(repository / "config/recipes")
    for gpus in (1, 2, 4):
        content["resources"]["train"]["gpu"] = gpus
        load_recipes(load_study(content, "config/demo.yaml"))
    content["resources"]["train"]["gpu"] = 3
    with pytest.raises(InputError, match=r"\.yaml: training\.batch_size \d+ .* among 3 GPUs"):
        load_recipes(load_study(content, "config/demo.yaml"))
