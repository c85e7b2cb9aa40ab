"""Descriptors that lie in several files, read as one array; and merged files whose sources are not what they were."""

import contextlib
import dataclasses
import os
import pickle
import re
import shutil

import h5py
import numpy as np
import pytest
from command_line import run
from feature_files import BLOCKS
from hostile_files import PROPERTIES, plain
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sharded_files import (
    assert_same_bytes,
    whole_images,
    with_box_file,
    with_views,
    write_shards,
    write_whole,
)

from sppfeat.errors import ConfigError, StoreError
from sppfeat.extraction.resume import copy_rows
from sppfeat.store.layout import create_file
from sppfeat.store.merge import merge_shards
from sppfeat.store.reader import FeatureFile
from sppfeat.store.verify import verify_file
from sppfeat.store.virtual_features import VirtualFeatures, recorded_path
from sppfeat.store.writer import FeatureWriter

N, D = 11, 15
BOUNDS = (0, 1, 4, 8, 11)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("virtual")
    work = whole_images(N)
    write_whole(folder / "whole.h5", work)
    merge_shards(folder / "merged.h5", write_shards(folder, work, BOUNDS))
    return folder


@pytest.fixture(scope="module")
def both(pristine):
    """The virtual array, and the array that it stands for."""
    with FeatureFile(pristine / "merged.h5") as merged, FeatureFile(pristine / "whole.h5") as whole:
        yield merged.features, np.asarray(whole.features)


@pytest.fixture
def folder(pristine, tmp_path):
    """A copy with the same times, to be spoilt."""
    shutil.copytree(pristine, tmp_path / "f")
    return tmp_path / "f"


