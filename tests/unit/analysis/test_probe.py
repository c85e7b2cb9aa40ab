"""Probing: against plain scikit-learn, on folds that keep images together; odd files; the command."""

import dataclasses
import json
import re
import warnings

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from feature_files import DIMENSION
from json_fields import check_fields
from labelled_files import box_file, image_file, separable

from sppfeat.analysis.choices import ProbeSettings
from sppfeat.analysis.probe import probe
from sppfeat.analysis.probe.ablation import list_parts, narrow
from sppfeat.analysis.probe.classifier import make_pipeline
from sppfeat.analysis.probe.folds import make_folds
from sppfeat.cli import main
from sppfeat.errors import ConfigError, LabelError, StoreError
from sppfeat.store.reader import FeatureFile

pytest.importorskip("sklearn")
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, recall_score
from sklearn.model_selection import (
    StratifiedGroupKFold,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
)

LABELS = [0, 1, 2, 1] * 12 + [0, -1]
IMAGES = [[i % 3, (i + 1) % 3, i % 2] for i in range(14)]
METHODS = ["products", "sums", "rows"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = image_file(tmp_path_factory.mktemp("probe") / "images.h5", LABELS)
    with FeatureFile(path) as file:
        yield file


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    path = box_file(tmp_path_factory.mktemp("probe") / "boxes.h5", IMAGES)
    with FeatureFile(path) as file:
        yield file


def plain_scaled(x, widths=((0, 10), (10, 15))):
    """Each layer's part of each row to norm 1 / sqrt(layers), in plain loops."""
    rows = []
    for row in x.astype(np.float64):
        parts = [row[a:b] for a, b in widths]
        norms = [np.sqrt(sum(v * v for v in part)) for part in parts]
        rows.append(
            np.concatenate([p / n if n else p for p, n in zip(parts, norms, strict=True)])
            / np.sqrt(len(parts))
        )
    return np.array(rows)


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("class_weight", ["balanced", "none"])
def test_scores_are_those_of_plain_scikit_learn(images, method, class_weight):
    settings = ProbeSettings(folds=4, seed=3, C=2.0, class_weight=class_weight, method=method)
    result = probe(images.select(), settings)
    x, y = images.to_sklearn()
    x, y = plain_scaled(x[y >= 0]), y[y >= 0]
    model = RidgeClassifier(alpha=1 / 4, class_weight="balanced" if class_weight == "balanced" else None)
    cv = StratifiedKFold(4, shuffle=True, random_state=3)
    assert result.accuracy.folds == pytest.approx(cross_val_score(model, x, y, cv=cv).tolist())
    expected = cross_val_score(model, x, y, cv=cv, scoring="balanced_accuracy")
    assert result.class_accuracy.folds == pytest.approx(expected.tolist())
    assert result.accuracy.mean == pytest.approx(np.mean(result.accuracy.folds))
    assert result.accuracy.std == pytest.approx(np.std(result.accuracy.folds))
    predicted = cross_val_predict(model, x, y, cv=cv)
    assert [c.recall for c in result.classes] == pytest.approx(
        recall_score(y, predicted, average=None).tolist()
    )
    counts = confusion_matrix(y, predicted)
    assert {(int(p.true[1]), int(p.predicted[1])): p.count for p in result.confusions} == {
        (i, j): counts[i, j] for i in range(3) for j in range(3) if i != j and counts[i, j]
    }
    assert [p.count for p in result.confusions] == sorted((p.count for p in result.confusions), reverse=True)
    assert all(p.share == p.count / counts[int(p.true[1])].sum() for p in result.confusions)
    assert (result.n_rows, result.n_classes, result.n_images, result.n_unlabelled) == (49, 3, 49, 1)
    assert result.chance == pytest.approx(24 / 49)


@pytest.mark.parametrize("method", METHODS)
def test_boxes_are_split_by_image(boxes, method):
    settings = ProbeSettings(folds=3, seed=1, method=method)
    result = probe(boxes.select(), settings)
    x, y = boxes.to_sklearn()
    cv = StratifiedGroupKFold(3, shuffle=True, random_state=1)
    model = RidgeClassifier(alpha=1 / (2 * settings.C), class_weight="balanced")
    expected = [
        (model.fit(plain_scaled(x[train]), y[train]).predict(plain_scaled(x[test])) == y[test]).mean()
        for train, test in cv.split(x, y, boxes.groups)
    ]
    assert result.accuracy.folds == pytest.approx(expected)
    assert result.grouped
    assert (result.n_rows, result.n_images) == (42, 14)


@pytest.mark.parametrize("repeats", [1, 3])
def test_folds_test_each_row_once_and_never_share_an_image(boxes, repeats):
    _, y = boxes.to_sklearn()
    folds = make_folds(y, boxes.groups, n_folds=4, repeats=repeats, seed=0)
    assert len(folds) == 4 * repeats
    for fold in folds:
        assert not set(boxes.groups[fold.train]) & set(boxes.groups[fold.test])
        assert sorted([*fold.train, *fold.test]) == list(range(len(y)))
    for repeat in range(repeats):
        tested = np.concatenate([fold.test for fold in folds[4 * repeat : 4 * repeat + 4]])
        assert sorted(tested.tolist()) == list(range(len(y)))
    if repeats > 1:
        assert folds[0].test.tolist() != folds[4].test.tolist()


def test_repeats_are_further_shuffles(images):
    once = probe(images.select(), ProbeSettings(repeats=1, seed=1, ablation=False))
    twice = probe(images.select(), ProbeSettings(repeats=2, seed=0, ablation=False))
    assert len(twice.accuracy.folds) == 10
    assert twice.accuracy.folds[5:] == once.accuracy.folds
    assert [c.rows for c in twice.classes] == [13, 24, 12]
    assert probe(images.select(), ProbeSettings(repeats=2, ablation=False)) == twice


# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("normalize", ["none", "l2"])
def test_parts_give_what_probing_them_alone_gives(tmp_path, method, normalize):
    path = image_file(tmp_path / "f.h5", LABELS, normalize=normalize)
    with FeatureFile(path) as file:
        result = probe(file.select(), ProbeSettings(method=method))
        found = [(part.kind, part.layers, part.levels, part.dimension) for part in result.ablation]
        both = ("layer3", "layer4")
        assert found == [
            ("all", both, (1, 2), 15),
            ("level", both, (1,), 3),
            ("level", both, (2,), 12),
            ("layer", ("layer3",), (1, 2), 10),
            ("layer", ("layer4",), (1, 2), 5),
        ]
        for part in result.ablation:
            alone = probe(
                file.select(layers=part.layers, levels=part.levels),
                ProbeSettings(method="rows", ablation=False),
            )
            assert alone.accuracy == part.accuracy
            assert alone.class_accuracy == part.class_accuracy
            assert alone.dimension == part.dimension
            differences = np.subtract(part.accuracy.folds, result.accuracy.folds)
            assert part.difference.folds == pytest.approx(differences.tolist())
    assert result.ablation[0].difference.mean == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_some_bins_and_no_ablation(images, method):
    selection = images.select(bins={2: [(0, 0), (1, 1)]})
    result = probe(selection, ProbeSettings(method=method))
    assert [part.dimension for part in result.ablation] == [9, 3, 6, 6, 3]
    assert probe(selection, ProbeSettings(method=method, ablation=False)).ablation == ()
    assert probe(images.select(layers="layer3", levels=1)).ablation == ()
    narrowed = narrow(images.select(), ["layer4"], [2])
    assert np.array_equal(narrowed.X, images.select(layers="layer4", levels=2).X)
    assert narrowed.columns == images.select(layers="layer4", levels=2).columns


def test_many_blocks_of_rows_give_the_same(images, monkeypatch):
    whole = probe(images.select(), ProbeSettings(method="products"))
    monkeypatch.setattr("sppfeat.analysis.probe.kernel._BLOCK_NBYTES", 4 * DIMENSION * 7)
    steps = []
    blocks = probe(
        images.select(), ProbeSettings(method="products"), on_progress=lambda n, of: steps.append((n, of))
    )
    assert blocks == whole
    assert steps[-1][0] == steps[-1][1] == 28 + 25
    assert [n for n, _ in steps] == list(range(1, 54))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e25])
