"""From official files to training samples: time and memory, at the real sizes or a share of them.

Files of the official form are made in a temporary folder: about 3 GB at full size. The image
headers of OpenImages and COCO are left out (their sizes are given), those of VOC are read from one
file under many names. Each measurement has a process of its own; its peak memory counts what is
imported.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import re
import string
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms.v2.functional import resize

from detransfer.data.decoding import decode
from detransfer.data.fingerprint import with_fingerprints
from detransfer.data.index import Index, empty_objects, read_index, write_index
from detransfer.data.options.voc import OFFICIAL_CLASSES
from detransfer.data.readers import coco, openimages, voc
from detransfer.detection.chip_planner import BoxLists, plan_chips
from detransfer.detection.chips import Chip, ChipPlan, ChipScale, show
from detransfer.detection.train import ChipDataset, Scenes, cut, scenes

OPENIMAGES = {"train": (1_743_042, 14_610_229, 9_000_000), "validation": (41_620, 204_621, 500_000),
              "test": (125_436, 625_282, 1_500_000)}  # images, boxes, verified labels  # fmt: skip
COCO_IMAGES, COCO_OBJECTS, VOC_IMAGES = 118_287, 860_001, 16_551
SPAWN = multiprocessing.get_context("spawn")
PHOTOS, RUNS, BLOCK = 32, 3, 1_000_000
# COCO's scales, as in config/recipes/paper/pretrain_coco.yaml.
PLAN = ChipPlan(
    (
        ChipScale(short=1400, long=2000, valid_range=(0, 80)),
        ChipScale(short=800, long=1280, valid_range=(32, 150)),
        ChipScale(long=512, valid_range=(120, math.inf)),
    )
)
MIDS = [f"/m/0{a}{b}" for a in string.ascii_lowercase for b in string.ascii_lowercase][:601]


Photos = list[tuple[Path, Chip]]


@dataclass(frozen=True)
class Result:
    """What a part took: wall and processor seconds, peak memory, and how many of what."""

    seconds: float
    processor: float
    gib: float
    count: int


def _peak() -> float:
    """Return the peak resident memory of this process since it began its program, GiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


def _timed(work: Callable[[Any], int], given: Any) -> Result:
    torch.set_num_threads(1)
    wall, processor = time.monotonic(), time.process_time()
    count = work(given)
    return Result(time.monotonic() - wall, time.process_time() - processor, _peak(), count)