def same(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    np.testing.assert_array_equal(a, b)


# --- one array --------------------------------------------------------------------------------------

NUMBERS = st.integers(-N, N - 1)
ROWS = st.one_of(
    NUMBERS, NUMBERS.map(np.int32), st.slices(N), arrays(np.int64, st.integers(0, 20), elements=NUMBERS)
)


@given(rows=ROWS, columns=st.none() | st.slices(D))
def test_rows_and_columns_are_those_of_the_array(both, rows, columns):
    ours, theirs = both
    key = rows if columns is None else (rows, columns)
    same(ours[key], theirs[key])


@pytest.mark.parametrize(
    "key", [N, -N - 1, [0, N], "a", 1.5, [1.5], np.zeros(N, bool), (0, 1), (0, 0, 0), [[1]], None]
)
def test_other_keys_are_refused(both, key):
    with pytest.raises(IndexError):
        both[0][key]


def test_it_becomes_an_array(both):
    ours, theirs = both
    assert (ours.shape, ours.dtype, ours.ndim, len(ours)) == (theirs.shape, theirs.dtype, 2, N)
    same(np.asarray(ours), theirs)
    same(np.asarray(ours, dtype=np.float64), theirs.astype(np.float64))
    same(np.isnan(pickle.loads(pickle.dumps(ours))), np.isnan(theirs))
    with pytest.raises(ValueError, match=r"is always a copy"):
        ours.__array__(copy=False)


# --- everything that reads -------------------------------------------------------------------------------


def scaled():
    """Whole images, normalized, so that selections of columns are rescaled."""
    work = whole_images(N)
    descriptor = dataclasses.replace(work.config.descriptor, normalize="l2")
    return work._replace(config=dataclasses.replace(work.config, descriptor=descriptor))


@pytest.mark.parametrize("make", [whole_images, with_box_file, with_views, scaled])
def test_every_property_and_selection_is_that_of_the_whole_file(tmp_path, make):
    work = make()
    merge_shards(tmp_path / "merged.h5", write_shards(tmp_path, work, BOUNDS))
    with (
        FeatureFile(tmp_path / "merged.h5") as file,
        FeatureFile(write_whole(tmp_path / "w.h5", work)) as whole,
    ):
        no_boxes = () if whole.has_boxes else ("row_", "box_")
        for name in PROPERTIES:
            if name not in ("features", "nbytes", "read_paths") and not name.startswith(no_boxes):
                assert plain(getattr(file, name)) == plain(getattr(whole, name)), name
        for selection in (
            {},
            {"levels": [2], "layers": "layer4"},
            {"rows": "0:3"},
            {"rows": [9, 0, 4, 4], "levels": 1},
            {"rows": "status=any"},
            {"bins": {2: [(0, 1)]}},
        ):
            ours, theirs = file.select(**selection), whole.select(**selection)
            same(ours.X, theirs.X)
            same(pickle.loads(pickle.dumps(ours)).X, theirs.X)
            for one, other in zip(ours.to_torch_dataset(), theirs.to_torch_dataset(), strict=True):
                same(one[0], other[0])
            for one, other in zip(ours.iter_batches(2, seed=3), theirs.iter_batches(2, seed=3), strict=True):
                same(one[0], other[0])
                same(one[1], other[1])


def test_commands_read_a_merged_file_as_the_whole_one(pristine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = (
        "export FILE -o - --format csv",
        "search FILE row:4 row:9 --metric l2",
        "show norms FILE -o n.png --overwrite",
        "reduce FILE -o r.h5 --components 3 --overwrite --quiet",
        "export r.h5 -o - --format csv",
    )
    whole, merged = (
        [run(*command.replace("FILE", path).split(), code=0).stdout.replace(path, "") for command in commands]
        for path in (str(pristine / "whole.h5"), str(pristine / "merged.h5"))
    )
    assert whole == merged


def test_rows_of_a_merged_file_are_taken_over_by_a_longer_one(pristine, tmp_path):
    work = whole_images(N)
    create_file(tmp_path / "new.h5", work.plan, work.config, BLOCKS, weights_path="w.pth", boxes_path="b.csv")
    with contextlib.closing(FeatureWriter(tmp_path / "new.h5")) as writer:
        copy_rows(pristine / "merged.h5", writer)
    assert_same_bytes(tmp_path / "new.h5", pristine / "whole.h5")


# --- very many sources ------------------------------------------------------------------------------------


def test_sources_are_opened_when_their_rows_are_read_and_not_kept_open(tmp_path, monkeypatch):
    work = whole_images(12, ids=False)
    merge_shards(tmp_path / "merged.h5", write_shards(tmp_path, work, range(13), failed=()))
    with FeatureFile(tmp_path / "merged.h5") as file:
        n_open = len(os.listdir("/proc/self/fd"))
        rows = [file.features[i] for i in range(12)]
        same(np.stack(rows), work.descriptors)
        assert len(os.listdir("/proc/self/fd")) == n_open
        features = file.features
    same(np.asarray(features), work.descriptors)  # the file is closed
    monkeypatch.setattr(VirtualFeatures, "map", None)
    with FeatureFile(tmp_path / "merged.h5") as file:
        assert len(file.features) == 12


# --- sources that are not what they were -----------------------------------------------------------------


def spoil(path, how):
    """Change a source, or put something else into its place."""
    content, found = path.read_bytes(), path.stat()
    if how == "written":
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    elif how == "truncated":
        path.write_bytes(content[:-1])
    else:
        path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "circle":
        path.symlink_to(path)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("written", "has changed since the merge: it was modified at .* UTC, not .* UTC"),
        ("truncated", "has changed since the merge: it has [0-9]+ bytes, and had [0-9]+"),
        ("gone", "cannot be read: No such file or directory"),
        ("folder", "has changed since the merge: it is no longer a regular file"),
        ("pipe", "has changed since the merge: it is no longer a regular file"),
        ("circle", "cannot be read: Too many levels of symbolic links"),
    ],
)
def test_a_source_that_was_changed_is_an_error_when_the_merged_file_is_opened(folder, how, said):
    spoil(folder / "00003-of-00004.h5", how)
    with pytest.raises(
        StoreError, match=rf"its source '.*00003-of-00004.h5' {said}.*; .*'sppfeat merge --overwrite'"
    ) as raised:
        FeatureFile(folder / "merged.h5")
    assert str(raised.value).isprintable()
    result = run("info", folder / "merged.h5")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


def test_a_source_that_was_changed_later_is_an_error_when_it_is_read(folder):
    with FeatureFile(folder / "merged.h5") as file:
        assert file.features[4:8].shape == (4, D)
        spoil(folder / "00003-of-00004.h5", "written")
        with pytest.raises(StoreError, match=r"00003-of-00004.h5' has changed since the merge"):
            file.features[4:8]
        spoil(folder / "00002-of-00004.h5", "gone")
        with pytest.raises(StoreError, match=r"00002-of-00004.h5' cannot be read"):
            file.features[1]