def test_rows_of_any_size_and_of_zeros_and_float16(tmp_path, scale):
    features = separable(LABELS)
    features[3] = 0
    path = image_file(tmp_path / "f.h5", LABELS, features=features * np.float32(scale))
    other = image_file(tmp_path / "g.h5", LABELS, features=features, dtype="float16")
    with FeatureFile(path) as file, FeatureFile(other) as half:
        result = probe(file.select(), ProbeSettings(method="products"))
        plain = probe(half.select(), ProbeSettings(method="products"))
        assert result.accuracy.mean == pytest.approx(plain.accuracy.mean, abs=0.05)
        assert probe(half.select(), ProbeSettings(method="rows")).accuracy == plain.accuracy


# --- classes --------------------------------------------------------------------------------------


def test_classes_that_are_too_small_are_left_out_and_named(tmp_path):
    labels = [0, 1] * 10 + [2] * 3 + [3] * 5 + [-1] * 2
    with FeatureFile(image_file(tmp_path / "f.h5", labels)) as file:
        result = probe(file.select())
        assert [dataclasses.astuple(size) for size in result.left_out] == [("c2", 3, 3)]
        assert [c.name for c in result.classes] == ["c0", "c1", "c3"]
        assert (result.n_rows, result.n_unlabelled) == (25, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert probe(file.select(), ProbeSettings(min_per_class=1)).n_classes == 4
        assert probe(file.select(), ProbeSettings(min_per_class=6)).n_classes == 2


def test_a_class_of_many_boxes_in_one_image_is_left_out(tmp_path):
    with FeatureFile(box_file(tmp_path / "f.h5", [[0, 1]] * 6 + [[2] * 9])) as file:
        result = probe(file.select())
        assert [dataclasses.astuple(size) for size in result.left_out] == [("c2", 9, 1)]
        kept = probe(file.select(), ProbeSettings(min_per_class=1))
        assert kept.classes[2].recall == 0  # in no training fold that tests it
        assert kept.n_rows == 21


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_classes(tmp_path, method):
    labels = [0] * 7 + [1] * 9
    with FeatureFile(image_file(tmp_path / "f.h5", labels)) as file:
        result = probe(file.select(), ProbeSettings(method=method))
        x = plain_scaled(file.features)
        cv = StratifiedKFold(5, shuffle=True, random_state=0)
        expected = cross_val_predict(RidgeClassifier(alpha=0.1, class_weight="balanced"), x, labels, cv=cv)
        assert result.classes[1].recall == pytest.approx((expected[7:] == 1).mean())
        assert balanced_accuracy_score(labels, expected) == pytest.approx(
            np.mean([c.recall for c in result.classes])
        )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0] * 9, "there is one class only, 'c0' of 9 rows; needed are two"),
        (list(range(9)), "of 9 classes 0 have 5 rows or more"),
        ([-1] * 9, "of 9 rows none has a label"),
        ([], "no labels"),
    ],
)
def test_labels_that_cannot_be_probed(tmp_path, labels, message):
    classes = None if any(label >= 0 for label in labels) else [b"a"] if labels else []
    with (
        FeatureFile(image_file(tmp_path / "f.h5", labels, classes=classes)) as file,
        pytest.raises(LabelError, match=re.escape(message).replace("labels", "labels?")),
    ):
        probe(file.select())


