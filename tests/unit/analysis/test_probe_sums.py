"""Probing by sums over rows in blocks: against scikit-learn on all rows, in little memory; when it is chosen."""

import re
import tracemalloc

import numpy as np
import pytest
from feature_files import DIMENSION
from labelled_files import box_file, image_file, separable

from sppfeat.analysis.choices import ProbeSettings
from sppfeat.analysis.probe import probe
from sppfeat.analysis.probe.ablation import ProbeTask, list_parts
from sppfeat.analysis.probe.classifier import fit_classifier, make_pipeline
from sppfeat.analysis.probe.costs import SumsShape, choose_method, plan_sums
from sppfeat.analysis.probe.crossvalidation import cross_predict
from sppfeat.analysis.probe.folds import Fold, fold_weights, make_folds
from sppfeat.analysis.probe.ridge import solve_ridge
from sppfeat.analysis.probe.rows import labeled_rows
from sppfeat.errors import ConfigError, StoreError
from sppfeat.store.reader import FeatureFile

pytest.importorskip("sklearn")
from sklearn.linear_model import RidgeClassifier

N_ROWS = 3000
LITTLE = 300_000  # bytes: less than the rows in memory take, or their products
FEW = 6000  # bytes more than the least: the sums of some folds, not of all


def uneven(n, n_classes):
    """Classes of very different sizes, in no order."""
    shares = 0.5 ** np.arange(n_classes)
    return np.random.default_rng(1).choice(n_classes, n, p=shares / shares.sum()).tolist()


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    labels = uneven(N_ROWS, 4)
    features = separable(labels, noise=4.0) + 3  # far from 0, as activations are
    path = image_file(tmp_path_factory.mktemp("sums") / "f.h5", labels, features=features)
    with FeatureFile(path) as file:
        yield file


def task_of(file, **settings):
    """What probing a file would do."""
    selection, settings = file.select(), ProbeSettings(**settings)
    labeled = labeled_rows(selection, min_per_class=settings.least_per_class)
    folds = make_folds(
        labeled.y, labeled.groups, n_folds=settings.folds, repeats=settings.repeats, seed=settings.seed
    )
    return ProbeTask(selection, labeled, folds, list_parts(selection), settings)


def least_of(file):
    return SumsShape(N_ROWS, DIMENSION, 4, 10).least_nbytes


def equal(some, others):
    """Return whether predictions are the same, but for one row in a thousand.

    Sums in another order move decision values by up to 1e-4. They spread over about one unit, so one row in some
    thousands has its two first classes nearer to each other than that, and either may be predicted.
    """
    return all(
        a.shape == b.shape and np.mean(a != b) <= 1e-3
        for x, y in zip(some, others, strict=True)
        for a, b in zip(x, y, strict=True)
    )


# --- sums -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, 2.0, 0.25]])
def test_a_solution_of_sums_is_that_of_scikit_learn(weights):
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 3], [20, 9, 14])  # no row of class 2
    x = rng.standard_normal((43, 6)) + y[:, None]
    of_rows = np.repeat(weights, [20, 9, 14])
    sums = np.array([x[y == c].sum(axis=0) for c in range(4)])
    found = solve_ridge((x.T * of_rows) @ x, sums, np.bincount(y), np.insert(weights, 2, 9.0), alpha=0.3)
    expected = RidgeClassifier(alpha=0.3).fit(x, y, sample_weight=of_rows)
    assert found.classes.tolist() == [0, 1, 3]
    assert np.allclose(found.coef, expected.coef_, atol=1e-6)
    assert np.allclose(found.intercept, expected.intercept_)
    assert np.array_equal(found.predict(x.astype(np.float32)), expected.predict(x))


def test_columns_that_say_the_same_without_regularisation():
    rng = np.random.default_rng(0)
    once, y = rng.standard_normal((40, 3)), np.arange(40) % 2
    x = np.hstack([once, once, once[:, :1]])  # rank 3 of 7: no matrix that could be inverted
    sums = np.array([x[y == c].sum(axis=0) for c in range(2)])
    found = solve_ridge(x.T @ x - 1e-6 * np.eye(7), sums, np.array([20, 20]), np.ones(2), alpha=0)
    centred = x - x.mean(axis=0)
    expected = np.linalg.lstsq(centred, np.where(y == 1, 1.0, -1.0), rcond=None)[0]
    assert np.allclose(x @ found.coef[1] + found.intercept[1], centred @ expected, atol=1e-4)


def test_rows_are_multiplied_as_few_times_as_their_weights_allow():
    y = np.array([0] * 10 + [1] * 11)
    folds = [Fold(np.setdiff1d(np.arange(21), np.arange(i, 21, 5)), np.arange(i, 21, 5)) for i in range(5)]
    plain = fold_weights(y, folds, n_classes=2, balanced=False)
    assert plain.n_multiplied == 21
    weights = fold_weights(y, folds, n_classes=2, balanced=True)
    assert weights.counts.tolist() == [[8, 8], [8, 9], [8, 9], [8, 9], [8, 9]]
    assert weights.n_multiplied == 21 + 8  # the fold that has 8 rows of class 1
    assert weights.shared.tolist() == [1 / 8, 1 / 9]
    for fold, own, counts, scale in zip(folds, weights.weights, weights.counts, weights.scale, strict=True):
        of_rows = scale * own[y[fold.train]]
        assert np.allclose(np.bincount(y[fold.train], of_rows), len(fold.train) / 2)
        assert counts.sum() == len(fold.train)
    alone = fold_weights(y, folds[:1], n_classes=2, balanced=True)
    assert alone.n_multiplied == 16
    assert alone.test_fold.tolist() == [0 if i in folds[0].test else -1 for i in range(21)]