def test_verify_finds_another_file_of_the_same_size_and_time(folder):
    path = folder / "00003-of-00004.h5"
    found, content = path.stat(), path.read_bytes()
    path.write_bytes(content.replace(b"+00:00\0", b"+01:00\0"))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    with FeatureFile(folder / "merged.h5") as file:
        (problem,) = verify_file(file).problems
    assert re.search(r"3-of-00004.h5' was replaced since the merge: created .*01:00, not .*00:00", problem)


# --- merged files that contradict themselves ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("first_row", [0, 1, 3, 8], "/sources does not divide the 11 rows among the sources"),
        ("stop_row", [1, 4, 8, 12], "does not divide the 11 rows"),
        ("first_image", [0, 1, 4, 7], "does not divide the 11 images"),
        ("stop_image", [1, 4, 8, 2**62], "does not divide the 11 images"),
        ("nbytes", [1.5] * 4, "/sources/nbytes is float64"),
        ("nbytes", [1] * 5, "is int64 of shape .5,., not <i8 of .4"),
    ],
)
def test_sources_that_contradict_the_file(folder, name, values, said):
    with h5py.File(folder / "merged.h5", "r+") as file:
        kind = file[f"sources/{name}"].dtype if not isinstance(values[0], float) else np.float64
        del file[f"sources/{name}"]
        file.create_dataset(f"sources/{name}", data=values, dtype=kind)
    with pytest.raises(StoreError, match=said) as raised:
        FeatureFile(folder / "merged.h5")
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("name", ["boxes", "images/status", "sources/path"])
def test_nothing_but_features_may_be_virtual(folder, name):
    with h5py.File(folder / "merged.h5", "r+") as file:
        kind, shape = file[name].dtype, file[name].shape
        del file[name]
        layout = h5py.VirtualLayout(shape, kind)
        layout[:] = h5py.VirtualSource("other.h5", "boxes", shape)
        file.create_virtual_dataset(name, layout)
    with pytest.raises(StoreError, match=rf"/{name} is virtual; allowed: contiguous"):
        FeatureFile(folder / "merged.h5")


def test_sources_of_a_file_that_has_its_rows_are_nobody_s_business(folder):
    """A program that copies datasets may copy what a virtual one was made of."""
    with h5py.File(folder / "merged.h5", "r+") as file:
        values = file["features"][()]
        del file["features"]
        file["features"] = values
    for path in folder.glob("0*.h5"):
        path.unlink()
    with FeatureFile(folder / "merged.h5") as file:
        assert file.sources is None
        same(file.features, values)


@pytest.mark.parametrize(
    ("source", "output", "expected"),
    [
        ("/a/b/s.h5", "/a/b/m.h5", "s.h5"),
        ("/a/b/c/s.h5", "/a/b/m.h5", "c/s.h5"),
        ("/a/c/s.h5", "/a/b/m.h5", "../c/s.h5"),
        ("/a/s.h5", "/a/b/m.h5", "../s.h5"),
        ("/c/s.h5", "/a/b/m.h5", "/c/s.h5"),
        ("/a/s.h5", "/m.h5", "a/s.h5"),
        ("/b/s.h5", "/a/m.h5", "/b/s.h5"),
        ("/a/s.h5", "/a/m.h5", "s.h5"),
        ("/ab/s.h5", "/a/m.h5", "/ab/s.h5"),
    ],
)
def test_how_paths_are_recorded(source, output, expected):
    assert recorded_path(source, output) == expected.encode()


def test_a_copy_that_no_memory_holds_is_refused(pristine, monkeypatch):
    with FeatureFile(pristine / "merged.h5") as file:
        monkeypatch.setattr("sppfeat.config.machine._UNCHECKED_NBYTES", 0)
        monkeypatch.setattr("sppfeat.config.machine.available_nbytes", lambda: 4 * D * (N - 1))
        with pytest.raises(ConfigError, match=r"merged\.h5': these rows take"):
            np.asarray(file.features)
        assert file.features[: N - 1].shape == (N - 1, D)