def test_folds_that_cannot_be(tmp_path):
    with FeatureFile(box_file(tmp_path / "f.h5", [[0] * 5, [1] * 5])) as file:
        with pytest.raises(LabelError, match="Fewer --folds need fewer images"):
            probe(file.select())
        with pytest.raises(LabelError, match="fold 0 of 2 would have 5 rows to test and 1 class to train on"):
            probe(file.select(), ProbeSettings(folds=2, min_per_class=1))


def test_labels_from_elsewhere(images):
    numbers = np.array([3.5, 7.0] * 25)
    result = probe(images.select(labels=numbers))
    assert [c.name for c in result.classes] == ["3.5", "7.0"]
    assert result.n_rows == 50
    numbers[:4] = np.nan
    assert probe(images.select(labels=numbers)).n_unlabelled == 4


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_named(tmp_path, method, value):
    features = separable(LABELS)
    features[[5, 17], 2] = value
    with FeatureFile(image_file(tmp_path / "f.h5", LABELS, features=features)) as file:
        with pytest.raises(StoreError, match=r"NaN or infinities in row 5, 17 \('5.jpg'\).*--rows"):
            probe(file.select(), ProbeSettings(method=method))
        assert probe(file.select(rows="18:"), ProbeSettings(method=method)).n_rows == 31


def test_what_is_pending_or_failed_is_left_out_and_counted(tmp_path):
    path = image_file(tmp_path / "f.h5", LABELS)
    with h5py.File(path, "r+") as opened:
        opened["images/status"][:3] = [0, 2, 0]
    with FeatureFile(path) as file:
        result = probe(file.select())
        assert (result.n_rows, result.n_pending, result.n_failed) == (46, 2, 1)
        with pytest.raises(ConfigError, match="3 of 50 rows have no descriptor, the first is row 0"):
            probe(file.select(rows="status=any"))


