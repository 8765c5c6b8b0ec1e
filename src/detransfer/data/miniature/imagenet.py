"""The archives of ImageNet: ILSVRC 2012 classification, boxes by synset, ILSVRC DET validation.

All three speak of one tree of synsets. Where classification and boxes have a class in common it has
one WNID; the classes of DET are ancestors of those with boxes: a body where its family has several
classes of objects, and the whole family for signs.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from detransfer.data.miniature.annotations import (
    difficult,
    imagenet_meta,
    imagenet_meta_det,
    imagenet_xml,
)
from detransfer.data.miniature.packing import (
    Stream,
    add,
    jpeg,
    labels,
    numbers,
    open_tar,
    open_tgz,
)
from detransfer.data.miniature.scenes import Scene, render_classification, render_scene
from detransfer.data.miniature.world import ClassSpec, World

CLS = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
LOC = ("bboxes_annotations.tar.gz", "fall11_whole.tar", "words.txt")
DET = (
    "ILSVRC2013_DET_bbox_val.tgz",
    "ILSVRC2013_DET_val.tar",
    "ILSVRC2014_devkit.tgz",
    "wordnet.is_a.txt",
)
ROOT = "entity"
WHOLE_FAMILY = "sign"  # the family that is one class of DET
_SEVERAL = 5  # one image in so many of a synset shows more than one object


def wnids(world: World) -> dict[str, str]:
    """Return the WNID of every class, of their bodies and families, and of the root."""
    classes = world.imagenet_cls
    families = sorted({spec.family for spec in classes})
    nodes = len(classes) + len(families) + 1
    # n9...: no synset of WordNet 3.0 starts so; sorted, as the official labels are.
    found = [f"n9{number:07d}" for number in numbers(world, Stream.IMAGENET_TRAIN, nodes, 9999999)]
    names = [*(spec.name for spec in classes), *families, ROOT]
    known = dict(zip(names, sorted(found[: len(classes)]) + found[len(classes) :], strict=True))
    wanted = [spec.name for spec in world.imagenet_loc]
    wanted += [above for spec in world.imagenet_loc for above in spec.ancestors]
    more = [name for name in dict.fromkeys(wanted) if name not in known]
    drawn = numbers(world, Stream.IMAGENET_LOC, len(known) + len(more), 9999999)
    free = [f"n9{number:07d}" for number in drawn if f"n9{number:07d}" not in known.values()]
    return known | dict(zip(more, free, strict=False))


def write_cls(world: World, folder: Path) -> None:
    """Write the training and validation images of ILSVRC 2012 and its development kit."""
    recipe, classes, ids = world.recipe.imagenet_cls, world.imagenet_cls, wnids(world)
    chosen = labels(world, Stream.IMAGENET_TRAIN, len(classes), recipe.train)
    places = numbers(world, Stream.IMAGENET_TRAIN, len(chosen), 10 * len(chosen))
    with open_tar(folder / "ILSVRC2012_img_train.tar") as archive:
        for label, spec in enumerate(classes):
            indices = sorted(np.flatnonzero(chosen == label).tolist(), key=places.__getitem__)
            files = (
                (f"{ids[spec.name]}_{places[index]}.JPEG",
                 jpeg(world, render_classification(world, spec, Stream.IMAGENET_TRAIN, index)))
                for index in indices
            )  # fmt: skip
            add(archive, f"{ids[spec.name]}.tar", _inner_tar(files))
    truth = labels(world, Stream.IMAGENET_VAL, len(classes), recipe.val)
    with open_tar(folder / "ILSVRC2012_img_val.tar") as archive:
        for index, label in enumerate(truth):
            scene = render_classification(world, classes[label], Stream.IMAGENET_VAL, index)
            add(archive, f"ILSVRC2012_val_{index + 1:08d}.JPEG", jpeg(world, scene))
    families = sorted({spec.family for spec in classes})
    nodes = [ids[name] for name in (*(spec.name for spec in classes), *families, ROOT)]
    kit = {
        "meta.mat": imagenet_meta(classes, nodes, recipe.train),
        "ILSVRC2012_validation_ground_truth.txt": "".join(f"{k + 1}\n" for k in truth).encode(),
    }
    with open_tgz(folder / "ILSVRC2012_devkit_t12.tar.gz", level=9) as archive:
        for name, content in kit.items():
            add(archive, f"ILSVRC2012_devkit_t12/data/{name}", content)


def write_loc(world: World, folder: Path) -> None:
    """Write the images by synset, the boxes of most of them, and the words of all synsets.

    A synset's images show objects of this synset alone, mostly one, large, and all of them boxed.
    """
    recipe, classes, ids = world.recipe.imagenet_loc, world.imagenet_loc, wnids(world)
    chosen = labels(world, Stream.IMAGENET_LOC, len(classes), recipe.images)
    places = numbers(world, Stream.IMAGENET_LOC, len(chosen), 10 * len(chosen))
    boxed = max(1, round(recipe.images * (1 - recipe.unboxed_share)))
    with (
        open_tar(folder / "fall11_whole.tar") as images,
        open_tgz(folder / "bboxes_annotations.tar.gz") as boxes,
    ):
        for label, spec in sorted(enumerate(classes), key=lambda pair: ids[pair[1].name]):
            wnid, xml = ids[spec.name], []
            indices = np.flatnonzero(chosen == label).tolist()
            with_boxes = set(indices[:boxed])  # labels are shuffled: any images of the synset
            files = []
            for index in sorted(indices, key=places.__getitem__):
                scene, name = render_loc(world, spec, index), f"{wnid}_{places[index]}"
                files.append((f"{name}.JPEG", jpeg(world, scene)))
                if index in with_boxes:
                    text = imagenet_xml(wnid, name, scene, [wnid])
                    xml.append((f"Annotation/{wnid}/{name}.xml", text.encode()))
            add(images, f"{wnid}.tar", _inner_tar(files))
            packed = gzip.compress(_inner_tar(xml), 9, mtime=0)
            add(boxes, f"{wnid}.tar.gz", packed)
    lines = sorted(f"{wnid}\t{name.replace('_', ' ')}\n" for name, wnid in ids.items())
    (folder / "words.txt").write_text("".join(lines))


def render_loc(world: World, spec: ClassSpec, index: int) -> Scene:
    """Render one image of a synset: one large object, or now and then two or three."""
    several = index % _SEVERAL == 0
    scene = world.recipe.scene.model_copy(
        update={"objects": (2, 3), "size": (40, 80)} if several
        else {"objects": (1, 1), "size": (64, 112)}
    )  # fmt: skip
    large = replace(world, recipe=world.recipe.model_copy(update={"scene": scene}))
    return render_scene(large, [spec], Stream.IMAGENET_LOC, index)


def det_class(spec: ClassSpec) -> str:
    """Return the class of DET that a class with boxes is a kind of."""
    return spec.ancestors[-1] if spec.family == WHOLE_FAMILY else spec.ancestors[0]


def write_det(world: World, folder: Path) -> None:
    """Write the validation images of DET, their boxes, the development kit and WordNet's tree.

    The blacklist names each image and class with an object that is difficult to see.
    """
    ids, names = wnids(world), [det_class(spec) for spec in world.imagenet_loc]
    files = numbers(world, Stream.IMAGENET_DET, world.recipe.imagenet_det.val, 50000)
    listed: list[str] = []
    ambiguous: list[str] = []
    with (
        open_tar(folder / "ILSVRC2013_DET_val.tar") as images,
        open_tgz(folder / "ILSVRC2013_DET_bbox_val.tgz") as boxes,
    ):
        for index, file in sorted(enumerate(files), key=lambda pair: pair[1]):
            name = f"ILSVRC2012_val_{file:08d}"
            scene = render_scene(world, world.imagenet_loc, Stream.IMAGENET_DET, index)
            text = imagenet_xml("val", name, scene, [ids[above] for above in names], "ILSVRC_2013")
            add(images, f"ILSVRC2013_DET_val/{name}.JPEG", jpeg(world, scene))
            add(boxes, f"ILSVRC2013_DET_bbox_val/{name}.xml", text.encode())
            listed.append(f"{name} {len(listed) + 1}\n")
            hard = {ids[names[item.class_id]] for item in scene.objects if difficult(item)}
            ambiguous += [f"{len(listed)} {wnid}\n" for wnid in sorted(hard)]
    classes = [(ids[name], name) for name in sorted(set(names))]
    kit = {
        "meta_det.mat": imagenet_meta_det(classes),
        "det_lists/val.txt": "".join(listed).encode(),
        "ILSVRC2014_det_validation_blacklist.txt": "".join(ambiguous).encode(),
    }
    with open_tgz(folder / "ILSVRC2014_devkit.tgz", level=9) as archive:
        for name, content in kit.items():
            add(archive, f"ILSVRC2014_devkit/data/{name}", content)
    tree = sorted({f"{ids[above]} {ids[below]}\n" for above, below in _edges(world)})
    (folder / "wordnet.is_a.txt").write_text("".join(tree))


def _edges(world: World) -> Iterator[tuple[str, str]]:
    """Yield the pairs (what it is, node) of the tree of synsets."""
    for spec in (*world.imagenet_cls, *world.imagenet_loc):
        chain = (spec.name, *spec.ancestors, ROOT)
        yield from zip(chain[1:], chain[:-1], strict=True)


def _inner_tar(files: Iterator[tuple[str, bytes]] | Sequence[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files:
            add(archive, name, content)
    return buffer.getvalue()
