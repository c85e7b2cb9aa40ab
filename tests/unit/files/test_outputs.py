"""Files that take their names once they are complete."""

import os
from pathlib import Path

import pytest

from sppfeat.analysis.choices import EXPORT_SUFFIXES
from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.outputs import check_feature_path, format_suffix, replace_file, whole_file, whole_files


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def write():
        with whole_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_second_writer_is_refused(tmp_path):
    path = tmp_path / "out"
    with whole_file(path) as file:
        file.write(b"the first ")
        file.flush()
        with pytest.raises(StoreError, match="another process is writing"):
            replace_file(path, b"the second")
        file.write(b"one")
    assert path.read_bytes() == b"the first one"
    replace_file(path, b"the second")
    assert path.read_bytes() == b"the second"
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_that_appears_meanwhile_is_not_replaced_without_overwrite(tmp_path):
    path = tmp_path / "out"

    def write():
        with whole_file(path, overwrite=False) as file:
            file.write(b"mine")
            path.write_bytes(b"theirs")

    with pytest.raises(StoreError, match="exists; add --overwrite to replace it"):
        write()
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["out"]


def test_leftovers_of_a_killed_process_are_overwritten(tmp_path):
    (tmp_path / ".out.part").write_bytes(b"much longer than what comes")
    replace_file(tmp_path / "out", b"short")
    assert (tmp_path / "out").read_bytes() == b"short"
    assert os.listdir(tmp_path) == ["out"]


def test_the_files_of_a_group_appear_together(tmp_path):
    paths = [tmp_path / "a.npy", tmp_path / "a.csv"]
    with whole_files(paths) as files:
        for file, content in zip(files, (b"vectors", b"table"), strict=True):
            file.write(content)
        assert not any(path.exists() for path in paths)
    assert [path.read_bytes() for path in paths] == [b"vectors", b"table"]
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "a.npy"]


def test_either_all_files_of_a_group_are_replaced_or_none(tmp_path):
    paths = [tmp_path / "a.npy", tmp_path / "a.csv"]
    paths[0].mkdir()  # which no file can replace

    def write():
        with whole_files(paths) as files:
            for file in files:
                file.write(b"new")

    with pytest.raises(StoreError, match=r"a\.npy.* is a folder"):
        write()
    assert os.listdir(tmp_path) == ["a.npy"]


def test_long_names_in_a_group_do_not_collide(tmp_path):
    paths = [tmp_path / ("x" * 251 + suffix) for suffix in (".npy", ".csv")]
    with whole_files(paths) as files:
        for file, path in zip(files, paths, strict=True):
            file.write(path.suffix.encode())
    assert [path.read_bytes() for path in paths] == [b".npy", b".csv"]


@pytest.mark.parametrize(
    "name",
    [
        "f.h5",
        "F.HDF5",
        "f.hdf",
        "f.he5",
        "features",
        "v1.2",
        "a.csv/f",
        "f.csv.h5",
        ".h5",
        "s3://bucket/f.h5",
        "f-{shard}.h5",
    ],
)
def test_feature_files_may_have_any_name_that_does_not_mislead(name):
    check_feature_path(name)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("d.csv", "sppfeat export d.h5 -o d.csv"),
        ("a b/d.TSV.gz", "sppfeat export 'a b/d.h5' -o 'a b/d.TSV.gz'"),
        ("-", "sppfeat export features.h5 -o - --format csv"),
        (".pt", "sppfeat export features.h5 -o .pt"),
        ("s3://bucket/d.npz", "sppfeat export s3://bucket/d.h5 -o s3://bucket/d.npz"),
        ("d.pkl", "use .h5 ('sppfeat export' writes other formats)"),
        ("d.h5.gz", "use .h5 ('sppfeat export' writes other formats)"),
    ],
)
def test_feature_files_are_not_named_like_other_formats(name, command):
    with pytest.raises(ConfigError) as refusal:
        check_feature_path(Path(name))
    assert str(refusal.value).endswith(command)


def test_all_formats_of_exports_are_known():
    suffixes = [suffix for known in EXPORT_SUFFIXES.values() for suffix in known]
    assert [*map(format_suffix, suffixes)] == suffixes