def alone(work: Callable[[Any], int], given: Any) -> Result:
    """Run a part in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        return pool.submit(_timed, work, given).result()


def make_openimages(folder: Path, scale: float) -> None:
    """Write the tables of the three splits and, in images.parquet, what is on disk."""
    rng, notes = np.random.default_rng(0), folder / "annotations"
    notes.mkdir(parents=True)
    for name, count in (("class-descriptions-boxable", 601),
                        ("challenge-2018-class-descriptions-500", 500)):  # fmt: skip
        lines = [f"{mid},Class {mid[4:]}\n" for mid in MIDS[:count]]
        (notes / f"{name}.csv").write_text("".join(lines))
    tree = {"LabelName": "/m/0bl9f", "Subcategory": [
        {"LabelName": MIDS[k], "Subcategory": [{"LabelName": m} for m in MIDS[60 + k :: 60]]}
        for k in range(60)]}  # fmt: skip
    (notes / "bbox_labels_600_hierarchy.json").write_text(json.dumps(tree))
    tables = []
    for split, sizes in OPENIMAGES.items():
        images, boxes, labels = (max(1, int(size * scale)) for size in sizes)
        ids = np.sort(rng.integers(0, 2**63, images, dtype=np.uint64) * np.uint64(2))
        names = [f"{number:016x}" for number in ids]
        _write_boxes(notes / f"{split}-annotations-bbox.csv", names, boxes, rng)
        _write_labels(
            notes / f"{split}-annotations-human-imagelabels-boxable.csv", names, labels, rng
        )
        places = [f"train_{n[0]}" if split == "train" else split for n in names]
        paths = [f"{place}/{name}.jpg" for place, name in zip(places, names, strict=True)]
        tables.append(pd.DataFrame({"path": paths, "split": split, "width": 1024, "height": 768}))
    table = pd.concat(tables, ignore_index=True)
    table["image_id"] = np.arange(len(table), dtype=np.int32)
    table.to_parquet(folder / "images.parquet")


def _write_boxes(path: Path, names: list[str], count: int, rng: np.random.Generator) -> None:
    rows = np.sort(rng.integers(0, len(names), count))
    texts, mids, writer = pa.array(names), pa.array(MIDS), None
    for start in range(0, count, BLOCK):
        part = rows[start : start + BLOCK]
        low, size = rng.random((2, len(part))) * 0.6, rng.random((2, len(part))) * 0.39 + 0.005
        low, high = low.round(6), (low + size).round(6)
        flags = {name: (rng.random(len(part)) < share).astype(np.int8) for name, share in (
            ("IsOccluded", 0.66), ("IsTruncated", 0.25), ("IsGroupOf", 0.06),
            ("IsDepiction", 0.05), ("IsInside", 0.001))}  # fmt: skip
        table = pa.table({
            "ImageID": texts.take(part), "Source": pa.repeat("xclick", len(part)),
            "LabelName": mids.take(rng.integers(0, 601, len(part))),
            "Confidence": pa.repeat(1, len(part)),
            "XMin": low[0], "XMax": high[0], "YMin": low[1], "YMax": high[1], **flags,
        })  # fmt: skip
        writer = writer or pacsv.CSVWriter(path, table.schema, write_options=_OPTIONS)
        writer.write_table(table)
    if writer:
        writer.close()


def _write_labels(path: Path, names: list[str], count: int, rng: np.random.Generator) -> None:
    rows = np.sort(rng.integers(0, len(names), count))
    pacsv.write_csv(
        pa.table({
            "ImageID": pa.array(names).take(rows), "Source": pa.repeat("verification", count),
            "LabelName": pa.array(MIDS).take(rng.integers(0, 601, count)),
            "Confidence": rng.integers(0, 2, count),
        }),
        path,
        write_options=_OPTIONS,
    )  # fmt: skip


_OPTIONS = pacsv.WriteOptions(quoting_style="none", quoting_header="none")


def make_coco(folder: Path, scale: float) -> None:
    """Write an instances file of the official form with outlines of the usual length."""
    rng = np.random.default_rng(0)
    images, count = max(1, int(COCO_IMAGES * scale)), max(1, int(COCO_OBJECTS * scale))
    (folder / "annotations").mkdir(parents=True)
    outline = rng.random(400).round(2).tolist()
    corner, size = rng.random((count, 2)) * 200, rng.random((count, 2)) * 200 + 1
    image_ids, categories = rng.integers(1, images + 1, count), rng.integers(1, 81, count)
    lengths = rng.integers(4, 40, count) * 2
    with (folder / "annotations/instances_train2017.json").open("w") as file:
        entries = [{"license": 3, "file_name": f"{k:012d}.jpg", "height": 480, "width": 640,
                    "coco_url": f"http://images.cocodataset.org/train2017/{k:012d}.jpg",
                    "date_captured": "2013-11-14 11:18:45", "id": k,
                    "flickr_url": "http://farm9.staticflickr.com/8186/8119368305_4e622c8349.jpg"}
                   for k in range(1, images + 1)]  # fmt: skip
        kinds = [{"supercategory": f"s{k % 12}", "id": k, "name": f"c{k}"} for k in range(1, 81)]
        head = json.dumps({"images": entries, "categories": kinds})[:-1]
        file.write(f'{head}, "annotations": [')
        for k in range(count):
            box = [*corner[k].round(2).tolist(), *size[k].round(2).tolist()]
            entry = {"segmentation": [outline[: lengths[k]]], "area": float(size[k].prod()),
                     "iscrowd": 0, "image_id": int(image_ids[k]), "bbox": box,
                     "category_id": int(categories[k]), "id": 900_100_000 + k}  # fmt: skip
            file.write((", " if k else "") + json.dumps(entry))
        file.write("]}")


def make_voc(folder: Path, scale: float) -> None:
    """Write the XML files of one set; every image is the same file under another name."""
    count, rng = max(1, int(VOC_IMAGES * scale)), np.random.default_rng(0)
    root = folder / "VOCdevkit/VOC2012"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / name).mkdir(parents=True)
    names = [f"2012_{number:06d}" for number in range(count)]
    (root / "ImageSets/Main/trainval.txt").write_text("\n".join(names) + "\n")
    Image.new("RGB", (500, 375)).save(root / "image.jpg")
    for name in names:
        boxes = "".join(
            f"<object><name>{OFFICIAL_CLASSES[rng.integers(20)]}</name><pose>Left</pose>"
            "<truncated>0</truncated><occluded>0</occluded><difficult>0</difficult>"
            f"<bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + 90}</xmax><ymax>{y + 60}</ymax>"
            "</bndbox></object>\n"
            for x, y in rng.integers(1, 300, (rng.integers(1, 5), 2))
        )
        (root / f"Annotations/{name}.xml").write_text(
            f"<annotation><folder>VOC2012</folder><filename>{name}.jpg</filename><size>"
            f"<width>500</width><height>375</height><depth>3</depth></size>{boxes}</annotation>\n"
        )
        os.link(root / "image.jpg", root / f"JPEGImages/{name}.jpg")


def make_photos(folder: Path) -> None:
    """Write a few JPEG files of the usual size, with detail at all scales."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(PHOTOS):
        pixels = np.zeros((768, 1024, 3))
        for octave in range(7):
            grid = rng.integers(0, 256, (6 * 2**octave, 8 * 2**octave, 3), dtype=np.uint8)
            layer = Image.fromarray(grid).resize((1024, 768), Image.Resampling.BICUBIC)
            pixels += np.asarray(layer, float) / 1.5**octave / 3
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg")


