"""The probe, compared with plain scikit-learn: scores, folds, memory, unusual files, and the command."""

import dataclasses
import functools
import json
import re
import tracemalloc
import warnings

import command_line
import h5py
import numpy as np
import pytest
from feature_files import CHANNELS
from json_fields import check_fields
from labelled_files import box_file, image_file, separable

import sppfeat
from sppfeat.analysis.choices import ProbeSettings
from sppfeat.analysis.probe import cross_validate
from sppfeat.analysis.probe.ridge import Ridge, labeled_rows
from sppfeat.analysis.probe.validation import make_folds
from sppfeat.errors import ConfigError, LabelError, StoreError
from sppfeat.store.reader import FeatureFile

pytest.importorskip("sklearn")
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import confusion_matrix, recall_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict, cross_val_score

LABELS = [0, 1, 2, 1] * 12 + [0, -1]
IMAGES = [[i % 3, (i + 1) % 3, i % 2] for i in range(14)]
SHAPES = ["tall", "wide"]  # more rows than values: sums; more values than rows: products
WIDE = (16, 8)


def write(path, labels, shape, *, edit=lambda x: x, **settings):
    """Writes a file with more rows than values per row (tall), or fewer (wide)."""
    x = separable(labels, noise=3) + 1  # away from 0, as activations are
    if shape == "wide":
        x = np.hstack([x, separable(labels, seed=1, noise=3).repeat(7, axis=1)])
        x = np.random.default_rng(5).permuted(x, axis=1)
    channels = CHANNELS if shape == "tall" else WIDE
    return image_file(path, labels, features=edit(x), channels=channels, **settings)


@pytest.fixture(scope="module", params=SHAPES)
def file(request, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("probe") / "f.h5", LABELS, request.param)
    with FeatureFile(path) as file:
        yield file


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    path = box_file(tmp_path_factory.mktemp("probe") / "boxes.h5", IMAGES)
    with FeatureFile(path) as file:
        yield file


def validate(selection, **settings):
    return cross_validate(selection, ProbeSettings(**settings))


def fit(selection, **settings):
    return Ridge(selection, labeled_rows(selection, min_per_class=1), ProbeSettings(**settings)).fit()


def plain(*, C=ProbeSettings.C, class_weight="balanced"):  # noqa: N803
    """The classifier of scikit-learn with these settings."""
    return RidgeClassifier(alpha=1 / (2 * C), class_weight=None if class_weight == "none" else class_weight)


def plain_scaled(x, selection):
    """Rows with each layer scaled to norm 1 / sqrt(layers), by plain loops."""
    rows, layers = [], selection.columns.layer_ranges().values()
    for row in x.astype(np.float64):
        parts = [row[columns] for columns in layers]
        norms = [np.sqrt(sum(v * v for v in part)) for part in parts]
        scaled = [p / n if n else p for p, n in zip(parts, norms, strict=True)]
        rows.append(np.concatenate(scaled) / np.sqrt(len(parts)))
    return np.array(rows)


def expected_of(selection):
    """Scaled rows and classes of the labeled rows, for scikit-learn."""
    x, y = selection.X, selection.y
    return plain_scaled(x[y >= 0], selection), y[y >= 0]


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_weight", ["balanced", "none"])
def test_scores_are_those_of_plain_scikit_learn(file, class_weight):
    result = validate(file.select(), folds=4, seed=3, C=2.0, class_weight=class_weight)
    assert result.method == ("sums" if len(LABELS) > file.dimension else "products")
    x, y = expected_of(file.select())
    model = plain(C=2, class_weight=class_weight)
    cv = StratifiedKFold(4, shuffle=True, random_state=3)
    assert result.accuracy.folds == pytest.approx(cross_val_score(model, x, y, cv=cv).tolist())
    expected = cross_val_score(model, x, y, cv=cv, scoring="balanced_accuracy")
    assert result.class_accuracy.folds == pytest.approx(expected.tolist())
    assert result.accuracy.mean == pytest.approx(np.mean(result.accuracy.folds))
    assert result.accuracy.std == pytest.approx(np.std(result.accuracy.folds))
    predicted = cross_val_predict(model, x, y, cv=cv)
    recalls = recall_score(y, predicted, average=None)
    assert [c.recall for c in result.classes] == pytest.approx(recalls.tolist())
    counts = confusion_matrix(y, predicted)
    assert {(int(p.true[1]), int(p.predicted[1])): p.count for p in result.confusions} == {
        (i, j): counts[i, j] for i in range(3) for j in range(3) if i != j and counts[i, j]
    }
    assert [p.count for p in result.confusions] == sorted((p.count for p in result.confusions), reverse=True)
    assert all(p.share == p.count / counts[int(p.true[1])].sum() for p in result.confusions)
    assert (result.n_rows, result.n_classes, result.n_images, result.n_unlabelled) == (49, 3, 49, 1)
    assert result.chance == pytest.approx(24 / 49)


