"""Clusters, Figures 5 to 7 and the table of similarities, from features to files."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from PIL import Image

from detransfer.console import InputError
from detransfer.data.index import Index
from detransfer.evidence.spaces import read_spaces
from detransfer.features.clusters import co_membership, read_clusters
from detransfer.features.kmeans import cluster, prepare, starting_images
from detransfer.features.similarity import linear_cka, retrieval_precision
from tests.detection.rectangles import call
from tests.features.spaces import (
    CLASSES,
    IMAGES,
    RECIPE,
    write_features,
    write_images,
    write_labels,
)
from tests.visualization.printed import catch_figures, check_column, written

NAMES = {"cls": "cls", "coco": "coco"}  # of the spaces, and of their files
# As the paper's study has them; that two are the same is nothing to a picture.
STUDY = {"imagenet_cls": "cls", "imagenet_loc": "coco", "coco": "coco", "openimages": "coco"}


class World:
    """Two spaces of the same images: by class, and by nothing."""

    def __init__(self, folder: Path, scripts: Path, other: np.ndarray | None = None) -> None:
        self.folder, self.scripts = folder, scripts
        self.index: Index = write_images(folder)
        rng = np.random.default_rng(0)
        of_class = 3 * np.eye(3, 8)[self.index.images["class_id"]]
        self.values = {
            "cls": np.float32(of_class + rng.normal(size=(IMAGES, 8))),
            "coco": np.float32(rng.normal(size=(IMAGES, 8))) if other is None else other,
        }
        for name, values in self.values.items():
            write_features(folder / name, self.index, values)
        self.recipe = folder / "analysis.yaml"
        self.recipe.write_text(RECIPE)

    def run(self, program: str, *words: str | Path) -> None:
        call(self.scripts / f"{program}.py", [*map(str, words)])

    def cluster(self) -> None:
        for name in self.values:
            self.run(
                "cluster_features", "--features", self.folder / name, "--recipe", self.recipe,
                "--clusters", self.folder / f"{name}.parquet",
                "--inertia", self.folder / f"{name}.csv",
            )  # fmt: skip

    def embed(self, name: str) -> None:
        self.run(
            "embed_features", "--features", self.folder / name, "--recipe", self.recipe,
            "--output", self.folder / f"{name}.plane",
        )  # fmt: skip

    def similarity(self) -> None:
        spaces = [w for n in self.values for w in ("--space", "set", n, str(self.folder / n))]
        self.run("similarity", *spaces, "--output", self.folder / "similarity.csv")

    def figure(
        self, number: int, *files: str, names: Mapping[str, str] = NAMES, recipe: str = RECIPE
    ) -> Figure:
        """Draw the first of the spaces beside each other one; return the picture."""
        self.recipe.write_text(recipe)
        first, *others = names
        words = ["--recipe", str(self.recipe)]
        for shown, name in names.items():
            words += ["--space", "set", shown, *(str(self.folder / f.format(name)) for f in files)]
        for other in others:
            words += ["--pair", "set", first, other]
        if number != 6:
            words += ["--index", "set", str(self.folder / "index")]
        kinds = ("csv", "pdf", "png")
        drawn = [f"--{kind}={self.folder / f'figure{number}.{kind}'}" for kind in kinds]
        with pytest.MonkeyPatch.context() as patch:
            caught = catch_figures(patch)
            self.run(f"figure{number}", *words, *drawn)
        with Image.open(self.folder / f"figure{number}.png") as picture:
            picture.load()
        assert (self.folder / f"figure{number}.pdf").read_bytes().startswith(b"%PDF-")
        (figure,) = caught
        return figure

    def table(self, number: int) -> pd.DataFrame:
        return pd.read_csv(self.folder / f"figure{number}.csv")


@pytest.fixture(scope="module")
def world(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    found = World(tmp_path_factory.mktemp("spaces"), repository / "scripts")
    found.cluster()
    return found


def test_clusters_of_every_count_and_seed_but_not_more_than_images(world: World) -> None:
    clusters = read_clusters(world.folder / "cls.parquet")
    assert set(clusters.labels) == {(count, seed) for count in (2, 5, 12) for seed in (0, 3)}
    assert clusters.image_ids.tolist() == world.index.images["image_id"].tolist()
    table = pd.read_csv(world.folder / "cls.csv")
    assert table["clusters"].tolist() == [2, 2, 5, 5, 12, 12, 100, 100]
    assert table["inertia"].isna().tolist() == [False] * 6 + [True] * 2
    assert (table["images"] == IMAGES).all() and (table["passes"].dropna() >= 2).all()


def test_both_spaces_are_clustered_from_the_same_images(world: World) -> None:
    for name, values in world.values.items():
        found = read_clusters(world.folder / f"{name}.parquet").labels
        points = prepare(values)
        for seed in (0, 3):
            starts = starting_images(IMAGES, seed)
            for count in (2, 5, 12):
                truth = cluster(points, count, starts, 1e-4, 50).labels
                assert (found[count, seed] == truth).all(), (name, count, seed)


@pytest.mark.parametrize(("number", "file"), [(6, "{}.parquet"), (7, "{}.plane")])
def test_pictures_of_three_pairs_fit_a_column(embedded: World, number: int, file: str) -> None:
    check_column(embedded.figure(number, file, names=STUDY))


def test_figure_6_draws_what_its_legends_say(world: World) -> None:
    figure = world.figure(6, "{}.parquet")
    check_column(figure)
    table = world.table(6).set_index(["given", "other", "metric", "clusters"])["mean"].sort_index()
    assert table["cls", "coco", "exact", 5] != pytest.approx(table["coco", "cls", "exact", 5])
    (panel,), (kinds,) = figure.axes, figure.legends
    legend = panel.get_legend()
    for handle, label in zip(legend.legend_handles, legend.get_texts(), strict=True):
        other, given = re.fullmatch(r"P\((\w+) \| (\w+)\)", label.get_text()).groups()
        lines = {
            (line.get_linestyle(), line.get_marker() != "none"): line
            for line in panel.lines
            if same_color(line.get_color(), handle.get_color()) and len(line.get_xdata())
        }
        for kind, name in zip(kinds.legend_handles, kinds.get_texts(), strict=True):
            metric = {"all pairs": "exact", "sampled pairs": "sampled", "any two images": "chance"}
            line = lines[kind.get_linestyle(), kind.get_marker() != "none"]
            assert line.get_xdata().tolist() == [2, 5]
            means = table[given, other, metric[name.get_text()]].loc[[2, 5]]
            assert line.get_ydata().tolist() == means.tolist()
    assert [text.get_text() for text in legend.get_texts()] == ["P(coco | cls)", "P(cls | coco)"]


def test_figure_6_says_that_no_number_of_clusters_fits(
    world: World,
) -> None:
    recipe = RECIPE.replace("counts: [2, 5, 100]", "counts: [100, 200]")
    figure = world.figure(6, "{}.parquet", recipe=recipe)
    check_column(figure)
    (said,) = figure.axes[0].texts
    assert said.get_text().startswith("not measured: 60 images are too few\nfor 100 clusters")


def test_figure_6_has_both_directions_and_every_reading(world: World) -> None:
    world.figure(6, "{}.parquet")
    table = world.table(6).set_index(["given", "clusters", "metric"])
    labels = [read_clusters(world.folder / f"{name}.parquet").labels for name in ("cls", "coco")]
    for given, other, name in ((*labels, "cls"), (*labels[::-1], "coco")):
        for count in (2, 5):
            truth = [co_membership(given[count, seed], other[count, seed]) for seed in (0, 3)]
            exact = table.loc[(name, count, "exact")]
            assert exact["mean"] == pytest.approx(np.mean([one.pooled for one in truth]), rel=1e-5)
            assert exact["std"] == pytest.approx(
                np.std([t.pooled for t in truth], ddof=1), abs=1e-5
            )
            chance = table.loc[(name, count, "chance"), "mean"]
            assert chance == pytest.approx(np.mean([one.chance for one in truth]), rel=1e-5)
            sampled = table.loc[(name, count, "sampled"), "mean"]
            error = table.loc[(name, count, "sampled_error"), "mean"]
            assert abs(sampled - exact["mean"]) < 4 * error < 0.2
        missing = table.loc[(name, 100)]  # clusters of 60 images
        assert missing["mean"].isna().all() and (missing["n"] == 0).all()
    assert (table["images"] == IMAGES).all()


def test_figure_5_lists_pairs_by_rule(world: World) -> None:
    world.figure(5, "{}", "{}.parquet")
    table = world.table(5)
    correlation = {name: np.corrcoef(values) for name, values in world.values.items()}
    upper = np.triu_indices(IMAGES, 1)
    for panel, name in (("nearest_first", "cls"), ("nearest_second", "coco")):
        rows = table[table["panel"] == panel]
        column = "correlation_" + panel.removeprefix("nearest_")
        best = np.sort(correlation[name][upper])[::-1][:9]
        np.testing.assert_allclose(rows[column], best, atol=1e-5)
        assert (rows["near_copies"] == 0).all() and rows["rank"].tolist() == [*range(1, 10)]
        drawn = rows[rows["drawn"]]
        shown = [*drawn["image_id"], *drawn["image_id_2"]]
        assert len(drawn) == 3 and len(set(shown)) == 6
    ids = world.index.images["image_id"].tolist()
    labels = {n: read_clusters(world.folder / f"{n}.parquet").labels for n in world.values}
    for panel, near, far in (
        ("first_not_second", "cls", "coco"),
        ("second_not_first", "coco", "cls"),
    ):
        close, distant = labels[near][12, 0], labels[far][2, 0]
        one, two = upper
        together = close[one] == close[two]
        rows = table[table["panel"] == panel]
        assert (rows["close_pairs"] == together.sum()).all()
        assert (rows["candidates"] == (together & (distant[one] != distant[two])).sum()).all()
        for row in rows.to_dict("records"):
            i, j = ids.index(row["image_id"]), ids.index(row["image_id_2"])
            assert close[i] == close[j] and distant[i] != distant[j]
            assert row["correlation_first"] == pytest.approx(correlation["cls"][i, j], abs=1e-5)
            assert row["path"] == world.index.images["path"][i]
    first, second = (table.loc[table["panel"] == f"nearest_{n}", "same_class"].iloc[0]
                     for n in ("first", "second"))  # fmt: skip
    assert first == 1 > second


def shown(figure: Figure) -> list[tuple[int, str]]:
    """The number of each image by its colour, from above, and what stands below it."""
    found = []
    for axes in figure.axes:
        (image,), (credit,) = axes.images, axes.texts
        red, green, blue = (int(value) for value in image.get_array()[-1, 0])
        assert (green, blue) == (255 - red, 128)
        found.append((red // 4, credit.get_text()))
    return found


def test_figure_5_shows_the_drawn_pairs_with_their_credits(world: World) -> None:
    figure = world.figure(5, "{}", "{}.parquet")
    check_column(figure)
    table = world.table(5)
    drawn, ids = table[table["drawn"]], world.index.images["image_id"].tolist()
    assert drawn["panel"].value_counts().tolist() == [3, 3, 3]
    expected = []
    for panel in ("nearest_first", "first_not_second", "nearest_second"):
        for row in drawn[drawn["panel"] == panel].to_dict("records"):
            for tail in ("", "_2"):
                number = ids.index(row[f"image_id{tail}"])
                credit = f"{ids[number]}: {number:03d}\n{CLASSES[number % 3]}"
                expected.append((number, credit))
    assert shown(figure) == expected
    titles = ["set: nearest in cls", "near in cls,\nfar in coco", "nearest in coco"]
    texts = [text.get_text() for text in figure.texts]
    assert [text for text in texts if "near" in text] == titles
    one, two = (drawn[f"correlation_{which}"].map("{:.3f}".format) for which in ("first", "second"))
    nearest = drawn["panel"] == "nearest_first", drawn["panel"] == "nearest_second"
    told = [*one[nearest[0]], *(one + ", " + two)[~nearest[0] & ~nearest[1]], *two[nearest[1]]]
    assert [text for text in texts if "near" not in text] == [f"correlation {n}" for n in told]


def test_figure_5_shows_the_nearest_pairs_of_a_space_once(world: World) -> None:
    figure = world.figure(5, "{}", "{}.parquet", names=STUDY)
    check_column(figure)
    titles = [text.get_text() for text in figure.texts if "near" in text.get_text()]
    others = [*STUDY][1:]
    beside = [t for o in others for t in (f"near in imagenet_cls,\nfar in {o}", f"nearest in {o}")]
    assert titles == ["set: nearest in imagenet_cls", *beside]
    table = world.table(5)
    counts = table.groupby(["second", "panel"])["drawn"].sum()
    # Two pairs of each list: three would be higher than a page.
    assert [counts[other, "nearest_first"] for other in others] == [2, 0, 0]
    for other in others:
        lists = table[table["second"] == other].groupby("panel")["rank"].count()
        assert (lists == 9).all(), "the table has them all"
        assert counts[other, "first_not_second"] == counts[other, "nearest_second"] == 2
        assert counts[other, "second_not_first"] == 0
    assert len(shown(figure)) == 2 * 2 * 7


def test_figure_5_leaves_copies_out_of_every_list(
    world: World,
) -> None:
    recipe = RECIPE.replace("near_copy: 0.999", "near_copy: 0.8")
    world.figure(5, "{}", "{}.parquet", recipe=recipe)
    table = world.table(5)
    assert table[["correlation_first", "correlation_second"]].notna().all(axis=None)
    apart = table[table["panel"] == "first_not_second"]
    assert apart[["correlation_first", "correlation_second"]].max(axis=None) <= 0.8
    one, two = np.triu_indices(IMAGES, 1)
    close, distant = (
        read_clusters(world.folder / f"{name}.parquet").labels[key]
        for name, key in (("cls", (12, 0)), ("coco", (2, 0)))
    )
    either = np.maximum(*(np.corrcoef(values) for values in world.values.values()))[one, two]
    copies = (close[one] == close[two]) & (distant[one] != distant[two]) & (either > 0.8)
    assert (apart["near_copies"] == copies.sum()).all() and copies.sum() > 5
    assert apart["rule"].str.endswith("above 0.8 left out as copies").all()


def test_figure_5_without_enough_images_for_its_clusters(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = RECIPE.replace("close: 12", "close: 1001")
    with caplog.at_level(logging.WARNING):
        figure = world.figure(5, "{}", "{}.parquet", recipe=recipe)
    assert "near in cls,\nfar in coco: none" in [text.get_text() for text in written(figure)]
    table = world.table(5)
    middle = table[table["panel"] == "first_not_second"]
    assert middle["rule"].tolist() == [f"needs 1001 clusters, and there are {IMAGES} images"]
    assert not middle["drawn"].any() and "needs 1001 clusters" in caplog.text
    assert (table["panel"] == "nearest_second").sum() == 9


def test_other_clusters_than_of_the_features_are_refused(world: World, tmp_path: Path) -> None:
    short = world.index.split("test")
    labels = np.zeros(len(short.images), np.int32)
    write_labels(tmp_path / "cls", short, {(12, 0): labels, (2, 0): labels})
    write_labels(tmp_path / "coco", short, {(12, 0): labels, (2, 0): labels})
    with pytest.raises(InputError, match=r"has other images than .*cluster them again"):
        world.figure(5, "{}", str(tmp_path / "{}"))


@pytest.fixture(scope="module")
def embedded(world: World) -> World:
    for name in world.values:
        world.embed(name)
    return world


def test_figure_7_draws_every_plane_once(embedded: World) -> None:
    figure = embedded.figure(7, "{}.plane", names={**NAMES, "boxes": "cls"})
    check_column(figure)
    values = embedded.table(7).set_index(["run", "place"])["value"].round()
    titles = [
        f"{name}\nspace {values[name, 'space']:.0f} %, plane {values[name, 'plane']:.0f} %"
        for name in ("cls", "coco", "boxes")
    ]
    assert [axes.get_title() for axes in figure.axes] == [*titles, ""]
    assert [axes.axison for axes in figure.axes] == [True, True, True, False]
    (legend,) = (legend for part in figure.subfigs for legend in part.legends)
    assert [text.get_text() for text in legend.get_texts()] == ["ape", "bee"]
    for axes, name in zip(figure.axes, ("cls", "coco", "cls"), strict=False):
        plane = pd.read_parquet(embedded.folder / f"{name}.plane")
        dots = {dot.get_label(): dot for dot in axes.collections}
        for handle, class_id in zip(legend.legend_handles, (0, 1), strict=True):
            own = dots[CLASSES[class_id]]
            truth = plane[plane["class_id"] == class_id][["x", "y"]]
            np.testing.assert_allclose(own.get_offsets(), truth, rtol=1e-6)
            assert same_color(own.get_facecolor(), handle.get_facecolor())
        others = axes.collections[0].get_offsets()
        np.testing.assert_allclose(others, plane[plane["class_id"] == 2][["x", "y"]], rtol=1e-6)


def test_figure_7_counts_neighbours_of_one_class(embedded: World) -> None:
    world = embedded
    world.figure(7, "{}.plane")
    table = world.table(7).set_index(["run", "place"])
    class_ids = world.index.images["class_id"].to_numpy()
    for name, values in world.values.items():
        distance = ((values[:, None] - values[None]) ** 2).sum(-1) + 1e9 * np.eye(IMAGES)
        near = np.argsort(distance, 1)[:, :4]
        truth = 100 * np.mean(class_ids[near] == class_ids[:, None])
        row = table.loc[(name, "space")]
        assert row["value"] == pytest.approx(truth, rel=1e-5)
        assert row["low"] < row["value"] < row["high"] and row["neighbours"] == 4
        assert row["chance"] == pytest.approx(100 * 19 / 59, rel=1e-5)
    value = table["value"]
    assert value["cls", "plane"] > 80 > 60 > value["coco", "plane"]


def test_similarity_of_every_two_spaces(world: World) -> None:
    world.similarity()
    table = pd.read_csv(world.folder / "similarity.csv").set_index(["metric", "run", "other"])
    cls, coco = world.values["cls"], world.values["coco"]
    assert table["value"]["cka", "cls", "cls"] == pytest.approx(1)
    both = table["value"]["cka", "cls", "coco"], table["value"]["cka", "coco", "cls"]
    assert both == pytest.approx((linear_cka(cls, coco),) * 2, rel=1e-5)
    class_ids = world.index.images["class_id"].to_numpy()
    row = table.loc[("retrieval_map", "cls", "cls")]
    truth = 100 * retrieval_precision(cls, class_ids).mean()
    assert row["value"] == pytest.approx(truth, rel=1e-5)
    assert row["low"] < row["value"] < row["high"]
    assert row["floor"] == pytest.approx(100 * 19 / 59, rel=1e-5)
    assert len(table) == 4 + 2


def test_constant_features_leave_the_other_numbers_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, repository: Path
) -> None:
    flat = World(tmp_path, repository / "scripts", np.full((IMAGES, 8), 0.7, np.float32))
    with caplog.at_level(logging.WARNING):
        flat.cluster()
        flat.figure(5, "{}", "{}.parquet")
        flat.figure(6, "{}.parquet")
        flat.similarity()
    assert f"coco: {IMAGES} images have constant features; left out" in caplog.text
    assert "coco: all images have the same features; no alignment" in caplog.text
    pairs = flat.table(5).groupby("panel")["rank"].count()
    assert pairs["nearest_first"] == 9 and pairs["nearest_second"] == 0
    exact = flat.table(6).query("metric == 'exact' and clusters == 5").set_index("given")["mean"]
    assert exact["cls"] == 1 > exact["coco"]  # all lie in one cluster of coco
    table = pd.read_csv(tmp_path / "similarity.csv").set_index(["metric", "run", "other"])["value"]
    assert np.isnan(table["cka", "coco", "cls"]) and table["cka", "cls", "cls"] == pytest.approx(1)
    assert table["retrieval_map", "coco", "coco"] == pytest.approx(100 * 19 / 59, rel=1e-5)
    for name in flat.values:
        flat.embed(name)
    flat.figure(7, "{}.plane")
    planes = flat.table(7).set_index(["run", "place"])
    assert planes.loc["coco", "value"].isna().all() and planes.loc["cls", "value"].gt(50).all()
    assert set(planes.loc["coco", "problem"]) == {"all images have the same features"}
    assert planes.loc["cls", "problem"].isna().all()
    files = {name: tuple(tmp_path / f"{name}.{kind}" for kind in ("parquet", "plane"))
             for name in flat.values}  # fmt: skip
    said = read_spaces("target", "set", files, {"coco": "cls"}).scores
    assert set(said["neighbours alike"]) == {"cls"} and said["same cluster"] == {}  # not run


def test_too_few_images_for_a_plane_leave_the_space_its_neighbours(
    world: World, tmp_path: Path
) -> None:
    recipe = tmp_path / "analysis.yaml"
    recipe.write_text(re.sub(r"perplexity: \d+", "perplexity: 30", RECIPE))
    plane = tmp_path / "cls.plane"
    world.run("embed_features", "--features", world.folder / "cls", "--recipe", recipe,
              "--output", plane)  # fmt: skip
    table = pd.read_parquet(plane)
    assert table["x"].isna().all() and table["agreement_plane"].isna().all()
    assert table["agreement_space"].mean() > 0.8
    assert table["problem"].str.startswith("t-SNE of perplexity 30 needs 92 images").all()
