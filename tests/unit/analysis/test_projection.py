"""Fitted projections against scikit-learn's full decomposition of the same rows."""

import numpy as np
import pytest
from feature_files import DIMENSION
from reduced_files import HAVE, N, spectral, write_file

from sppfeat.analysis.reduce import projection
from sppfeat.config.specs import ReductionSpec
from sppfeat.errors import ConfigError
from sppfeat.store.reader import FeatureFile

decomposition = pytest.importorskip("sklearn.decomposition")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_file(tmp_path_factory.mktemp("fit") / "f.h5", spectral())


def fit(path, *, batch_size=None, **spec):
    with FeatureFile(path) as file:
        return projection.fit_reduction(
            file, ReductionSpec(**{"components": 4, **spec}), batch_size=batch_size
        )


def plain(rows, n=4):
    """What the library makes of plain arrays, by another solver."""
    return decomposition.PCA(n, svd_solver="full").fit(rows.astype(np.float64))


@pytest.mark.parametrize(("batch_size", "tolerance"), [(None, 1e-4), (20, 2e-2)])
def test_components_are_those_of_a_full_decomposition(path, batch_size, tolerance):
    found, expected = fit(path, batch_size=batch_size), plain(spectral()[HAVE])
    cosines = np.linalg.svd(found.components @ expected.components_.T, compute_uv=False)
    assert cosines.min() > 1 - tolerance
    assert np.allclose(found.mean, expected.mean_, atol=1e-4)
    share = expected.explained_variance_ratio_.sum()
    assert found.record.explained_variance == pytest.approx(share, rel=tolerance)
    assert found.record.fitted_rows == len(HAVE)
    assert (np.take_along_axis(found.components, np.abs(found.components).argmax(1)[:, None], 1) > 0).all()


def test_the_same_seed_gives_the_same_and_the_order_of_rows_does_not_matter(tmp_path, path):
    again = write_file(tmp_path / "f.h5", spectral()[HAVE][::-1], failed=())
    for batch_size, tolerance in ((None, 1e-3), (20, 0.1)):
        first = fit(path, batch_size=batch_size)
        assert fit(path, batch_size=batch_size).fingerprint == first.fingerprint
        other = fit(again, batch_size=batch_size)
        assert np.abs(other.components - first.components).max() < tolerance


def test_whitened_components_have_variance_one(path):
    found = fit(path, whiten=True)
    assert np.allclose(found.apply(spectral()[HAVE]).var(axis=0, ddof=1), 1, atol=1e-3)


def test_a_direction_without_variance_is_zero_when_whitened(tmp_path):
    rows = spectral(10)
    flat = np.outer(rows[:, 0], np.ones(DIMENSION, dtype=np.float32))
    found = fit(write_file(tmp_path / "f.h5", flat, failed=()), whiten=True)
    assert (found.scale > 0).tolist() == [True, False, False, False]
    same = fit(write_file(tmp_path / "g.h5", np.ones_like(rows), failed=()), whiten=True)
    assert not same.apply(np.ones_like(rows)).any()
    assert same.record.explained_variance == 0


def test_it_is_fitted_on_the_rows_and_columns_that_are_asked_for(path):
    found = fit(path, fit_rows=("::2",), layers=("layer4",), components=2)
    rows = np.intersect1d(HAVE, np.arange(0, N, 2))
    expected = plain(spectral()[rows][:, 10:], 2)
    assert found.record.fitted_rows == len(rows)
    assert np.linalg.svd(found.components @ expected.components_.T, compute_uv=False).min() > 0.9999
    assert found.record.selection.width == 5


def test_rows_of_which_squares_overflow_are_refused(tmp_path):
    rows = spectral()
    rows[9] *= 1e37
    with pytest.raises(ConfigError, match="row 9 holds values that are not finite, or"):
        fit(write_file(tmp_path / "f.h5", rows))


def test_a_random_projection_is_the_librarys(path):
    from sklearn.random_projection import GaussianRandomProjection

    found = fit(path, method="random", seed=5)
    expected = GaussianRandomProjection(4, random_state=5).fit(spectral())
    assert np.allclose(found.apply(spectral()), expected.transform(spectral()), rtol=1e-5, atol=1e-5)
    assert found.record.fitted_rows == 0
    assert found.record.explained_variance is None


@pytest.mark.parametrize(
    ("spec", "batch_size", "said"),
    [
        ({"components": 16}, None, "16 components of 15 columns; allowed: 1 to 15"),
        ({"components": 6, "levels": (1,)}, None, "6 components of 3 columns"),
        ({"components": 15, "fit_rows": ("0:10",)}, None, "15 components of 9 rows"),
        ({}, 3, "batches of 3 rows for 4 components"),
        ({"fit_rows": ("status=any",)}, None, "row 7 holds values that are not finite"),
        ({"layers": ("relu",)}, None, "layers are relu"),
    ],
)
def test_what_cannot_be_fitted(path, spec, batch_size, said):
    with pytest.raises(ConfigError, match=said):
        fit(path, batch_size=batch_size, **spec)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"method": "svd"}, "method is 'svd'; allowed: pca, random"),
        ({"components": 0}, "components is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"whiten": 1}, "whiten is 1"),
        ({"layers": (1,)}, "layers are"),
        ({"method": "random", "whiten": True}, "whitening goes with pca"),
        ({"method": "random", "fit_rows": ("0:3",)}, "rows to fit on go with pca"),
    ],
)
def test_settings_that_do_not_go(spec, said):
    with pytest.raises(ConfigError, match=said):
        ReductionSpec(**spec)