def test_boxes_are_split_by_image(boxes):
    result = validate(boxes.select(), folds=3, seed=1)
    x, y = expected_of(boxes.select())
    cv = StratifiedGroupKFold(3, shuffle=True, random_state=1)
    expected = cross_val_score(plain(), x, y, groups=boxes.groups, cv=cv)
    assert result.accuracy.folds == pytest.approx(expected.tolist())
    assert result.grouped
    assert (result.n_rows, result.n_images) == (42, 14)


def test_folds_test_each_row_once_and_never_share_an_image(boxes):
    labeled = labeled_rows(boxes.select(), min_per_class=1)
    folds = make_folds(labeled, n_folds=4, repeats=3, seed=0)
    assert len(folds) == 12
    for train, test in folds:
        assert not set(boxes.groups[train]) & set(boxes.groups[test])
        assert sorted([*train, *test]) == list(range(42))
    for repeat in range(3):
        tested = np.concatenate([test for _, test in folds[4 * repeat : 4 * repeat + 4]])
        assert sorted(tested.tolist()) == list(range(42))


def test_repeats_are_further_shuffles(boxes):
    once = validate(boxes.select(), repeats=1, seed=1, ablation=False)
    twice = validate(boxes.select(), repeats=2, seed=0, ablation=False)
    assert len(twice.accuracy.folds) == 10
    assert twice.accuracy.folds[5:] == once.accuracy.folds
    assert [c.rows for c in twice.classes] == [c.rows for c in once.classes]
    assert validate(boxes.select(), repeats=2, ablation=False) == twice


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("class_weight", ["balanced", "none"])
def test_a_fit_on_all_rows_is_that_of_scikit_learn(tmp_path, shape, n_classes, class_weight):
    labels = [i % n_classes for i in range(31)] + [0] * 9
    with FeatureFile(write(tmp_path / "f.h5", labels, shape)) as file:
        coef, intercept = fit(file.select(), class_weight=class_weight, C=3)
        expected = plain(class_weight=class_weight, C=3).fit(*expected_of(file.select()))
    kept = slice(-len(expected.intercept_), None)  # of two classes, scikit-learn keeps the second only
    assert np.allclose(coef[kept], expected.coef_, atol=1e-9)
    assert np.allclose(intercept[kept], expected.intercept_, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_linearly_dependent_columns_without_regularization(tmp_path, shape):
    def repeat(x):
        return np.tile(x[:, :3], (1, x.shape[1] // 3))  # rank 3: no matrix that could be inverted

    with FeatureFile(write(tmp_path / "f.h5", [0, 1] * 20, shape, edit=repeat)) as file:
        coef, intercept = fit(file.select(), class_weight="none", C=1e30)
        x, y = expected_of(file.select())
    expected = np.linalg.lstsq(x - x.mean(axis=0), np.where(y == 1, 1.0, -1.0), rcond=1e-9)[0]
    assert np.allclose(coef[1], expected, atol=1e-6 * np.abs(expected).max())
    assert np.allclose(x @ coef[1] + intercept[1], (x - x.mean(axis=0)) @ expected, atol=1e-6)


# --- parts and blocks -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("normalize", ["none", "l2"])
def test_ablation_scores_equal_probes_of_the_parts(tmp_path, shape, normalize):
    with FeatureFile(write(tmp_path / "f.h5", LABELS, shape, normalize=normalize)) as file:
        result = validate(file.select())
        found = [(part.kind, part.layers, part.levels) for part in result.ablation]
        both = ("layer3", "layer4")
        assert found == [
            ("all", both, (1, 2)),
            ("level", both, (1,)),
            ("level", both, (2,)),
            ("layer", ("layer3",), (1, 2)),
            ("layer", ("layer4",), (1, 2)),
        ]
        for part in result.ablation:
            selection = file.select(layers=part.layers, levels=part.levels)
            alone = validate(selection, ablation=False)
            assert alone.accuracy == part.accuracy
            assert alone.class_accuracy == part.class_accuracy
            assert alone.dimension == part.dimension == selection.dimension
            differences = np.subtract(part.accuracy.folds, result.accuracy.folds)
            assert part.difference.folds == pytest.approx(differences.tolist())
    assert result.ablation[0].difference.mean == 0


def test_no_ablation_without_parts(file):
    assert validate(file.select(), ablation=False).ablation == ()
    assert validate(file.select(layers="layer3", levels=1)).ablation == ()
    with pytest.raises(ConfigError, match="some bins of level 2 do not form a grid"):
        validate(file.select(bins={2: [(0, 0)]}))


def test_the_result_does_not_depend_on_the_block_size(file, monkeypatch):
    selection, steps = file.select(), []
    whole, fitted = validate(selection), fit(selection)
    monkeypatch.setattr("sppfeat.analysis.probe.ridge._BLOCK_NBYTES", 8 * file.dimension * 7)
    again = cross_validate(selection, ProbeSettings(), on_progress=lambda *n: steps.append(n))
    assert again == whole
    assert steps == [(n, 25) for n in range(1, 26)]
    assert all(np.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(fitted, fit(selection), strict=True))


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_rows_of_any_size_and_of_zeros_and_float16(tmp_path, scale):
    features = separable(LABELS)
    features[3] = 0
    path = image_file(tmp_path / "f.h5", LABELS, features=features * np.float32(scale))
    other = image_file(tmp_path / "g.h5", LABELS, features=features, dtype="float16")
    with FeatureFile(path) as file, FeatureFile(other) as half:
        result = validate(file.select())
        of_half = validate(half.select())
        assert result.accuracy.mean == pytest.approx(of_half.accuracy.mean, abs=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_memory_stays_within_the_limit_or_the_error_names_a_size_that_fits(tmp_path, shape):
    with FeatureFile(write(tmp_path / "f.h5", [0, 1, 2] * (1000 if shape == "tall" else 40), shape)) as file:
        selection, settings = file.select(), ProbeSettings(max_nbytes=500_000, ablation=False)
        expected = validate(selection, ablation=False)  # also imports and reads what is kept
        tracemalloc.start()
        try:
            assert cross_validate(selection, settings) == expected
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < settings.max_nbytes + 200 * len(selection)
        little = ProbeSettings(max_nbytes=5000)
        with pytest.raises(ConfigError, match=r"\d+ rows of \d+ values need 0.00 GB of memory") as raised:
            cross_validate(selection, little)
        assert re.search(r"--max-memory.*--rows", str(raised.value))
        n_rows, n_values = map(int, re.findall(r"for (\d+) (?:rows|values)", str(raised.value)))
        assert 0 < n_rows == n_values < min(len(selection), file.dimension)
        if shape == "tall":
            assert validate(file.select(rows=f"0:{n_rows}"), folds=2, max_nbytes=5000)


# --- classes --------------------------------------------------------------------------------------


def test_classes_that_are_too_small_are_left_out_and_named(tmp_path):
    labels = [0, 1] * 10 + [2] * 3 + [3] * 5 + [-1] * 2
    with FeatureFile(image_file(tmp_path / "f.h5", labels)) as file:
        result = validate(file.select())
        assert [dataclasses.astuple(size) for size in result.left_out] == [("c2", 3, 3)]
        assert [c.name for c in result.classes] == ["c0", "c1", "c3"]
        assert (result.n_rows, result.n_unlabelled) == (25, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert validate(file.select(), min_per_class=1).n_classes == 4
        assert validate(file.select(), min_per_class=6).n_classes == 2


def test_a_class_of_many_boxes_in_one_image_is_left_out(tmp_path):
    with FeatureFile(box_file(tmp_path / "f.h5", [[0, 1]] * 6 + [[2] * 9])) as file:
        result = validate(file.select())
        assert [dataclasses.astuple(size) for size in result.left_out] == [("c2", 9, 1)]
        kept = validate(file.select(), min_per_class=1)
        assert kept.classes[2].recall == 0  # in no training fold that tests it
        assert kept.n_rows == 21


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0] * 9, "need at least 2 classes; found only 'c0' (9 rows)"),
        (list(range(9)), "need at least 2 classes with 5 rows each; found 0 of 9"),
        ([-1] * 9, "none of 9 rows has a label; give a table with --labels"),
        ([], "no labels"),
    ],
)
def test_labels_that_cannot_be_probed(tmp_path, labels, message):
    classes = None if any(label >= 0 for label in labels) else [b"a"] if labels else []
    with (
        FeatureFile(image_file(tmp_path / "f.h5", labels, classes=classes)) as file,
        pytest.raises(LabelError, match=re.escape(message).replace("labels", "labels?")),
    ):
        validate(file.select())


def test_impossible_folds_are_refused(tmp_path):
    with FeatureFile(box_file(tmp_path / "f.h5", [[0] * 5, [1] * 5])) as file:
        with pytest.raises(LabelError, match="need at least 2 classes with 5 images each"):
            validate(file.select())
        with pytest.raises(LabelError, match="fold 0 of 2 would have 5 rows to test and 1 class to train on"):
            validate(file.select(), folds=2, min_per_class=1)


def test_labels_from_elsewhere(file):
    numbers = np.array([3.5, 7.0] * 25)
    result = validate(file.select(labels=numbers))
    assert [c.name for c in result.classes] == ["3.5", "7.0"]
    assert result.n_rows == 50
    numbers[:4] = np.nan
    assert validate(file.select(labels=numbers)).n_unlabelled == 4


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_named(tmp_path, shape, value):
    def spoil(x):
        x[[5, 17], 2] = value
        return x

    with FeatureFile(write(tmp_path / "f.h5", LABELS, shape, edit=spoil)) as file:
        with pytest.raises(StoreError, match=r"NaN or infinities in row 5, 17 \('5.jpg'\).*--rows"):
            validate(file.select())
        assert validate(file.select(rows="18:")).n_rows == 31


def test_pending_and_failed_images_are_left_out_and_counted(tmp_path):
    path = image_file(tmp_path / "f.h5", LABELS)
    with h5py.File(path, "r+") as opened:
        opened["images/status"][:3] = [0, 2, 0]
    with FeatureFile(path) as file:
        result = validate(file.select())
        assert (result.n_rows, result.n_pending, result.n_failed) == (46, 2, 1)
        with pytest.raises(ConfigError, match="3 of 50 rows have no descriptor; the first is row 0"):
            validate(file.select(rows="status=any"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": 1}, "folds is 1; allowed: 2 or more"),
        ({"repeats": 0}, "repeats is 0"),
        ({"seed": -1}, "seed is -1; allowed: 0 to"),
        ({"C": 1e-40}, "C is 1e-40"),
        ({"C": float("nan")}, "C is nan"),
        ({"min_per_class": 0}, "min-per-class is 0"),
        ({"class_weight": "x"}, "class-weight"),
    ],
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        ProbeSettings(**change)


# --- the command ----------------------------------------------------------------------------------


run = functools.partial(command_line.run, "probe")


def test_the_command_prints_tables(boxes):
    result = run(boxes.path, "--folds", 3, "--max-confusions", 2, code=0)
    assert "42 rows of 15 values, 3 classes, 14 images; 3 folds, boxes of an image together" in result.stdout
    lines = result.stdout.splitlines()
    assert any(re.fullmatch(r"accuracy +\d+\.\d ± \d+\.\d", line) for line in lines)
    assert any(re.match(r"level 1 +layer3, layer4 +3 +\d+\.\d ± ", line) for line in lines)
    assert any(re.match(r"layer layer4 +layer4 +5 ", line) for line in lines)
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("class ")) :]
    assert len(table) == 3
    quiet = run(boxes.path, "-q", "--no-ablation", "--max-confusions", 0, "--folds", 3)
    assert (quiet.stderr, "part" in quiet.stdout, "taken for" in quiet.stdout) == ("", False, False)


