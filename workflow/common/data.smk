# Data sets: where their files lie, and what a stage reads of them.


def index_code(wildcards):
    """What an index depends on: of all readers, the one for the data set's format."""
    reader = READERS[DATASETS[wildcards.dataset].reader]
    loaded = {"detransfer.data.readers": [reader], "detransfer.data.options": []}
    return code("index", loaded)  # the reader imports its options itself


def images(dataset):
    """The folder of a data set's files: a given one, or that of its extracted archives."""
    return DATASETS[dataset].folder or DATA / dataset


def index_folder(dataset):
    return DATA / "index" / dataset


def index_place(wildcards):
    """The folder of an index as a text, which the key of a shared output needs of a parameter."""
    return str(index_folder(wildcards.dataset))


def index_files(dataset):
    """The three files of an index; those that some readers add lie beside them."""
    names = ("images.parquet", "objects.parquet", "classes.csv")
    return [index_folder(dataset) / name for name in names]


def described_splits(wildcards):
    """What is described of a data set: what is trained on, or else what is evaluated on."""
    dataset = DATASETS[wildcards.dataset]
    return dataset.train_splits or (dataset.eval_split,)


def advised_chip(wildcards):
    """The chip side that scales are advised for: that of the first recipe that trains chips on it."""
    stages = [f"pretrain_{n}" for n, p in STUDY.trained.items() if p.dataset == wildcards.dataset]
    stages += [f"finetune_{n}" for n, t in STUDY.targets.items() if t.dataset == wildcards.dataset]
    chips = [getattr(RECIPES[stage], "chips", None) for stage in stages]
    return next((each.size for each in chips if each), 512)


def occlusion_release(wildcards):
    """Where the occlusion levels of a data set come from: a fetched archive, or a given folder."""
    given = DATASETS[wildcards.dataset].occlusion
    return DATA / "archives" / given if given in ARCHIVES else given


def target_occlusion(wildcards):
    """The occlusion levels of a target's test objects, where its data set has some."""
    dataset = STUDY.targets[wildcards.target].dataset
    return index_folder(dataset) / "occlusion.parquet" if DATASETS[dataset].occlusion else []


def index(dataset):
    """The files of an index, and the images they speak of."""
    return {"index": index_files(dataset), "images": images(dataset)}


def checked_index(dataset):
    """An index that has been looked over; the report's date says nothing about the numbers."""
    findings = RESULTS / "datasets" / dataset / "check.csv"
    return {**index(dataset), "check": ancient(findings)}


def target_index(wildcards):
    return checked_index(STUDY.targets[wildcards.target].dataset)


def source_index(wildcards):
    return checked_index(STUDY.source(wildcards.pretraining).dataset)


def quality_index(wildcards):
    """What the evaluation of a pre-training reads: its own data set and the evaluation's."""
    evaluation = checked_index(quality_dataset(wildcards))
    return {
        **source_index(wildcards),
        "evaluation": [*evaluation["index"], evaluation["images"], evaluation["check"]],
    }


def target_index_folder(wildcards):
    return index_folder(STUDY.targets[wildcards.target].dataset)


def source_index_folder(wildcards):
    return str(index_folder(STUDY.source(wildcards.pretraining).dataset))


def source_dataset(wildcards):
    return DATASETS[STUDY.source(wildcards.pretraining).dataset]


def quality_dataset(wildcards):
    """The name of the data set that a detection pre-training is evaluated on."""
    source = STUDY.trained[wildcards.pretraining]
    return source.evaluated_on or source.dataset


def target_dataset(wildcards):
    return DATASETS[STUDY.targets[wildcards.target].dataset]


def published_checksum(wildcards):
    """What fixes an archive's content, and so what comes from it: another sum, another archive."""
    archive = CATALOG[wildcards.archive]
    return archive.sha256 or archive.md5 or "unknown"


def parts(wildcards, input):
    """The archives of a data set, each with the folder inside it that it is unpacked into."""
    names = DATASETS[wildcards.dataset].archives
    pairs = zip(input.archives, names, strict=True)
    return [f"--part {path} {CATALOG[name].extract_to}" for path, name in pairs]


def rendered_archive(wildcards):
    """Where an archive is rendered first, if the study's world is a rendered one."""
    return f"{STUDY.mirror}/{wildcards.archive}" if STUDY.render_world else []
