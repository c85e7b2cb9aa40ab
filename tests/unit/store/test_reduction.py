"""A stored projection: what it makes of descriptors, and what is refused in its place."""

import json
import shutil

import numpy as np
import pytest
from feature_files import DIMENSION, config
from hostile_files import edit, refused, replace, set_items, use
from reduced_files import FAILED, HAVE, reduced, rounding, spectral, write_file

from sppfeat.errors import ConfigError, StoreError
from sppfeat.store.reader import FeatureFile
from sppfeat.store.reduction import FitRecord
from sppfeat.store.verify import verify_file

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reduced")
    source = write_file(folder / "f.h5", spectral())
    return reduced(source, folder / "r.h5", whiten=True)


@pytest.fixture
def path(pristine, tmp_path):
    return shutil.copy(pristine, tmp_path / "r.h5")


def plain(reduction, rows):
    """The projection in float64, a row and a component at a time."""
    result = np.empty((len(rows), reduction.dimension))
    numbers = reduction.record.selection.numbers
    for i, row in enumerate(rows):
        for k, component in enumerate(reduction.components.astype(np.float64)):
            centred = row[numbers].astype(np.float64) - reduction.mean
            result[i, k] = (centred * component).sum() * reduction.scale[k]
    return result


def test_it_makes_what_the_file_holds_in_blocks_of_any_size(pristine, monkeypatch):
    rows = spectral()
    with FeatureFile(pristine) as file:
        whole = file.reduction.apply(rows)
        assert whole.dtype == np.float32
        assert np.allclose(whole, plain(file.reduction, rows), rtol=1e-4, atol=1e-4)
        tolerance = rounding(file.reduction, rows)
        assert (np.abs(file.features[HAVE] - whole[HAVE]) <= tolerance[HAVE]).all()
        assert np.isnan(file.features[list(FAILED)]).all()
        monkeypatch.setattr("sppfeat.store.reduction._BLOCK_NBYTES", 4 * DIMENSION * 7)
        assert (np.abs(file.reduction.apply(rows) - whole) <= tolerance).all()
        assert file.reduction.apply(rows[:0]).shape == (0, 4)
        half = file.reduction.apply(rows.astype(np.float16))
        assert np.allclose(half, plain(file.reduction, rows.astype(np.float16)), rtol=1e-4, atol=1e-4)


def test_nan_stays_in_its_row(pristine):
    rows = spectral(5)
    rows[2, 3], rows[4, 1] = np.nan, np.inf
    with FeatureFile(pristine) as file:
        found = file.reduction.apply(rows)
    assert np.isfinite(found).all(axis=1).tolist() == [True, True, False, True, False]


def test_what_is_left_of_a_layer_is_scaled_as_a_selection_scales_it(tmp_path):
    settings = config()
    settings = type(settings).from_dict({**settings.to_dict(), "normalize": "l2"})
    source = write_file(tmp_path / "f.h5", spectral(), settings=settings)
    with FeatureFile(reduced(source, tmp_path / "r.h5", levels=(2,))) as file, FeatureFile(source) as of:
        selected = of.to_sklearn(levels=2)[0].astype(np.float64)
        expected = (selected - file.reduction.mean) @ file.reduction.components.T
        assert np.allclose(file.to_sklearn()[0], expected, atol=1e-5)
        assert np.array_equal(of.select(levels=2).of_descriptors(of.features[:7]), of.select(levels=2).X[:7])
        assert not np.allclose(np.linalg.norm(selected, axis=1), np.linalg.norm(of.to_sklearn()[0], axis=1))


def test_normalised_rows_have_norm_one_and_zero_stays_zero(tmp_path):
    source = write_file(tmp_path / "f.h5", spectral())
    with FeatureFile(reduced(source, tmp_path / "r.h5", normalize="l2")) as file:
        assert np.allclose(np.linalg.norm(file.to_sklearn()[0], axis=1), 1)
    with FeatureFile(reduced(source, tmp_path / "z.h5", normalize="l2", method="random")) as file:
        assert not file.reduction.apply(np.zeros((1, DIMENSION))).any()