def test_the_command_names_the_classes_left_out(tmp_path):
    labels = [0, 1] * 10 + [2] * 3 + [-1] * 2 + [0]
    path = image_file(tmp_path / "f.h5", labels, classes=[b"a\x1b[2J", b"b", b"\xff"])
    with h5py.File(path, "r+") as opened:
        opened["images/status"][-1] = 0
    result = run(path, "-q")
    assert "note: 2 rows without label were skipped" in result.stdout
    assert (
        "note: 1 class with fewer than 5 rows (--min-per-class) skipped, 3 rows: \\udcff 3" in result.stdout
    )
    assert "note: 1 image is pending" in result.stdout
    assert "\x1b" not in result.stdout


def test_json_has_the_documented_fields(tmp_path):
    labels = [0, 1] * 10 + [2] * 3
    path = image_file(tmp_path / "f.h5", labels, features=separable(labels, noise=9))
    found = json.loads(run(path, "--json", "-q", "--folds", 4).stdout)
    check_fields("probe", found)
    assert found["left_out"] == [{"name": "c2", "n_rows": 3, "n_members": 3}]
    called = json.loads(json.dumps(dataclasses.asdict(sppfeat.probe(path, folds=4))))
    assert called.items() <= found.items()


@pytest.mark.parametrize(
    ("args", "message", "code"),
    [
        (["--C", "-1"], "C is -1.0; allowed: 1e-30 to 1e+30", 2),
        (["--max-memory", "0.0000001"], "--max-memory", 2),
        (["--max-memory", "nan"], "'nan' is not a number above 0", 2),
        (["--save", "gone/m.npz"], "the folder of the output does not exist", 1),
        (["--save", "m.skops"], "classifiers are .npz files; use m.npz", 2),
    ],
)
def test_wrong_usage(boxes, args, message, code):
    result = run(boxes.path, "-q", *args)
    assert (result.exit_code, message in result.output) == (code, True), result.output
    assert "Traceback" not in result.output


def test_packages_that_are_not_installed(boxes, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.model_selection", None)
    result = run(boxes.path, "-q", code=2)
    assert "pip install 'sppfeat[sklearn]'" in result.output