def read_openimages(folder: Path) -> int:
    images = pd.read_parquet(folder / "openimages/images.parquet")
    index = openimages.annotate(folder / "openimages", openimages.Options(), images)
    write_index(folder / "index/openimages", index)
    return len(index.objects)


def read_coco(folder: Path) -> int:
    coco.image_sizes = lambda root, paths: np.tile(np.int32([640, 480]), (len(paths), 1))
    sets = {"train2017": {"annotations": "annotations/instances_train2017.json", "images": "x"}}
    index = coco.read(folder / "coco", coco.Options(sets=sets))
    write_index(folder / "index/coco", index)
    return len(index.objects)


def read_voc(folder: Path) -> int:
    index = voc.read(folder / "voc", voc.Options(sets={"trainval": "VOC2012/trainval"}))
    write_index(folder / "index/voc", index)
    return len(index.images)


def first_sample(folder: Path) -> int:
    """Open the index, choose the split, take the scenes in the middle and cut their chips."""
    index = read_index(folder / "index/openimages")
    images = scenes(index.split("train"))
    middle = images.part(slice(len(images) // 2, len(images) // 2 + 3))
    dataset = ChipDataset(middle, PLAN, torch.zeros(3, dtype=torch.uint8), 0, 0)
    pixels = decode(folder / "photos/0.jpg")  # of the size that the index states
    for number in range(len(dataset)):
        cut(pixels, dataset.chip(number)[2])
    return len(index.objects)


class Draw(Dataset[tuple[int, int, int]]):
    """Scenes at random; each draw returns the process, its private and its proportional memory."""

    def __init__(self, images: Scenes) -> None:
        self.images = images

    def __len__(self) -> int:
        return 80

    def __getitem__(self, number: int) -> tuple[int, int, int]:
        rows = np.random.default_rng(number).integers(0, len(self.images), 500)
        assert all(len(self.images[int(row)].boxes) for row in rows)
        text = Path("/proc/self/smaps_rollup").read_text()
        kib = {name: int(size) for name, size in re.findall(r"^(\w+): +(\d+) kB", text, re.M)}
        return os.getpid(), kib["Private_Dirty"], kib["Pss"]


def loader_memory(folder: Path) -> tuple[int, list[float]]:
    """Return objects and, of four loader processes together, what they have written to and their
    proportional set size (shared pages are divided), MiB: with one image alone, with all of them.
    """
    warnings.filterwarnings("ignore", "This DataLoader will create 4 worker processes")
    sums: list[float] = []
    index = read_index(folder / "index/openimages").split("train")
    for part in (index.sample(1), index):
        loader = DataLoader(
            Draw(scenes(part)), batch_size=None, num_workers=4, multiprocessing_context="fork"
        )
        last = {process: kib for process, *kib in loader}
        assert len(last) == 4
        sums += (np.sum(list(last.values()), axis=0) / 2**10).tolist()
    return len(index.objects), sums


def fingerprints(folder: Path) -> int:
    """Fingerprint the photos under many names, as often as fit into a second or two."""
    names = [f"photos/{number % PHOTOS}.jpg" for number in range(20_000)]
    index = with_fingerprints(Index(pd.DataFrame({"path": names}), empty_objects(), None, folder))
    return len(index.images)


def digest(folder: Path) -> int:
    index = read_index(folder / "index/openimages").split("train")
    return len(index.digest()) and len(index.objects)


def chips(folder: Path) -> Photos:
    """Return the chips of photos with a few boxes of all sizes, four photos after each other."""
    rng = np.random.default_rng(0)
    paths = sorted((folder / "photos").iterdir())
    side = np.exp(rng.uniform(np.log(16), np.log(600), (6 * len(paths), 1)))
    corner = rng.random((6 * len(paths), 2)) * (np.array([1024, 768]) - side)
    boxes = np.hstack([corner, corner + side])
    objects = BoxLists(np.arange(len(paths) + 1) * 6, boxes, np.ones(len(boxes), bool))
    sizes = np.tile([[1024, 768]], (len(paths), 1))
    table = plan_chips(np.arange(len(paths)), sizes, objects, PLAN, (0, 0))
    found = []
    for number in np.flatnonzero(~table.mirrored):
        image, scale = int(table.images[number]), int(table.scales[number])
        factor = PLAN.scales[scale].resize_factor(1024, 768)
        own, learned = boxes[6 * image : 6 * image + 6], table.learned(number)
        chip = show(table.windows[number], own, learned, PLAN, scale, factor)
        found.append((paths[image], chip))
    return found


def load_ours(found: Photos) -> int:
    for path, chip in found:
        cut(decode(path), chip)
    return len(found)


def load_pil(found: Photos) -> int:
    for path, chip in found:
        with Image.open(path) as file:
            image = file.convert("RGB")
        scaled = image.resize(_scaled(chip), Image.Resampling.BILINEAR)
        x, y = (round(v * chip.factor) for v in chip.window[:2])
        torch.from_numpy(np.array(scaled.crop((x, y, x + chip.width, y + chip.height))))
    return len(found)


def load_torchvision(found: Photos) -> int:
    for path, chip in found:
        image = decode_image(read_file(str(path)), ImageReadMode.RGB)
        width, height = _scaled(chip)
        scaled = resize(image, [height, width], antialias=True)
        x, y = (round(v * chip.factor) for v in chip.window[:2])
        scaled[:, y : y + chip.height, x : x + chip.width].clone()
    return len(found)


def _scaled(chip: Chip) -> tuple[int, int]:
    return round(1024 * chip.factor), round(768 * chip.factor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the real sizes")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        with ProcessPoolExecutor(2, mp_context=SPAWN) as pool:
            made = [
                pool.submit(make_openimages, folder / "openimages", arguments.scale),
                pool.submit(make_coco, folder / "coco", arguments.scale),
                pool.submit(make_voc, folder / "voc", arguments.scale),
                pool.submit(make_photos, folder / "photos"),
            ]
            for entry in made:
                entry.result()
        print(f"at {arguments.scale:g} of the real sizes, on {os.cpu_count()} cores")
        print(f"{'':34} {'count':>11} {'wall s':>8} {'cpu s':>8} {'GiB':>6}  goal")
        for label, work, seconds, gib in GOALS:
            result = alone(work, folder)
            met = "met" if result.seconds <= seconds and result.gib <= gib else "MISSED"
            share = f"{result.seconds / seconds:.2f} of the time"
            print(f"{label:34} {result.count:11,} {result.seconds:8.2f} {result.processor:8.2f} "
                  f"{result.gib:6.2f}  {seconds:g} s, {gib:g} GiB: {share}: {met}",
                  flush=True)  # fmt: skip
        _report_sharing(folder)
        _report_loading(folder)


def _report_sharing(folder: Path) -> None:
    """Print what the index costs in the memory of four loader processes."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        count, (own, shared, private, proportional) = pool.submit(loader_memory, folder).result()
    print(f"four forked loader processes on {count:,} objects: {private:.0f} MiB private together "
          f"({own:.0f} with one image), PSS {proportional:.0f} MiB ({shared:.0f})")  # fmt: skip


def _report_loading(folder: Path) -> None:
    """Print chips of 512 pixels a second and core, and ours against the plain pipelines."""
    rates, found = {}, chips(folder)  # planned before anything is timed
    for label, work in (("ours", load_ours), ("PIL", load_pil), ("torchvision", load_torchvision)):
        results = [alone(work, found) for _ in range(RUNS)]
        rates[label] = max(result.count / result.processor for result in results)
    for label, rate in rates.items():
        ratio = rates["ours"] / rate
        goal = "" if label == "ours" else f"ours is {ratio:.2f} times as fast (goal: 1.5)"
        print(f"chips of {PLAN.size} px a core second, {label:12} {rate:8.1f}  {goal}")


GOALS: tuple[tuple[str, Callable[[Path], int], float, float], ...] = (
    ("OpenImages CSV to index", read_openimages, 90, 3),
    ("COCO JSON to index", read_coco, 20, 3),
    ("VOC XML to index", read_voc, 15, 3),
    ("OpenImages: open, first sample", first_sample, 2, 1.5),
    ("OpenImages: open, split, digest", digest, 10, 3),
    ("fingerprints of 20,000 images", fingerprints, 4, 1.5),
)

if __name__ == "__main__":
    main()