@pytest.mark.parametrize("shape", [(DIMENSION,), (3, DIMENSION - 1), (3, 4)])
def test_descriptors_of_another_shape_are_refused(pristine, shape):
    with FeatureFile(pristine) as file, pytest.raises(ConfigError, match=r"allowed: \(n, 15\)"):
        file.reduction.apply(np.zeros(shape, dtype=np.float32))


def test_no_change_moves_it_further_than_its_sensitivity(pristine):
    rng = np.random.default_rng(0)
    rows = spectral(20)
    with FeatureFile(pristine) as file:
        limit = file.reduction.sensitivity(rows)
        for _ in range(20):
            change = rng.standard_normal(rows.shape)
            change *= np.linalg.norm(rows, axis=1, keepdims=True) / np.linalg.norm(
                change, axis=1, keepdims=True
            )
            moved = plain(file.reduction, rows + 1e-3 * change) - plain(file.reduction, rows)
            assert (np.linalg.norm(moved, axis=1) <= 1.001e-3 * limit).all()


def test_the_record_survives_json(pristine):
    with FeatureFile(pristine) as file:
        record = file.reduction.record
        assert FitRecord.from_json(record.to_json()) == record
        assert record.source_columns == file.extracted_columns
        assert file.columns == file.reduction.columns
        assert file.schema_version == 2


# --- hostile files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (replace("reduction/mean", None), "has no dataset /reduction/mean"),
        (lambda file: file.attrs.__delitem__("reduction"), "no text attribute 'reduction'"),
        (lambda file: file.attrs.__setitem__("reduction", 5), "no text attribute 'reduction'"),
        (replace("reduction/components", np.zeros((5, 15), "<f4")), r"not <f4 of \(4, 15\)"),
        (replace("reduction/scale", np.zeros((4, 1), "<f4")), "not <f4"),
    ],
)
def test_datasets_that_cannot_be(path, change, said):
    edit(path, change)
    refused(path, said)
    use(path)


def set_record(**changes):
    def change(file):
        record = json.loads(file.attrs["reduction"])
        spec = changes.get("spec", {})
        record.update({**changes, "spec": {**record["spec"], **spec} if isinstance(spec, dict) else spec})
        file.attrs["reduction"] = json.dumps(record)

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_items("reduction/mean", 3, np.nan), "mean holds values that are not finite"),
        (set_items("reduction/components", (1, 2), np.inf), "components holds values"),
        (set_items("reduction/scale", 0, -np.inf), "scale holds values"),
        (lambda file: file.attrs.__setitem__("reduction", "{"), "does not record a reduction"),
        (set_record(more=1), "does not record a reduction"),
        (set_record(spec=3), "does not record a reduction"),
        (set_record(spec={"method": "magic"}), "method is 'magic'"),
        (set_record(spec={"components": 5}), r"components has the shape \(4, 15\), not \(5, 15\)"),
        (set_record(spec={"layers": ["layer9"]}), "layers are layer9"),
        (set_record(source_columns=[["x", 1, 10**18, 0, 10**18]]), "mean has the shape"),
    ],
)
def test_what_is_said_of_it_must_fit(path, change, said):
    edit(path, change)
    with FeatureFile(path) as file:
        with pytest.raises(StoreError, match=said) as raised:
            _ = file.reduction
        assert str(raised.value).isprintable()
        assert file.to_sklearn()[0].shape == (len(HAVE), 4)
        assert any("its reduction" in problem for problem in verify_file(file).problems)
    use(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            set_items("reduction/mean", 3, 0.5),
            "'fingerprint' does not match the attribute 'config' and the red",
        ),
        (set_record(fitted_rows=9), "'fingerprint' does not match"),
        (set_items("columns/layer", 0, "other"), "'reduction' and /columns contradict"),
        (set_record(source_columns=[["layer3", 1, 15, 0, 15]]), "'config' and /columns contradict"),
    ],
)
def test_changes_are_found_by_verify(path, change, problem):
    edit(path, change)
    with FeatureFile(path) as file:
        assert any(problem in found for found in verify_file(file).problems)
