"""Put the occlusion levels of Hoiem et al. (ECCV 2012) beside an index of VOC's form.

Their release (detectionAnalysis_eccv12) has a file gt_ved_<class>.txt for each labelled class, one
line for each of its objects that is not difficult, and VOC2007_records_test.mat, which says what
these objects are: the lines follow its order. Objects of the index are found by image and place.
"""

from __future__ import annotations

import argparse
import io
import logging
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.io

from detransfer.console import InputError, run
from detransfer.data.index import BOX, Index, read_index
from detransfer.data.occlusion import LEVELS, write_occlusion

log = logging.getLogger("occlusion_labels")
LABELS = re.compile(r"gt_ved_(.+)\.txt")
RECORDS = re.compile(r"VOC\d+_records_test\.mat")
CORNERS = ["xmin", "ymin", "xmax", "ymax"]  # 1-based, inclusive
GROUP = ["image", "class"]
LARGEST = (
    1 << 28
)  # bytes of a file of the release, unpacked; the real ones have at most some millions


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--labels", type=Path, required=True, help="the release: a zip, or a folder")
    add("--index", type=Path, required=True, help="folder of the data set's index")
    add("--split", required=True, help="the split that is labelled")
    add("--output", type=Path, required=True, help="occlusion.parquet to write")
    return parser.parse_args()


def read_release(path: Path) -> tuple[dict[str, bytes], bytes]:
    """Return the label files by class and the records, wherever they lie in the release."""
    if path.is_dir():
        files = {file.name: file.read_bytes() for file in sorted(path.rglob("*")) if wanted(file)}
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.infolist() if wanted(Path(m.filename))]
                for member in members:
                    if member.file_size > LARGEST:
                        raise InputError(f"{path}: {member.filename} has {member.file_size} bytes")
                files = {Path(m.filename).name: archive.read(m) for m in members}
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: not a readable zip ({error}); fetch it again") from error
    labels = {match[1]: files[name] for name in files if (match := LABELS.fullmatch(name))}
    records = [content for name, content in files.items() if RECORDS.fullmatch(name)]
    if not labels or len(records) != 1:
        raise InputError(
            f"{path}: expected files gt_ved_<class>.txt and one VOC2007_records_test.mat, found "
            f"{', '.join(sorted(files)) or 'neither'}"
        )
    return labels, records[0]


def wanted(file: Path) -> bool:
    return bool(LABELS.fullmatch(file.name) or RECORDS.fullmatch(file.name))


def read_records(path: Path, content: bytes) -> pd.DataFrame:
    """Return every object of the records: image, class, corners and whether it is difficult."""
    try:
        records = scipy.io.loadmat(io.BytesIO(content), squeeze_me=True)["rec"]
        rows = [
            (Path(str(record["filename"])).stem, str(item["class"]), *map(int, item["bbox"]),
             bool(item["difficult"]))
            for record in np.atleast_1d(records)
            for item in np.atleast_1d(record["objects"])
        ]  # fmt: skip
    except Exception as error:  # scipy raises anything on a damaged file
        raise InputError(f"{path}: not readable records of VOC ({error!r})") from error
    return pd.DataFrame(rows, columns=[*GROUP, *CORNERS, "difficult"])


def label_records(path: Path, records: pd.DataFrame, labels: dict[str, bytes]) -> pd.DataFrame:
    """Return the records with a column ``level``; raises InputError where the labels do not fit.

    Each line says how many pixels its object's box has, so that a wrong order is noticed.
    """
    level = np.full(len(records), -1)
    sides = records[["xmax", "ymax"]].to_numpy() - records[["xmin", "ymin"]].to_numpy() + 1
    for name, content in labels.items():
        file = f"{path}: gt_ved_{name}.txt"
        table = read_lines(file, content.decode("ascii", "replace"))
        rows = np.flatnonzero((records["class"] == name) & ~records["difficult"])
        if len(table) != len(rows):
            raise InputError(
                f"{file}: labels {len(table)} objects, but the records have {len(rows)} of class "
                f"{name} that are not difficult; both must come from one release"
            )
        wrong = np.flatnonzero(table["size"].to_numpy() != sides[rows].prod(1))
        if len(wrong):
            image = records["image"].iloc[rows[wrong[0]]]
            raise InputError(
                f"{file}: line {wrong[0] + 2} says {table['size'].iloc[wrong[0]]:g} pixels, but "
                f"the box of this {name} in image {image} has {sides[rows[wrong[0]]].prod()}; "
                "both must come from one release"
            )
        level[rows] = table["occ"]
    return records.assign(level=level)