# --- predictions ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("class_weight", ["balanced", "none"])
def test_in_little_memory_the_same_is_predicted(many, class_weight):
    rows = task_of(many, repeats=2, C=0.5, class_weight=class_weight)
    expected = cross_predict(rows, "rows")
    assert all(len(np.unique(own[0])) > 1 for own in expected[:1])
    for max_nbytes, at_once in ((LITTLE, 5), (least_of(many), 1), (least_of(many) + FEW, 2)):
        task = task_of(many, repeats=2, C=0.5, class_weight=class_weight, max_nbytes=max_nbytes)
        runs = plan_sums(task)
        assert max(run.folds.stop - run.folds.start for run in runs if 0 in run.parts) == at_once
        assert max(run.block_rows for run in runs) < N_ROWS  # so that there are several blocks
        steps = []
        found = cross_predict(task, "sums", on_progress=lambda n, of, to=steps: to.append((n, of)))
        assert equal(found, expected)
        assert steps == [(i + 1, len(steps)) for i in range(len(steps))]


def test_classes_that_some_folds_do_not_train(tmp_path):
    labels = [[0, 1, 0], [1, 0], [0, 1, 1], [0], [1, 0]] * 2 + [[2, 2, 2]]  # class 2 in one image
    with FeatureFile(box_file(tmp_path / "f.h5", labels)) as file:
        task = task_of(file, folds=4, min_per_class=1)
        assert any(len(np.unique(task.labeled.y[fold.train])) < 3 for fold in task.folds)
        expected = cross_predict(task, "rows")
        assert equal(cross_predict(task, "sums"), expected)
        assert equal(cross_predict(task, "products"), expected)


def test_memory_is_what_is_allowed(many):
    task = task_of(many, max_nbytes=LITTLE)
    many.select().take(np.arange(3))  # what is read once
    cross_predict(task, "sums")  # what is imported
    tracemalloc.start()
    try:
        cross_predict(task, "sums")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < LITTLE + 100 * N_ROWS


def test_a_row_that_is_not_finite_is_named_in_any_block(tmp_path):
    labels = uneven(N_ROWS, 2)
    features = separable(labels)
    features[1801, 4] = np.nan
    with FeatureFile(image_file(tmp_path / "f.h5", labels, features=features)) as file:
        for run in (probe, fit_classifier):
            with pytest.raises(StoreError, match=r"NaN or infinities in row 1801 \('1801.jpg'\)"):
                run(file.select(), ProbeSettings(max_nbytes=LITTLE))


# --- the choice -----------------------------------------------------------------------------------


def test_the_way_that_fits_and_takes_the_least_time(many):
    assert probe(many.select(), ProbeSettings(max_nbytes=LITTLE)).method == "sums"
    assert choose_method(task_of(many)) == "sums"  # many more rows than values
    assert choose_method(task_of(many, method="rows")) == "rows"


def test_what_would_fit_is_said(many):
    shape = SumsShape(N_ROWS, DIMENSION, 4, 10)
    with pytest.raises(ConfigError, match="3000 rows of 15 values") as raised:
        probe(many.select(), ProbeSettings(max_nbytes=shape.least_nbytes - 1))
    n_rows, n_values = map(
        int, re.search(r"enough for (\d+) rows .* (\d+) values", str(raised.value)).groups()
    )
    assert 0 < n_values < DIMENSION
    fitting = many.select(rows=f"0:{n_rows}")
    assert probe(fitting, ProbeSettings(max_nbytes=shape.least_nbytes - 1)).n_rows == n_rows


# --- all rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("class_weight", ["balanced", "none"])
def test_a_pipeline_is_what_scikit_learn_fits_on_all_rows(many, n_classes, class_weight):
    rows = [f"label=c{i}" for i in range(n_classes)]
    selection = many.select(rows=rows)
    settings = ProbeSettings(class_weight=class_weight, max_nbytes=LITTLE)
    found = fit_classifier(selection, settings).pipeline
    x, y = selection.to_sklearn()
    expected = make_pipeline(selection.columns, C=5.0, class_weight=class_weight).fit(x, y)
    ours, theirs = found[-1], expected[-1]
    assert set(vars(ours)) == set(vars(theirs))
    for name in ("coef_", "intercept_", "classes_"):
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype
        assert np.shape(getattr(ours, name)) == np.shape(getattr(theirs, name))
        assert np.allclose(getattr(ours, name), getattr(theirs, name), atol=1e-3)
    assert found.n_features_in_ == expected.n_features_in_ == DIMENSION
    decision = expected.decision_function(x)
    assert np.allclose(found.decision_function(x), decision, atol=1e-4)
    # Where the two classes that are first are nearer to each other than that, either may be.
    each = np.sort(np.stack([-decision, decision], 1) if decision.ndim == 1 else decision, axis=1)
    is_clear = each[:, -1] - each[:, -2] > 1e-3
    assert is_clear.mean() > 0.9
    assert np.array_equal(found.predict(x)[is_clear], expected.predict(x)[is_clear])
