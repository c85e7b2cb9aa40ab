"""Memory maps in worker processes: nothing is copied, and no other file is read, whatever becomes of the name."""

import gc
import os
import pickle
from pathlib import Path

import joblib
import numpy as np
import pytest
from feature_files import descriptors, fill, new_file
from labelled_files import image_file
from sharded_files import whole_images, write_shards
from sklearn.ensemble import BaggingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC

from sppfeat.errors import StoreError
from sppfeat.store.memory_map import FileName
from sppfeat.store.merge import merge_shards
from sppfeat.store.reader import FeatureFile

N = 40


@pytest.fixture
def path(tmp_path):
    return image_file(tmp_path / "f.h5", [i % 2 for i in range(N)])


@pytest.fixture(scope="module", autouse=True)
def workers():
    """Two worker processes, the same for all tests."""
    with joblib.parallel_config(backend="loky", n_jobs=2):
        yield
    joblib.externals.loky.get_reusable_executor().shutdown(wait=True)


def described(x):
    """What a worker process sees of an array: its values, and the file that it maps."""
    backed = x
    while backed is not None and not isinstance(backed, np.memmap):
        backed = getattr(backed, "base", None)
    return np.array(x), None if backed is None else str(backed.filename)


def in_workers(*arrays, **settings):
    return joblib.Parallel(**settings)(joblib.delayed(described)(x) for x in arrays)


def rewrite(path: Path, seed: int) -> None:
    """Put another file of the same shape into the place of a file."""
    other = fill(new_file(path.with_name("other.h5"), n=N), descriptors(N, seed=seed))
    other.replace(path)


# --- nothing is copied ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("settings", [{}, {"max_nbytes": None}])
@pytest.mark.slow
def test_worker_processes_map_the_file_itself(tmp_path, dtype, settings):
    path = image_file(tmp_path / "f.h5", [i % 2 for i in range(N)], dtype=dtype)
    choices = {}, {"rows": "10:30"}, {"levels": 1, "layers": "layer3"}, {"rows": "3:9", "layers": "layer4"}
    with FeatureFile(path) as file:
        selected = [file.to_sklearn(**choice)[0] for choice in choices]
    arrays = [part for x in selected for part in (x, np.asarray(x), x[2:], x[::2], x[:, ::2])]
    for x, (values, mapped) in zip(arrays, in_workers(*arrays, **settings), strict=True):
        assert mapped == str(path)
        assert values.dtype == dtype
        np.testing.assert_array_equal(values, x)


@pytest.mark.slow
@pytest.mark.parametrize("copy", [True, False])
def test_a_merged_file_with_its_rows_is_mapped_and_one_without_them_is_copied(tmp_path, copy):
    shards = write_shards(tmp_path, whole_images(12), [0, 5, 12], failed=())
    merge_shards(tmp_path / "m.h5", shards, copy=copy)
    with FeatureFile(tmp_path / "m.h5") as file:
        x, _ = file.to_sklearn()
    ((values, mapped),) = in_workers(x)
    assert mapped == (str(tmp_path / "m.h5") if copy else None)
    np.testing.assert_array_equal(values, x)


@pytest.mark.parametrize(
    "score",
    [
        lambda x, y, n: cross_val_score(LinearSVC(), x, y, cv=3, n_jobs=n).tolist(),
        lambda x, y, n: GridSearchCV(LinearSVC(), {"C": [1, 10]}, cv=2, n_jobs=n).fit(x, y).best_score_,
        lambda x, y, n: OneVsRestClassifier(LogisticRegression(), n_jobs=n).fit(x, y).score(x, y),
        lambda x, y, n: BaggingClassifier(LinearSVC(), 4, n_jobs=n, random_state=0).fit(x, y).score(x, y),
    ],
)
def test_scikit_learn_gives_the_same_in_two_processes_as_in_one(path, score):
    with FeatureFile(path) as file:
        x, y = file.to_sklearn()
        assert score(x, y, 2) == score(x, y, 1)


# --- the very file --------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before it is mapped", "after it is mapped"])
@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_another_file_of_the_same_name_is_not_read(path, when, how):
    with FeatureFile(path) as file:
        expected = np.array(FeatureFile(path).features)
        if when == "after it is mapped":
            assert file.features.filename == str(path)
        rewrite(path, 9) if how == "replaced" else path.unlink()
        x, _ = file.to_sklearn()
    for values, mapped in in_workers(x, x[5:9, 2:4]):
        assert mapped != str(path)
        np.testing.assert_array_equal(values, expected if len(values) == N else expected[5:9, 2:4])


def test_the_name_does_not_depend_on_the_folder_of_the_process(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with FeatureFile(path.name) as file:
        monkeypatch.chdir("/")
        assert file.to_sklearn()[0].filename == str(path)
        assert np.array_equal(pickle.loads(pickle.dumps(file)).features, file.features)


def test_a_copy_in_memory_and_a_plain_pickle_need_no_file(path):
    with FeatureFile(path) as file:
        x, _ = file.to_sklearn()
        expected = np.array(x)
        pickled = pickle.dumps((x, x[3:5]))
    path.unlink()
    whole, part = pickle.loads(pickled)
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(part, expected[3:5])


def test_a_name_that_leads_nowhere_is_an_error_that_says_what_to_do(path):
    with path.open("rb") as file:
        pickled = pickle.dumps(FileName(str(path), file.fileno()))
    rewrite(path, 1)
    with pytest.raises(StoreError, match=rf"'{path}' was replaced since it was opened; open it again"):
        pickle.loads(pickled)


def test_an_open_file_of_the_same_settings_and_shape_is_another_one(path):
    with FeatureFile(path) as file:
        pickled = pickle.dumps(file)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"+00:00\0", b"+01:00\0"))
    with pytest.raises(StoreError, match="was replaced by another file"):
        pickle.loads(pickled)


@pytest.mark.slow
def test_maps_keep_a_file_open_only_while_they_live(path):
    def n_open():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before = n_open()
    with FeatureFile(path) as file:
        part = file.to_sklearn()[0][3:5]
        n_mapped = n_open()
        assert file.status.tolist() == [1] * N
        assert n_open() == n_mapped
    assert n_open() > before
    del part, file
    assert n_open() == before
