"""The catalog is complete, agrees with other projects' checksums, and is cheap to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from torchvision.datasets import SUN397, Flowers102, SBDataset
from torchvision.datasets.imagenet import ARCHIVE_META
from torchvision.datasets.voc import DATASET_YEAR_DICT

from detransfer.console import InputError
from detransfer.data.catalog import CATALOG, load_catalog
from detransfer.data.readers import READERS, check_options
from detransfer.files import sha256


def changed(tmp_path: Path, place: list[str], value: object) -> Path:
    """Write the catalog with one value changed."""
    content = yaml.safe_load(CATALOG.read_text())
    entry = content
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] = value
    path = tmp_path / "catalog.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_checksums_agree_with_torchvision() -> None:
    archives = load_catalog().archives
    published = [(v["url"].rsplit("/", 1)[1], v["md5"]) for v in DATASET_YEAR_DICT.values()]
    published += list(ARCHIVE_META.values())
    published += list(Flowers102._file_dict.values())
    published += [("SUN397.tar.gz", SUN397._DATASET_MD5), (SBDataset.filename, SBDataset.md5)]
    known = [(name, md5) for name, md5 in published if name in archives]
    # torchvision lists the 2012 archive's name for 2008 too, but under another URL
    covered = ("VOC", "ILSVRC2012")
    assert {name for name, _ in known} >= {n for n in archives if n.startswith(covered)}
    for name, md5 in known:
        assert archives[name].md5 == md5, name


def test_every_archive_can_be_checked_and_every_data_set_read() -> None:
    catalog = load_catalog()
    for name, archive in catalog.archives.items():
        assert archive.url.rsplit("/", 1)[1] == name
        assert (archive.login is not None) == name.startswith(("ILSVRC", "fall11"))
    for dataset in catalog.datasets.values():
        check_options(dataset.reader, dataset.options)
    used = {dataset.reader for dataset in catalog.datasets.values()}
    assert used == set(READERS) - {"image_folder"}  # folders of one's own are not in the catalog
    assert catalog.archives["ILSVRC2012_img_val.tar"].extract_to == "val"


def test_importing_it_loads_no_heavy_module(repository: Path) -> None:
    code = (
        "import sys; from detransfer.data.catalog import load_catalog; load_catalog(); "
        "print({'torch', 'cv2', 'pandas', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(repository / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["datasets", "coco", "reader"], "cocoo", "unknown reader 'cocoo'; did you mean 'coco'?"),
        (
            ["datasets", "coco", "archives"],
            ["train2018.zip"],
            "datasets.coco: unknown archive 'train2018.zip'; did you mean 'train2017.zip'?",
        ),
        (["datasets", "coco", "occlusion"], "no.zip", "datasets.coco: unknown archive 'no.zip'"),
        (["archives", "val2017.zip", "sha256"], "12ab", "archives.val2017.zip.sha256"),
        (["archives", "val2017.zip", "extract_to"], "../x", "leaves the data set's folder"),
        (["archives", "val2017.zip", "licenze"], "MIT", "did you mean 'licence'?"),
        (["archives", "val2017.zip", "sha256"], None, "'unknown (why)' exactly where no checksum"),
        (["archives", "words.txt", "checksum_source"], "WordNet", "exactly where no checksum"),
    ],
)
def test_faults_are_named(tmp_path: Path, place: list[str], value: object, message: str) -> None:
    path = changed(tmp_path, place, value)
    with pytest.raises(InputError) as caught:
        load_catalog(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_unknown_reader_and_option_get_a_hint() -> None:
    with pytest.raises(InputError, match="unknown reader 'vok'; did you mean 'voc'"):
        check_options("vok", {})
    with pytest.raises(InputError, match="unknown key 'kepe'; did you mean 'keep'"):
        check_options("voc", {"kepe": ["cat"]})


@pytest.mark.real_data
def test_sample_checksums_are_those_of_the_mirror(real_data: Path, repository: Path) -> None:
    lines = (repository / "config/sample.sha256").read_text().splitlines()
    listed = {name: digest for digest, name in (line.split() for line in lines)}
    files = list((real_data / "mirror").iterdir())
    assert listed == {path.name: sha256(path) for path in files}
    assert set(listed) <= set(load_catalog().archives)
