# Pre-trainings: how each comes by its weights, and what the stages after it take of them.


def kept_offsets(wildcards):
    """The detector whose offsets a segmenter keeps: of a pre-training on detection, if asked to."""
    recipe = RECIPES[f"finetune_{wildcards.target}"]
    if recipe.offsets == "zero" or wildcards.pretraining not in STUDY.detectors:
        return []
    return RESULTS / "pretraining" / wildcards.pretraining / "model.safetensors"


def trained_by(kind):
    """The constraint on pre-trainings that the study trains on a kind of task."""
    return one_of(name for name, given in STUDY.trained.items() if given.kind == kind)


def source_recipe(wildcards):
    """The recipe that trains a pre-training; a matched one: that of what it repeats."""
    return STUDY.recipe(f"pretrain_{original(wildcards.pretraining)}")


def original(pretraining):
    """The pre-training whose chips a pre-training is trained on: itself, if it is not matched."""
    return STUDY.matched[pretraining].of if pretraining in STUDY.matched else pretraining


def mined(stage, folder):
    """The proposals that a stage's recipe takes negative chips from, where it takes any."""
    chips = getattr(RECIPES[stage], "chips", None)
    return folder / "proposals.parquet" if chips and chips.negatives else []


def source_proposals(wildcards):
    name = original(wildcards.pretraining)
    return mined(f"pretrain_{name}", RESULTS / "pretraining" / name)


def target_proposals(wildcards):
    place = f"{wildcards.target}/{wildcards.pretraining}/seed{wildcards.seed}"
    return mined(f"finetune_{wildcards.target}", RESULTS / "detection" / place)


def with_proposals(wildcards, input):
    """The option of a detector's training that names the proposals, where there are any."""
    return f"--proposals {input.proposals}" if input.proposals else ""


def own_inference(wildcards):
    """The option of a detection pre-training that names the recipe which it will be scored by.

    It goes into a parameter and not among the inputs, whose content is in the key of a shared
    output: with another recipe of inference the training is still the same.
    """
    return f"--inference {STUDY.recipe(f'evaluate_{wildcards.pretraining}')}"


def target_inference(wildcards, input):
    """The option of a fine-tuned detector that names the recipe which it will be scored by."""
    return f"--inference {input.inference}"


def target_options(wildcards, input):
    """The options of a fine-tuning of a detector: what it takes, and what will be asked of it."""
    return f"{with_proposals(wildcards, input)} {target_inference(wildcards, input)}"


def source_superclasses(wildcards):
    """The super-classes that a detection pre-training detects, where its recipe asks for any."""
    name = wildcards.pretraining
    return RESULTS / "pretraining" / name / "superclasses.csv" if name in GROUPED else []


def source_options(wildcards, input):
    """The options of a detector's pre-training: what it takes, and what will be asked of it."""
    more = f"{with_proposals(wildcards, input)} {own_inference(wildcards)}"
    return f"{more} --superclasses {input.superclasses}" if input.superclasses else more


def own_metrics(wildcards):
    """The quality of a pre-training on detection at its own task."""
    name = wildcards.pretraining
    return RESULTS / "pretraining" / name / "metrics.json" if name in STUDY.detectors else []


def own_fit(wildcards):
    """How the training of a classifier went, which is all that is known of its quality."""
    name = wildcards.pretraining
    classifier = name in STUDY.trained and STUDY.trained[name].kind == "classification"
    return RESULTS / "pretraining" / name / "fit.json" if classifier else []


def card_quality(wildcards, input):
    """The options of model_card.py that name what tells of a pre-training's quality."""
    metrics = f"--metrics {input.metrics}" if input.metrics else ""
    return f"--fit {input.fit}" if input.fit else metrics


def card_data(wildcards):
    """The options of model_card.py that name what a pre-training was trained on here."""
    if wildcards.pretraining in GIVEN:
        return ""
    dataset = STUDY.source(wildcards.pretraining).dataset
    rendered = "--rendered" if STUDY.render_world else ""
    return f"--dataset {dataset} {rendered} --archives {' '.join(DATASETS[dataset].archives)}"


def given_weights(wildcards):
    """The options of import_backbone.py that say where the weights come from."""
    given = STUDY.pretrainings[wildcards.pretraining]
    if isinstance(given, Untrained):
        return f"--untrained --seed {given.seed}"
    if given.timm:
        return f"--timm {given.timm}"
    prefix = f"--prefix {given.prefix}" if given.prefix else ""
    if given.url:
        return f"--url {shlex.quote(given.url)} --sha256 {given.sha256} {prefix}"
    return f"--weights {given.file} {prefix}"


def given_file(wildcards):
    given = STUDY.pretrainings[wildcards.pretraining]
    return given.file if isinstance(given, Imported) and given.file else []


def backbone(pretraining):
    return RESULTS / "pretraining" / pretraining / "backbone.safetensors"


def frozen(pretraining):
    """The weights that features are taken from: of a training the model, with its offsets."""
    name = "model" if pretraining in TRAINED else "backbone"
    return RESULTS / "pretraining" / pretraining / f"{name}.safetensors"