def read_lines(file: str, text: str) -> pd.DataFrame:
    """Return columns ``occ`` and ``size`` of a label file; raises InputError with the line."""
    header, *lines = [line.split() for line in text.splitlines() if line.strip()] or [[]]
    if missing := [name for name in ("occ", "size") if name not in header]:
        raise InputError(f"{file}: no column {missing[0]!r}; its columns are {' '.join(header)}")
    rows = []
    for number, line in enumerate(lines, 2):
        try:
            values = dict(zip(header, map(float, line), strict=True))
        except ValueError:
            raise InputError(f"{file}: line {number}: expected {len(header)} numbers") from None
        if values["occ"] not in range(len(LEVELS)):
            raise InputError(f"{file}: line {number}: level {values['occ']:g} is not 0, 1, 2 or 3")
        rows.append((int(values["occ"]), values["size"]))
    return pd.DataFrame(rows, columns=["occ", "size"])


def levels(path: Path, records: pd.DataFrame, index: Index) -> np.ndarray:
    """Return the level of each object of the index; raises InputError unless both agree on all."""
    objects = index.objects
    names = index.images.set_index("image_id")["path"].map(lambda name: Path(name).stem)
    ours = pd.DataFrame(objects[BOX].to_numpy() + np.array([1, 1, 0, 0]), columns=CORNERS)
    ours["difficult"] = objects["difficult"].to_numpy()
    ours["image"] = names.loc[objects["image_id"]].to_numpy()
    ours["class"] = index.classes["name"].to_numpy()[objects["class_id"]]
    keys = [*GROUP, "number"]
    ours["number"] = ours.groupby(GROUP).cumcount()
    theirs = records.assign(number=records.groupby(GROUP).cumcount())
    theirs = theirs[theirs["image"].isin(names) & theirs["class"].isin(index.classes["name"])]
    joined = ours.merge(theirs, "outer", keys, suffixes=("", "_of_records"), indicator="side")
    same = joined["side"] == "both"
    for name in (*CORNERS, "difficult"):
        same &= joined[name] == joined[f"{name}_of_records"]
    if not same.all():
        image, name = joined.loc[~same, GROUP].iloc[0]
        here, there = (len(t[(t["image"] == image) & (t["class"] == name)]) for t in (ours, theirs))
        how = (
            f"the records have {there} objects of class {name}, the index {here}"
            if here != there
            else f"boxes or flags of class {name} differ between records and index"
        )
        raise InputError(f"{path}: image {image}: {how}; the labels are of VOC2007's test images")
    return ours.merge(theirs[[*keys, "level"]], "left", keys)["level"].to_numpy()


def main() -> None:
    arguments = parse()
    labels, content = read_release(arguments.labels)
    index = read_index(arguments.index).split(arguments.split)
    records = label_records(arguments.labels, read_records(arguments.labels, content), labels)
    level = levels(arguments.labels, records, index)
    write_occlusion(arguments.output, index.objects, level)
    for name in index.classes["name"][index.classes["name"].isin(labels)]:
        of_class = level[index.classes["name"].to_numpy()[index.objects["class_id"]] == name]
        counts = [f"{kind} {(of_class == k).sum()}" for k, kind in enumerate(LEVELS)]
        log.info("%s: %s", name, ", ".join(counts))


if __name__ == "__main__":
    run(main)