def test_memory_that_is_not_there(images):
    with pytest.raises(
        ConfigError, match=r"49 rows of 15 values need 0.00 GB of memory.*--max-memory.*--rows"
    ):
        probe(images.select(), ProbeSettings(max_nbytes=10))
    for method in ("products", "rows"):
        with pytest.raises(ConfigError, match="49 rows of 15 values need"):
            probe(images.select(), ProbeSettings(max_nbytes=10, method=method))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": 1}, "folds are 1"),
        ({"repeats": 0}, "repeats are 0"),
        ({"seed": -1}, "the seed is -1"),
        ({"C": 0}, "C is 0"),
        ({"C": float("nan")}, "C is nan"),
        ({"min_per_class": 0}, "min-per-class is 0"),
        ({"class_weight": "x"}, "class-weight"),
        ({"method": "x"}, "method"),
    ],
)
def test_settings_that_are_wrong(change, message):
    with pytest.raises(ConfigError, match=message):
        ProbeSettings(**change)


def test_the_pipeline_scales_each_layer(images):
    x, y = images.to_sklearn()
    pipeline = make_pipeline(images.select().columns, C=5, class_weight="none").fit(x, y)
    assert np.allclose(pipeline[0].transform(x), plain_scaled(x), atol=1e-6)
    assert len(list_parts(images.select(layers="layer4"))) == 3


# --- the command ----------------------------------------------------------------------------------


def run(*args):
    return CliRunner().invoke(main, ["probe", *map(str, args)])


def test_the_command_prints_tables(boxes):
    result = run(boxes.path, "--folds", 3, "--pairs", 2)
    assert result.exit_code == 0, result.output
    assert "42 rows of 15 values, 3 classes, 14 images; 3 folds, boxes of an image together" in result.stdout
    lines = result.stdout.splitlines()
    assert any(re.fullmatch(r"accuracy +\d+\.\d ± \d+\.\d", line) for line in lines)
    assert any(re.match(r"level 1 +layer3, layer4 +3 +\d+\.\d ± ", line) for line in lines)
    assert any(re.match(r"layer layer4 +layer4 +5 ", line) for line in lines)
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("class ")) :]
    assert len(table) == 3
    assert "probing" in result.stderr
    quiet = run(boxes.path, "-q", "--no-ablation", "--pairs", 0, "--folds", 3)
    assert (quiet.stderr, "part" in quiet.stdout, "taken for" in quiet.stdout) == ("", False, False)


def test_the_command_says_what_is_left_out(tmp_path):
    labels = [0, 1] * 10 + [2] * 3 + [-1] * 2 + [0]
    path = image_file(tmp_path / "f.h5", labels, classes=[b"a\x1b[2J", b"b", b"\xff"])
    with h5py.File(path, "r+") as opened:
        opened["images/status"][-1] = 0
    result = run(path, "-q")
    assert "note: 2 rows without label are left out" in result.stdout
    assert (
        "note: 1 class with 3 rows left out, having fewer than 5 rows (--min-per-class): \\udcff 3"
        in result.stdout
    )
    assert "note: 1 image is pending" in result.stdout
    assert "\x1b" not in result.stdout


def test_json_has_the_fields_of_the_readme(tmp_path):
    labels = [0, 1] * 10 + [2] * 3
    path = image_file(tmp_path / "f.h5", labels, features=separable(labels, noise=9))
    result = run(path, "--json", "-q", "--folds", 4)
    found = json.loads(result.stdout)
    check_fields("probe", found)
    with FeatureFile(path) as file:
        expected = probe(file.select(), ProbeSettings(folds=4))
    assert found["accuracy"]["mean"] == expected.accuracy.mean
    assert found["left_out"] == [{"name": "c2", "n_rows": 3, "n_members": 3}]


@pytest.mark.parametrize(
    ("args", "message", "code"),
    [
        (["--folds", 1], "1 is not in the range", 2),
        (["--C", "-1"], "C is -1.0; allowed: 1e-30 to 1e+30", 2),
        (["--C", "1e-40"], "C is 1e-40", 2),
        (["--max-memory", "nan"], "nan is no number", 2),
        (["--C", "nan"], "C is nan", 2),
        (["--levels", "3"], "levels are 3; in this file: 1, 2", 2),
        (["--rows", "label=x"], "fits none of", 2),
        (["--labels-from", "gone"], "where there is no file", 2),
        (["--max-memory", "0.0000001"], "--max-memory", 2),
        (["--save", "gone/m.skops"], "the folder of the output does not exist", 1),
    ],
)
def test_wrong_usage(images, args, message, code):
    result = run(images.path, "-q", *args)
    assert (result.exit_code, message in result.output) == (code, True), result.output
    assert "Traceback" not in result.output


def test_packages_that_are_not_installed(images, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.model_selection", None)
    result = run(images.path, "-q")
    assert result.exit_code == 2
    assert "pip install 'sppfeat[sklearn]'" in result.output
