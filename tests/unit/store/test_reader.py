"""Reading feature files: what is wrong with one is said, and what is handed out is what is there."""

import contextlib
import os
import re
import shutil
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from feature_files import BLOCKS, DIMENSION, config, descriptors, fill, new_file, write
from hostile_files import edit, refused_by_the_library, replace, set_items, whole_images

import sppfeat
from sppfeat.errors import StoreError
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import COLUMNS, VERSION_COLUMNS, Status
from sppfeat.store.writer import FeatureWriter

PENDING, DONE, FAILED = Status
N = 6


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A file with rows 0, 1, 3, 5 done, 2 failed and 4 pending."""
    return whole_images(tmp_path_factory.mktemp("f") / "f.h5", pending=[4])


@pytest.fixture
def file(pristine, tmp_path):
    return Path(shutil.copy(pristine, tmp_path / "f.h5"))


# --- handing out ----------------------------------------------------------------------------------


def test_everything_about_a_file(file):
    with sppfeat.open(file) as features:
        assert isinstance(features, FeatureFile)
        assert (len(features), features.n_rows, features.n_images, features.dimension) == (N, N, N, DIMENSION)
        assert features.features.shape == (N, DIMENSION)
        assert features.features.dtype == np.float32
        assert features.paths == [f"{i}.jpg" for i in range(N)]
        assert features.path_of(3) == "3.jpg"
        assert features.root == "/data"
        assert features.classes == ["cat", "dog"]
        assert features.labels.tolist() == [0, 1, 0, 1, 0, -1]
        assert features.columns == BLOCKS
        assert features.config == config()
        assert features.attribute("fingerprint") == config().fingerprint
        assert features.schema_version == 1
        assert features.boxes.tolist() == [[0, 0, 6, 4]] * N
        assert features.image_hw.tolist() == [[4, 6]] * N
        assert features.image_rows.tolist() == [[i, i + 1] for i in range(N)]
        assert features.image_index.tolist() == list(range(N))
        assert features.status.tolist() == [DONE, DONE, FAILED, DONE, PENDING, DONE]
        assert features.errors == {2: "no such file"}
        assert features.rows_with_descriptor().tolist() == [0, 1, 3, 5]
        assert features.reduction is None
        assert features.extracted_columns == features.columns
        assert repr(features) == f"<FeatureFile {str(file)!r}: 6 rows x 15, 6 images>"
        with pytest.raises(StoreError, match="no text attribute 'author'"):
            features.attribute("author")
        with pytest.raises(StoreError, match="no text attribute 'schema_version'"):
            features.attribute("schema_version")


@pytest.mark.parametrize("kind", [str, Path, os.fsencode])
def test_a_file_opens_by_any_kind_of_path(file, kind):
    strange = file.with_name(os.fsdecode(b"\xff\n.h5"))
    file.rename(strange)
    with sppfeat.open(kind(strange)) as features:
        assert len(features) == N


@pytest.mark.parametrize(("done", "failed"), [(range(5), []), ([1, 2, 3], [0, 4])])
def test_rows_in_one_piece_are_not_copied(tmp_path, done, failed):
    path = fill(new_file(tmp_path / "f.h5"), descriptors(5), failed=failed)
    with FeatureFile(path) as features:
        x, y = features.to_sklearn()
        assert y is None
        assert {labels for _, labels in features.iter_batches(2)} == {None}
        assert np.array_equal(x, descriptors(5)[list(done)])
        assert np.shares_memory(x, features.features)
        assert not x.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            x[0, 0] = 1
    assert np.array_equal(x, descriptors(5)[list(done)])  # the file is closed


@pytest.mark.parametrize("failed", [[], [0, 1, 2, 3, 4]])
def test_a_file_without_any_descriptor(tmp_path, failed):
    path = new_file(tmp_path / "f.h5", labels=[0] * 5, classes=[b"a"])
    fill(path, descriptors(5), failed=failed, pending=range(5))
    with FeatureFile(path) as features:
        x, y = features.to_sklearn()
        assert x.shape == (0, DIMENSION)
        assert y.shape == (0,)
        assert list(features.iter_batches()) == []


# --- the very file that was opened ----------------------------------------------------------------


def test_features_are_mapped_and_not_read(file):
    with FeatureFile(file) as features:
        assert isinstance(features.features, np.memmap)
        assert features.features.mode == "r"
        assert features.features is features.features
        with contextlib.closing(FeatureWriter(file)) as writer:
            write(writer, 4, np.full((1, DIMENSION), 5, dtype=np.float32))
        assert (features.features[4] == 5).all()


def test_another_file_of_the_same_name_changes_nothing(file, tmp_path):
    with FeatureFile(file) as features:
        fill(new_file(tmp_path / "other.h5", n=2), descriptors(2, seed=9)).replace(file)
        assert np.array_equal(features.features[:2], descriptors(N)[:2])
        assert features.status.tolist() == [DONE, DONE, FAILED, DONE, PENDING, DONE]
        assert features.errors == {2: "no such file"}
        file.unlink()
        assert np.array_equal(features.to_sklearn()[0], descriptors(N)[[0, 1, 3, 5]])


def test_what_a_writer_does_is_seen_by_who_reads(tmp_path):
    path = new_file(tmp_path / "f.h5", n=40)
    rows = descriptors(40)
    finished = threading.Event()

    def fill():
        with contextlib.closing(FeatureWriter(path, sync_seconds=0.0)) as writer:
            for image in range(40):
                write(writer, image, rows[image : image + 1])
                writer.mark_done(image)
        finished.set()

    with FeatureFile(path) as features:
        thread = threading.Thread(target=fill)
        thread.start()
        counts = []
        while not counts or counts[-1] < 40:
            was_finished = finished.is_set()
            x, _ = features.to_sklearn()
            assert np.array_equal(x, rows[: len(x)])
            counts.append(len(x))
            assert len(x) == 40 or not was_finished
        thread.join()
        assert counts == sorted(counts)
        assert (features.status == DONE).all()


def test_nothing_is_left_open(file):
    def descriptors_open():
        return len(os.listdir("/proc/self/fd"))

    before = descriptors_open()
    for _ in range(3):
        with FeatureFile(file) as features:
            features.to_sklearn()
            assert features.status.any()
        with pytest.raises(StoreError):
            FeatureFile(__file__)
    del features
    assert descriptors_open() == before


def test_strings_of_fixed_length_still_read(file):
    edit(file, replace("images/path", np.array([f"{i}.jpg".encode() for i in range(N)])))
    edit(file, lambda f: f.attrs.create("format", np.bytes_(b"sppfeat")))
    with FeatureFile(file) as features:
        assert features.paths[2] == "2.jpg"


# --- files that are refused -----------------------------------------------------------------------


def test_what_is_no_file(tmp_path):
    refused_by_the_library(tmp_path / "gone.h5", "no such file")
    refused_by_the_library(tmp_path / ("x" * 300), "no such file")
    refused_by_the_library(
        "s3://bucket/f.h5", "feature files are read from local disks only; download 's3://bucket/f.h5' first"
    )
    (tmp_path / "d").mkdir()
    refused_by_the_library(tmp_path / "d", "not a file")
    os.mkfifo(tmp_path / "fifo")
    refused_by_the_library(tmp_path / "fifo", "not a file")


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(2000), bytes(4096)]
)
def test_files_that_are_not_hdf5(tmp_path, content):
    path = tmp_path / "f.h5"
    path.write_bytes(content)
    is_damaged = content[:4] == b"\x89HDF"
    refused_by_the_library(
        path, "cannot be opened as HDF5" if is_damaged else "is not an HDF5 file; allowed: feature"
    )


def test_hdf5_of_others(tmp_path):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as opened:
        opened["features"] = np.zeros((3, 4))
    refused_by_the_library(path, "not a feature file: its attribute 'format'")
    for value in ("other", 3, np.array(["sppfeat", "sppfeat"], dtype=object), h5py.Empty("S7")):
        edit(path, lambda f, value=value: f.attrs.create("format", value))
        refused_by_the_library(path, "not a feature file: its attribute 'format'")


def test_a_file_that_is_cut_short_anywhere(file):
    content = file.read_bytes()
    for n in {*range(0, len(content), 97), len(content) - 1}:
        file.write_bytes(content[:n])
        refused_by_the_library(file, "f.h5")


@pytest.mark.slow
def test_a_file_with_damaged_bytes_opens_or_says_so(pristine, tmp_path):
    """In its structure, that is; what is wrong with values is for 'verify' to find."""
    content = pristine.read_bytes()
    random = np.random.default_rng(0)
    n_refused = 0
    for i in range(150):
        damaged = bytearray(content)
        at = int(random.integers(len(content)))
        damaged[at : at + 8] = random.bytes(8) if i % 2 else bytes(8)
        path = tmp_path / "f.h5"
        path.write_bytes(damaged)
        try:
            with FeatureFile(path) as features:
                features.to_sklearn()
                assert len(features.paths) == N
        except StoreError:
            n_refused += 1
        path.unlink()
    assert n_refused > 10


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, "has schema 3; this sppfeat reads up to 2: update sppfeat"),
        (0, "schema_version is 0; allowed: a number from 1"),
        (-1, "allowed: a number from 1"),
        ("1", "schema_version is 1; allowed: a number"),
        (1.5, "schema_version is"),
        ([1, 1], "schema_version is"),
        (None, "schema_version is None"),
    ],
)
def test_other_schemas(file, value, said):
    def change(opened):
        del opened.attrs["schema_version"]
        if value is not None:
            opened.attrs["schema_version"] = value

    edit(file, change)
    refused_by_the_library(file, re.escape(said) if "has schema" in said else said)


@pytest.mark.parametrize("name", ["sppfeat_version", "config", "fingerprint", "weights_sha256", "input_root"])
def test_missing_and_mistyped_attributes(file, name):
    edit(file, lambda f: f.attrs.create(name, 7))
    refused_by_the_library(file, f"no text attribute '{name}'")
    edit(file, lambda f: f.attrs.__delitem__(name))
    refused_by_the_library(file, f"no text attribute '{name}'")


@pytest.mark.parametrize("name", ["features", *COLUMNS, *VERSION_COLUMNS])
def test_datasets_of_another_shape_or_type_or_none(file, name):
    with h5py.File(file, "r") as opened:
        values, kind = opened[name][()], opened[name].dtype
    for wrong in (
        values[:-1] if len(values) else np.array([b"a"]),
        values[None],
        np.concatenate([values, values]),
    ):
        if name == "classes" and wrong.ndim == 1:
            continue  # any number of classes is a number of classes
        edit(file, replace(name, wrong, dtype=kind))
        refused_by_the_library(file, "f.h5")
    edit(file, replace(name, h5py.Empty(kind)))
    refused_by_the_library(file, "of shape|is float32 of")
    for kind in (
        "<i2",
        "<f8" if name != "boxes" else ">f8",
        "S3" if COLUMNS.get(name, ("", ""))[1] != "string" else "|u1",
    ):
        edit(file, replace(name, np.zeros(values.shape, dtype=kind)))
        refused_by_the_library(file, f"/{name} is")
    edit(file, replace(name, None))
    refused_by_the_library(file, f"has no dataset /{name}")
    edit(file, lambda f: f.create_group(name))
    refused_by_the_library(file, f"has no dataset /{name}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_items("images/rows", 0, [0, 2]), "does not divide the 6 rows"),
        (set_items("images/rows", 5, [5, 7]), "does not divide the 6 rows"),
        (set_items("images/rows", 2, [3, 2]), "does not divide the 6 rows"),
        (set_items("image_index", 3, 6), "refers to images that do not exist; the file has 6"),
        (set_items("image_index", 3, -1), "refers to images that do not exist"),
        (set_items("columns/stop", 3, 16), "does not describe the 15 columns"),
        (set_items("columns/level", 0, 3), "does not describe the 15 columns"),
        (set_items("columns/start", 1, 1), "does not describe the 15 columns"),
        (set_items("columns/layer", 1, b"\xff"), "damaged"),
    ],
)
def test_datasets_that_contradict_each_other(file, change, said):
    edit(file, change)
    refused_by_the_library(file, said)


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        ("{", "'config' is not JSON"),
        ("[]", "not a table of settings"),
        ("{}", "incomplete"),
        ('{"size": 1}', "incomplete"),
    ],
)
def test_a_recorded_configuration_that_cannot_be_read_is_said_when_it_is_asked_for(file, recorded, said):
    edit(file, lambda f: f.attrs.create("config", recorded))
    with FeatureFile(file) as features:
        assert len(features) == N
        with pytest.raises(StoreError, match=said) as raised:
            _ = features.config
        assert "f.h5" in str(raised.value)
