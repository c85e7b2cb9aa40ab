"""The transformer: scikit-learn's own checks where they apply, and the same for images."""

import importlib
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

import sppfeat
from sppfeat.errors import ConfigError, ImageError

sklearn = pytest.importorskip("sklearn")

from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.utils import estimator_checks  # noqa: E402

from sppfeat.sklearn import SPPFeatures  # noqa: E402

SETTINGS = {"levels": (1, 2), "weights": "none", "size": 32, "device": "cpu", "seed": 3}

# All of scikit-learn's checks, except those that need tables of numbers and those that do not concern transformers.
CHECKS = [
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_estimators_unfitted",
    "check_get_feature_names_out_error",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_transformers_unfitted",
    "check_valid_tag_types",
]


@pytest.fixture(scope="module")
def fitted():
    return SPPFeatures(**SETTINGS).fit(["never-read.jpg"])


@pytest.fixture
def paths(folder):
    return sorted(map(str, folder.rglob("*.png")))


@pytest.mark.parametrize("check", CHECKS)
def test_scikit_learns_own_checks(check):
    getattr(estimator_checks, check)("SPPFeatures", SPPFeatures(**SETTINGS))


def test_the_transformer_equals_the_extractor(fitted, paths):
    x = fitted.transform(paths)
    assert x.dtype == np.float32
    assert x.shape == (12, fitted.n_features_out_)
    assert np.array_equal(x, sppfeat.Extractor(**SETTINGS)(paths))
    again = SPPFeatures(**SETTINGS)
    assert np.array_equal(again.fit_transform(paths), x)
    assert again.fit(paths) is again


def test_images_may_come_in_every_form_that_scikit_learn_passes_on(fitted, paths):
    pandas = pytest.importorskip("pandas")
    expected = fitted.transform(paths)
    table = pandas.DataFrame({"path": paths})
    for images in (
        np.array(paths),
        np.array(paths, dtype=object)[:, None],
        tuple(paths),
        table["path"],
        table,
    ):
        assert np.array_equal(fitted.transform(images), expected)
    pixels = [np.asarray(Image.open(path)) for path in paths]
    assert np.allclose(fitted.transform(pixels), expected, rtol=1e-5, atol=1e-5)
    batch = np.stack([pixels[0], pixels[0][::-1]])
    assert fitted.transform(batch).shape == (2, fitted.n_features_out_)
    assert fitted.transform(batch[..., 0]).shape == (2, fitted.n_features_out_)  # grey
    assert fitted.transform([]).shape == (0, fitted.n_features_out_)


@pytest.mark.parametrize(
    "images", ["photo.jpg", 5, np.zeros((2, 3)), np.array([["a", "b"]]), np.zeros(3, dtype=np.uint8)]
)
def test_anything_but_a_sequence_of_images_is_refused(fitted, images):
    with pytest.raises(ValueError, match="allowed"):
        fitted.transform(images)
    with pytest.raises(ValueError, match="allowed"):
        SPPFeatures(**SETTINGS).fit(images)


def test_names_of_columns_and_tables_as_output(fitted, paths):
    pandas = pytest.importorskip("pandas")
    names = fitted.get_feature_names_out()
    assert len(set(names)) == fitted.n_features_out_
    assert names[[0, 512, 513]].tolist() == ["features:1:0", "features:2:0:0:0", "features:2:0:0:1"]
    table = clone(fitted).set_output(transform="pandas").fit_transform(paths[:2])
    assert isinstance(table, pandas.DataFrame)
    assert table.columns.tolist() == names.tolist()


def test_a_pickle_holds_settings_and_no_network(fitted, paths):
    pickled = pickle.dumps(fitted)
    assert len(pickled) < 10_000
    assert np.array_equal(pickle.loads(pickled).transform(paths[:2]), fitted.transform(paths[:2]))
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        copy.transform(paths)


def test_wrong_settings_and_images_are_named(tmp_path):
    with pytest.raises(ConfigError, match="levels"):
        SPPFeatures(levels=(0,)).fit([])
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ImageError, match=r"text\.jpg"):
        SPPFeatures(**SETTINGS).fit_transform([tmp_path / "text.jpg"])


def test_a_missing_scikit_learn_names_the_extra_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "sppfeat.sklearn")
    for name in ("sklearn", "sklearn.base"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'sppfeat\[sklearn\]'$"):
        importlib.import_module("sppfeat.sklearn")
