"""A made-up page with everything on it, and results on disk, for the tests of the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from detransfer.report.metrics import Metric, RunMetrics, RunName, write_metrics

RUNS = ("imagenet_cls", "coco", "random")
DIGESTS = {
    f"{name}_digest": 8 * "0123abcd" for name in ("model", "recipe", "data", "start", "code")
}
TABLE2 = """\
target,dataset,run,metric,unit,mean,std,n,images,floor,published,measured_by,difference
voc_detection,voc_detection,dcnv1,mAP@0.5,%,,,0,,,81.9,cited,
voc_detection,voc_detection,imagenet_cls,mAP@0.5,%,84.25,0.5,2,300,,84.6,authors,-0.35
voc_detection,voc_detection,imagenet_cls,mAP@0.7,%,66.3,0.1,2,300,,76.3,authors,-10.0
voc_detection,voc_detection,coco,mAP@0.5,%,99.0,0.1,2,300,,86.8,authors,12.2
voc_detection,voc_detection,coco,mAP@0.7,%,80.1,,1,300,,80.7,authors,-0.6
voc_detection,voc_detection,random,mAP@0.5,%,20,1,2,300,,,,
"""
TABLE6 = """\
target,dataset,run,metric,unit,mean,std,n,images,floor,published,measured_by,difference
caltech256,caltech256,coco,top1,%,50,1,2,300,,76.7,authors,-26.7
caltech256,caltech256,coco,top1_low,%,48,1,2,300,,,,
caltech256,caltech256,coco,top1_high,%,53,1,2,300,,,,
,sun397,coco,top1,%,,,0,,,51.1,authors,
"""
TABLE1 = """\
dataset,role,quantity,value,published,difference,agrees
coco,source,classes,80,80,0,True
coco,source,train_images,118287,0.14M,-21713,False
coco,source,eval_images,5000,,,
mine,,classes,3,,,
"""
CLAIMS = """\
claim,place,quantity,target,dataset,run,baseline,unit,expected,margin,published,effect,low,high,images,seeds,verdict,reason,matched,matched_effect,matched_low,matched_high,matched_verdict,recipe_gap,gaps,detectable,controls_held,controls_failed,controls_not_run
map50,"4.1, Table 2",gain in mAP,voc_detection,voc_detection,coco,imagenet_cls,points,more,,2.2,3.5,1.5,5.5,300,2,reproduced,,coco_labels,0.4,-1.5,2.3,inconclusive,1.1,3.2,2.7,oracle,,dial
trimap,"4.2, Figure 4",inside less outside,voc_segmentation,voc_segmentation,coco,imagenet_cls,points,same,1,,4,-90,90,50,2,invalid,control leaks fails,,,,,,,,,,,
coco_ap50,"4.1, text",gain in COCO AP,,,,,points,more,,,,,,,,not run,the study has no AP@0.5,,,,,,,,,,,
"""  # noqa: E501
CONTROLS = """\
control,target,quantity,value,low,high,chance,unit,must,holds,detail
leaks,caltech256,byte size,14,11,17,9,%,chance lies in the interval,no,sizes tell
dial,,,,,,,,scores fall,not run,run `make controls`
"""
PICTURES = ("figure1", "figure2", "diagnosis")


def write_results(folder: Path, extra: str = "") -> Path:
    """Write the results of a small study: tables, pictures, runs, logs and benchmarks.

    ``extra`` is put into names that come from outside (a device, a reason, a run).
    """
    tables = {"table1": TABLE1, "table2": TABLE2, "table6": TABLE6, "claims": CLAIMS}
    tables["controls"] = CONTROLS
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in tables.items():
        (folder / f"{name}.csv").write_text(text)
    if extra:
        table = pd.read_csv(folder / "claims.csv")
        table.loc[0, ["quantity", "reason", "run"]] = extra
        table.to_csv(folder / "claims.csv", index=False)
    for name in PICTURES:
        draw(folder / f"{name}.png")
    for run in RUNS:
        for seed in (0, 1):
            write_run(folder, RunName("detection", "voc_detection", "voc", run, seed), extra)
    write_run(folder, RunName("probe/conv5", "caltech256", "caltech256", "coco", 0), extra)
    return folder


def write_run(
    folder: Path, name: RunName, extra: str = "", start: str = "", model: str = ""
) -> None:
    place = f"{name.target}/{name.pretraining}/seed{name.seed}"
    kind = "probe" if name.task.startswith("probe") else name.task
    origin: dict[str, str | int | float | None] = {**DIGESTS, "device": extra or "cpu"}
    origin["start_digest"] = start or origin["start_digest"]
    origin["model_digest"] = model or None
    metrics = (Metric("mAP@0.5", 50.0, "%", 300),)
    run = RunMetrics(name, metrics, {"seconds": 61.5, "training_score": 77.0}, {}, origin)
    write_metrics(folder / kind / place / "metrics.json", run)
    for path, text in (
        (f"logs/{kind}/{place}.log", "done\n"),
        (f"benchmarks/{kind}/{place}.tsv", "s\tmax_rss\tcpu_time\n60\t900\t55\n"),
    ):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def draw(path: Path, size: tuple[int, int] = (900, 500), seed: int = 0, detail: int = 0) -> None:
    """Draw something like a plot, over something like a photograph of so many blotches a side."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", size, "white")
    if detail:
        blotches = rng.integers(0, 256, (detail, detail, 3), np.uint8)
        picture = Image.fromarray(blotches).resize(size)
    pen = ImageDraw.Draw(picture)
    heights = rng.uniform(0, size[1], 40)
    pen.line([(size[0] * k / 40, float(h)) for k, h in enumerate(heights)], fill="navy", width=4)
    picture.save(path)
