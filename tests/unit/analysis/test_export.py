"""Exports: each format is read back value by value by its own reader; outputs appear whole or not at all."""

import contextlib
import csv
import dataclasses
import functools
import gzip
import io
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import command_line
import h5py
import numpy as np
import pytest
import torch
from box_rows import plan_of as plan_of_boxes
from box_rows import rows_of
from feature_files import BLOCKS, config, descriptors, fill, new_file, plan_of, write
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from json_fields import check_fields

import sppfeat
from sppfeat.analysis.choices import EXPORT_FORMATS, STREAM_FORMATS
from sppfeat.analysis.export import export
from sppfeat.analysis.export.text import Contents, number_texts
from sppfeat.config.specs import InputSpec
from sppfeat.config.values import EncodedPath
from sppfeat.errors import ConfigError, LabelError, StoreError
from sppfeat.store.layout import create_file
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import ColumnBlock
from sppfeat.store.writer import FeatureWriter

# 3 failed, 4 is pending: its row holds arbitrary values.
PATHS = [b"a/1.jpg", b'a/"2",\t\r\n=1.jpg', "b/ü 1 .jpg".encode(), b"b/2.jpg", b"b/3.jpg", b"\xff.jpg"]
CLASSES = [b"cat", b'do"g,\n', b"b\xfe"]
LABELS = [0, 0, 1, 1, 2, 2]
N, HAVE = len(PATHS), [0, 1, 2, 5]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "f.h5"
    create_file(path, plan_of(PATHS, labels=LABELS, classes=CLASSES), config(), BLOCKS)
    rows = descriptors(N)
    rows[0, :3] = 0
    return fill(path, rows, failed=[3], pending=[4])


@pytest.fixture
def file(path):
    with FeatureFile(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def box_path(tmp_path_factory):
    """Three boxes of two images: scores, names, a further column; the last one has no area."""
    path = tmp_path_factory.mktemp("export") / "boxes.h5"
    sizes = [(4, 6)] * 2
    rows = rows_of([[(0, 0, 3, 2)], [(1, 1, 4, 4), (2, 2, 2, 2)]], sizes)
    create_file(path, plan_of_boxes(rows, sizes, InputSpec()), config(), BLOCKS)
    with contextlib.closing(FeatureWriter(path)) as writer:
        write(writer, 0, descriptors(3))
        for image in range(2):
            writer.mark_done(image)
    return path


def names(of: list[bytes]) -> list[str]:
    return [os.fsdecode(name) for name in of]


run = functools.partial(command_line.run, "export", code=0)


# --- each format, by its own reader ---------------------------------------------------------------


def read_separated(path: Path, n_beside: int = 8):
    opened = gzip.open if path.suffix == ".gz" else open
    separator = "\t" if ".tsv" in path.name else ","
    with opened(path, "rt", encoding="utf-8", errors="surrogateescape", newline="") as text:
        header, *lines = list(csv.reader(text, delimiter=separator, strict=True))
    x = np.array([[float(value) for value in line[n_beside:]] for line in lines])
    return x, [dict(zip(header, line[:n_beside], strict=False)) for line in lines], header[n_beside:]


@pytest.mark.parametrize(
    ("rows", "levels", "dtype"),
    [
        (None, None, "float32"),
        ("5,1,0", [2], "float16"),
        ("status=any", None, "float64"),
        ("status=any", [1], "float16"),
        ([], None, "float32"),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "suffix",
    [".npz", ".npy", ".pt", ".safetensors", ".zarr", ".parquet", ".svm", ".mat", ".csv", ".tsv.gz"],
)
def test_every_value_of_every_row_is_read_back(file, tmp_path, suffix, dtype, levels, rows):
    if suffix == ".mat":
        dtype = dtype.replace("float16", "float64")
    selection = file.select(rows=rows, levels=levels)
    wanted = selection.X.astype(dtype)
    wanted[~file.has_descriptor()[selection.rows]] = np.nan
    out = tmp_path / f"x{suffix}"
    result = export(selection, out, dtype=dtype)
    got, labels, paths, numbers = READERS[suffix](out, selection)
    assert got.shape == wanted.shape
    assert got.astype(dtype).tobytes() == wanted.tobytes() or np.array_equal(
        got.astype(dtype), wanted, equal_nan=True
    )
    assert list(labels) == selection.y.tolist()
    escaped = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in selection.paths]
    assert list(paths) == (escaped if "mat" in result.format else selection.paths)
    assert list(numbers) == selection.rows.tolist()
    assert sorted(os.listdir(tmp_path)) == sorted(os.path.basename(path) for path in result.paths)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert result.bytes == sum(os.path.getsize(path) for path in files)
    assert (result.rows, result.dimension, result.dtype) == (*wanted.shape, dtype)
    assert result.rows_without_descriptor == sum(row in (3, 4) for row in selection.rows)


def _npz(path, selection):
    with np.load(path, allow_pickle=False) as found:
        assert found["columns"].tolist() == list(selection.columns.names())
        assert found["classes"].tolist() == names(CLASSES)
        assert np.array_equal(found["boxes"], selection.file.boxes[selection.rows])
        assert json.loads(str(found["about"][0]))["root"] == "/data"
        return found["X"], found["y"], found["paths"].tolist(), found["rows"]


def _pt(path, selection):
    found = torch.load(path, weights_only=True)
    mapped = torch.load(path, weights_only=True, mmap=True)
    assert torch.equal(mapped["X"].nan_to_num(), found["X"].nan_to_num())
    return _tensors(found, json.loads(found["about"]), selection)


def _safetensors(path, selection):
    opened = pytest.importorskip("safetensors").safe_open(path, "pt")
    texts = {name: json.loads(text) for name, text in opened.metadata().items()}
    tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dictionary
    return _tensors(tensors | texts, texts["about"], selection)


def _tensors(found, about, selection):
    assert found["columns"] == list(selection.columns.names())
    assert found["classes"] == about["classes"] == names(CLASSES)
    assert np.array_equal(found["boxes"].numpy(), selection.file.boxes[selection.rows])
    assert found["X"].is_contiguous()
    return found["X"].numpy(), found["y"].tolist(), found["paths"], found["rows"].tolist()


def _zarr(path, selection):
    group = pytest.importorskip("zarr").open_group(str(path), mode="r")
    assert group.attrs["root"] == "/data"
    assert group["columns"][:].tolist() == list(selection.columns.names())
    assert group["classes"][:].tolist() == group.attrs["classes"] == names(CLASSES)
    assert np.array_equal(group["boxes"][:], selection.file.boxes[selection.rows])
    return group["X"][:], group["y"][:], group["paths"][:].tolist(), group["rows"][:]


def _of_table(lines):
    return (
        [int(line["label_number"]) for line in lines],
        [line["path"] for line in lines],
        [int(line["row"]) for line in lines],
    )


def _npy(path, selection):
    _, lines, more = read_separated(path.with_suffix(".csv"))
    assert not more
    return np.load(path), *_of_table(lines)


def _parquet(path, selection):
    table = pytest.importorskip("pyarrow.parquet").read_table(path)
    about = json.loads(table.schema.metadata[b"sppfeat"])
    assert about["classes"] == names(CLASSES)
    assert sum(block["stop"] - block["start"] for block in about["columns"]) == selection.dimension
    frame = table.to_pandas()
    x = np.stack(frame["features"].to_numpy()) if len(frame) else np.empty((0, selection.dimension))
    labels = [os.fsdecode(label) for label in frame["label"]]
    assert labels == [names(CLASSES)[i] for i in selection.y]
    return x, frame["label_number"], [os.fsdecode(name) for name in frame["path"]], frame["row"]


def _svm(path, selection):
    _, lines, _ = read_separated(path.with_suffix(".csv"))
    if not lines:
        assert path.read_bytes() == b""
        return np.empty((0, selection.dimension)), [], [], []
    load = pytest.importorskip("sklearn.datasets").load_svmlight_file
    x, y = load(str(path), n_features=selection.dimension)
    assert y.tolist() == selection.y.tolist()
    assert b":0 " not in path.read_bytes()
    return x.toarray(), *_of_table(lines)


def _mat(path, selection):
    found = pytest.importorskip("scipy.io").loadmat(path, chars_as_strings=True)
    assert found["X"].dtype == found["X"].dtype.newbyteorder("=")
    assert [str(cell[0]) for cell in found["columns"][:, 0]] == list(selection.columns.names())
    assert np.array_equal(found["boxes"].reshape(-1, 4), selection.file.boxes[selection.rows])
    paths = [str(cell[0]) for cell in found["paths"].reshape(-1)]
    return found["X"], found["y"].reshape(-1).tolist(), paths, found["rows"].reshape(-1)


def _separated(path, selection):
    x, lines, columns = read_separated(path)
    assert columns == list(selection.columns.names())
    assert [line["label"] for line in lines] == [names(CLASSES)[i] for i in selection.y]
    boxes = [[float(line[name]) for name in ("x0", "y0", "x1", "y1")] for line in lines]
    assert np.array_equal(np.reshape(boxes, (-1, 4)), selection.file.boxes[selection.rows])
    return x.reshape(len(lines), selection.dimension), *_of_table(lines)


READERS = {
    ".npz": _npz,
    ".npy": _npy,
    ".pt": _pt,
    ".safetensors": _safetensors,
    ".zarr": _zarr,
    ".parquet": _parquet,
    ".svm": _svm,
    ".mat": _mat,
    ".csv": _separated,
    ".tsv.gz": _separated,
}


def test_boxes_are_exported_with_all_their_columns(box_path, tmp_path):
    loadmat = pytest.importorskip("scipy.io").loadmat
    parquet = pytest.importorskip("pyarrow.parquet")
    with FeatureFile(box_path) as file:
        for name in ("x.csv", "x.npz", "x.mat", "x.pt", "x.safetensors", "x.zarr"):
            export(file.select(rows="status=any"), tmp_path / name)
        export(file.select(), tmp_path / "x.parquet")
        wanted = {"flag": file.row_flag.tolist(), "source": [0, 1, 2]}
        wanted |= {"score": [0.0, 0.125, 0.25], "id": ["box0", "box1", "box2"]}
        box = file.boxes
    notes = ["note 0", "note 1", "note 2"]
    _, lines, _ = read_separated(tmp_path / "x.csv", 15)
    assert [line["extra:note"] for line in lines] == notes
    tensors = torch.load(tmp_path / "x.pt", weights_only=True)
    opened = pytest.importorskip("safetensors").safe_open(tmp_path / "x.safetensors", "np")
    safe = {name: json.loads(text) for name, text in opened.metadata().items()}
    safe |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dictionary
    zarr = pytest.importorskip("zarr").open_group(str(tmp_path / "x.zarr"), mode="r")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as npz:
        assert set(tensors) == set(safe) == set(npz) == {*zarr.array_keys(), "about"}
        assert tensors["extra"] == safe["extra"] == zarr["extra"][:].tolist() == npz["extra"].tolist()
        mat = loadmat(tmp_path / "x.mat", simplify_cells=True)
        for name, values in wanted.items():
            assert [type(values[0])(line[name]) for line in lines] == values
            assert npz[name].tolist() == values
            assert mat[name].tolist() == values
            assert np.asarray(tensors[name]).tolist() == values
            assert np.asarray(safe[name]).tolist() == values
            assert zarr[name][:].tolist() == values
        assert npz["extra_names"].tolist() == ["note"]
        assert npz["extra"].tolist() == [[note] for note in notes]
        assert np.array_equal(npz["boxes"], box)
    assert parquet.read_table(tmp_path / "x.parquet")["extra:note"].to_pylist() == notes[:2]


# --- numbers --------------------------------------------------------------------------------------

FLOATS = [
    arrays(dtype, (1, 8), elements={"allow_subnormal": True})
    for dtype in (np.float16, np.float32, np.float64)
]


@given(block=st.one_of(FLOATS))
def test_numbers_as_text_read_back_as_the_same_numbers(block):
    texts = number_texts(block[0])
    got = np.array([float(text) for text in texts])
    assert np.array_equal(got.astype(block.dtype), block[0], equal_nan=True)
    for value, shown in zip(block[0], texts, strict=True):
        if block.dtype == np.float32 and 1e-13 < abs(value) < 1e9:
            shortest = np.format_float_scientific(value, trim="-").split("e")[0]
            digits = re.sub(r"e.*|[-.]", "", shown).strip("0")
            assert len(digits) <= len(shortest.replace("-", "").replace(".", "")) or len(digits) <= 6


def test_numbers_beyond_float16_are_refused_by_row(path, tmp_path):
    copy = tmp_path / "f.h5"
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "r+") as opened:
        opened["features"][2, 4] = 70000
        opened["features"][4] = 1e30  # pending: nobody's number
    with FeatureFile(copy) as file:
        out = tmp_path / "x.npy"
        with pytest.raises(
            ConfigError, match=r"row 2 \('b/ü 1 .jpg'\) holds 70000 at layer3:2:0:1:0, .*65504"
        ):
            export(file.select(rows="status=any"), out, dtype="float16")
        assert sorted(os.listdir(tmp_path)) == ["f.h5"]
        export(file.select(rows=[0, 1]), out, dtype="float16")


def test_half_precision_is_converted_for_formats_without_it(tmp_path):
    path = fill(new_file(tmp_path / "f.h5", 2, dtype="float16"), descriptors(2).astype(np.float16))
    assert "2 rows x 15 float16, npy" in run(path, "-o", tmp_path / "x.npy").output
    assert "float32 (the file has float16), mat" in run(path, "-o", tmp_path / "x.mat").output
    pytest.importorskip("pyarrow")
    assert "float32 (the file has float16)" in run(path, "-o", tmp_path / "x.parquet").output
    bad = run(path, "-o", tmp_path / "y.mat", "--dtype", "float16", code=2)
    assert "allowed for mat: float32|float64" in bad.output


# --- labels ---------------------------------------------------------------------------------------


def test_labels_that_svmlight_cannot_express(file, tmp_path):
    labels = {"a/1.jpg": "x"}
    with pytest.raises(LabelError, match="3 rows have no label; the first is row 1"):
        export(file.select(labels=labels), tmp_path / "x.svm")
    export(file.select(labels=labels, rows="label=*"), tmp_path / "x.svm")
    assert (tmp_path / "x.svm").read_text().startswith("0 4:")
    assert not os.path.exists(tmp_path / "x.svm.csv")
    nothing = file.select(labels="box")
    export(nothing, tmp_path / "n.svm")
    assert [line[:2] for line in (tmp_path / "n.svm").read_text().splitlines()] == ["0 "] * 4
    export(nothing, tmp_path / "n.csv", overwrite=True)
    assert [line["label_number"] for line in read_separated(tmp_path / "n.csv")[1]] == ["-1"] * 4
    export(file.select(labels=[0.5, 1, 2, 3, 4, 5]), tmp_path / "r.svm")
    assert (tmp_path / "r.svm").read_text().startswith("0.5 4:")
    with pytest.raises(LabelError, match=r"labels are float64 of shape \(4, 2\)"):
        export(file.select(labels=np.ones((6, 2))), tmp_path / "z.csv")


def test_an_exported_table_can_be_read_as_labels(file, tmp_path):
    selection = file.select()
    export(selection, tmp_path / "x.npy")
    # The name of a class is not UTF-8.
    with pytest.raises(LabelError, match=r"is not UTF-8; allowed: UTF-8; .*--encoding"):
        file.select(labels=tmp_path / "x.csv")
    again = file.select(labels=EncodedPath(str(tmp_path / "x.csv"), "utf-8"))
    assert [again.target_names[i] for i in again.y] == [selection.target_names[i] for i in selection.y]


# --- outputs --------------------------------------------------------------------------------------


def test_wrong_usage(path, tmp_path):
    for arguments, message in [
        (["-o", tmp_path / "x.json"], "x.json' is not that of an export format; use .npz .npy .pt .pth"),
        (["-o", tmp_path / ".csv"], "is not that of an export format"),
        (["-o", "-"], "a stream needs a format; use --format npz|npy|pt|safetensors|svmlight|csv|tsv"),
        (["-o", "-", "--format", "zarr"], "zarr cannot be written to a stream; use --format npz"),
        (["-o", "-", "--format", "csv", "--json"], "--json and -o - both write"),
        (["-o", tmp_path / "x.csv", "--dtype", "int8"], "'int8' is not one of"),
        (["-o", tmp_path / "x.csv", "--levels", "3"], "levels are 3; in this file: 1, 2"),
        (["-o", path, "--format", "csv", "--overwrite"], "is also an input"),
    ]:
        assert message in run(path, *arguments, code=2).output
    for arguments, message in [
        (["-o", tmp_path / "gone" / "x.csv"], "the folder of the output does not exist"),
        (["-o", tmp_path, "--format", "csv"], "is a folder"),
        (["-o", tmp_path / f"{'n' * 300}.csv"], "File name too long"),
    ]:
        assert message in run(path, *arguments, code=1).output
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["soft.csv", "hard.csv", "hard.npy", "labels.csv", "labels.npy"])
def test_inputs_are_never_replaced_even_through_links_or_by_the_table(path, tmp_path, name):
    before = path.read_bytes()
    (tmp_path / "soft.csv").symlink_to(path)
    os.link(path, tmp_path / "hard.csv")
    table = tmp_path / "labels.csv"
    table.write_text("row,label\n0,x\n")
    result = run(path, "--labels", table, "-o", tmp_path / name, "--overwrite", code=2)
    assert "is also an input" in result.output
    assert (path.read_bytes(), table.read_text()) == (before, "row,label\n0,x\n")
    assert sorted(os.listdir(tmp_path)) == ["hard.csv", "labels.csv", "soft.csv"]


def test_existing_outputs_stay_without_overwrite(path, tmp_path):
    (tmp_path / "x.csv").write_text("mine")
    assert (
        "x.csv' exists; add --overwrite to replace it" in run(path, "-o", tmp_path / "x.npy", code=1).output
    )
    assert os.listdir(tmp_path) == ["x.csv"]
    run(path, "-o", tmp_path / "x.npy", "--overwrite")
    assert (tmp_path / "x.csv").read_bytes().startswith(b"row,path,")


@pytest.mark.parametrize("name", ["x.npy", "x.csv.gz", "x.mat"])
def test_an_interrupted_export_leaves_the_old_file(file, tmp_path, name):
    (tmp_path / name).write_text("before")

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(file.select(), tmp_path / name, overwrite=True, on_progress=interrupt)
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "before"


@pytest.mark.parametrize(
    "name",
    ["x.npz", "x.npy", "x.pt", "x.safetensors", "x.zarr", "x.svm", "x.csv", "x.mat", "x.parquet"],
)
def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path, mount_disk, name, capfd):
    path, disk = tmp_path / "f.h5", mount_disk(1)
    create_file(path, plan_of(["1.jpg"] * 12), config(), (ColumnBlock("layer3", 1, 50_000, 0, 50_000),))
    fill(path, np.random.default_rng(0).standard_normal((12, 50_000), dtype=np.float32))
    with FeatureFile(path) as file, pytest.raises(StoreError, match=r"cannot write .*[Nn]o space"):
        export(file.select(), disk / name)
    assert (os.listdir(disk), capfd.readouterr().err) == ([], "")


def test_vectors_too_large_for_matlab_5_are_refused(file, tmp_path, monkeypatch):
    pytest.importorskip("scipy")
    monkeypatch.setattr("sppfeat.analysis.export.arrays._MAT_LIMIT", 4096 + 64)
    with pytest.raises(ConfigError, match=r"less than 2 GiB; found: 4 x 15 float32: 240 bytes. .*h5read"):
        export(file.select(), tmp_path / "x.mat")
    assert os.listdir(tmp_path) == []


def test_several_blocks_give_the_same_export_as_one(file, tmp_path, monkeypatch):
    selection = file.select(rows="status=any")
    for form in EXPORT_FORMATS:
        export(selection, tmp_path / f"{form}1.{form}", export_format=form)
    blocks = Contents.blocks
    monkeypatch.setattr(Contents, "blocks", lambda self, nbytes=0: blocks(self, 2 * 15 * 4))
    monkeypatch.setattr("sppfeat.analysis.export.text._ROWS_AT_ONCE", 2)
    monkeypatch.setattr("sppfeat.store.row_table._TEXTS_AT_ONCE", 2)
    for form in EXPORT_FORMATS:
        seen: list[tuple[int, int]] = []
        one, two = (tmp_path / f"{form}{i}.{form}" for i in (1, 2))
        export(selection, two, export_format=form, on_progress=lambda *n, seen=seen: seen.append(n))
        assert seen == [(2, N), (4, N), (6, N)]
        if form == "parquet":
            import pyarrow.parquet as pq

            assert pq.ParquetFile(two).num_row_groups == 3
            assert pq.read_table(one)["path"] == pq.read_table(two)["path"]
        elif form == "zarr":
            import zarr

            before, after = (zarr.open_group(str(folder), mode="r") for folder in (one, two))
            assert all(
                np.array_equal(before[name][:], after[name][:], equal_nan=name == "X") for name in before
            )
        else:  # scipy writes the time into the head
            assert one.read_bytes()[128:] == two.read_bytes()[128:]


def test_a_file_without_a_descriptor(tmp_path):
    path = new_file(tmp_path / "f.h5", 3)
    assert "no row with a descriptor is selected" in run(path, "-o", tmp_path / "x.npz").output
    with np.load(tmp_path / "x.npz") as found:
        assert found["X"].shape == (0, 15)
    run(path, "-o", tmp_path / "y.NPZ", "--rows", "status=any")
    with np.load(tmp_path / "y.NPZ") as found:
        assert np.isnan(found["X"]).all()


def test_texts_beyond_the_header_limit_of_safetensors_are_left_out(path, tmp_path, monkeypatch):
    export(path, tmp_path / "x.safetensors", levels=[1])
    (nbytes,) = struct.unpack("<Q", (tmp_path / "x.safetensors").read_bytes()[:8])
    for limit, left_out in [(nbytes + 64, ()), (nbytes - 8, ("paths",))]:
        monkeypatch.setattr("sppfeat.analysis.export.tensors._HEADER_LIMIT", limit)
        assert export(path, tmp_path / "x.safetensors", levels=[1], overwrite=True).left_out == left_out
        opened = pytest.importorskip("safetensors").safe_open(tmp_path / "x.safetensors", "np")
        assert set(opened.metadata()) == {"about", "classes", "columns", "paths"} - {*left_out}
        assert (tmp_path / "x.safetensors").stat().st_size <= nbytes + 4096
    text = run(path, "-o", tmp_path / "y.safetensors", "--levels", "1").output
    assert (
        "note: left out paths, too long for the header of a .safetensors file; a .pt file holds them" in text
    )


@pytest.fixture
def group(file, tmp_path):
    """A Zarr export of all rows."""
    pytest.importorskip("zarr")
    export(file.select(rows="status=any"), tmp_path / "x.zarr")
    return tmp_path / "x.zarr"


def test_a_zarr_group_is_replaced_whole_or_not_at_all(file, group, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    (group / "mine").write_text("x")
    with pytest.raises(StoreError, match=r"x.zarr' exists; add --overwrite to replace it"):
        export(file.select(), group)
    with pytest.raises(KeyboardInterrupt):
        export(file.select(), group, overwrite=True, on_progress=interrupt)
    assert (group / "mine").exists()
    (tmp_path / "link.zarr").symlink_to(group)
    assert export(file.select(rows=[0]), tmp_path / "link.zarr/", overwrite=True).rows == 1
    assert not (group / "mine").exists()
    assert sorted(os.listdir(tmp_path)) == ["link.zarr", "x.zarr"]
    assert _zarr(group, file.select(rows=[0]))[3].tolist() == [0]


def test_a_group_put_aside_by_a_killed_process_returns(file, group, tmp_path):
    group.rename(tmp_path / ".x.zarr.old")
    (tmp_path / ".x.zarr.part").mkdir()
    with pytest.raises(StoreError, match="exists; add --overwrite to replace it"):
        export(file.select(rows=[0]), group)
    assert os.listdir(tmp_path) == ["x.zarr"]


def test_folders_of_other_files_are_never_replaced(path, group, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "file").touch()
    (group / "f.h5").write_bytes(path.read_bytes())
    for source, output, code, message in [
        (path, "photos", 1, "photos' is a folder of other files, which is never replaced"),
        (path, "file", 1, "file' is a file; this format is a folder"),
        (group / "f.h5", "x.zarr", 2, "x.zarr' holds the input"),
    ]:
        arguments = ["-o", tmp_path / output, "--format", "zarr", "--overwrite"]
        assert message in run(source, *arguments, code=code).output
    assert sorted(os.listdir(tmp_path)) == ["file", "photos", "x.zarr"]


# --- the command ----------------------------------------------------------------------------------


def test_json_has_the_documented_fields(path, tmp_path):
    result = run(path, "-o", tmp_path / "x.svm", "--json", "--rows", "image=a/*", "--levels", "2")
    found = json.loads(result.stdout)
    assert found == {
        "paths": [str(tmp_path / "x.svm"), str(tmp_path / "x.csv")],
        "format": "svmlight",
        "rows": 2,
        "dimension": 12,
        "dtype": "float32",
        "rows_without_descriptor": 0,
        "rows_labelled": 2,
        "bytes": sum((tmp_path / name).stat().st_size for name in ("x.svm", "x.csv")),
        "left_out": [],
    }
    check_fields("export", found)
    again = sppfeat.export(path, tmp_path / "y.svm", rows="image=a/*", levels=[2])
    only_python = {"stored_dtype": "float32", "unknown_names": 0}
    assert dataclasses.asdict(again) | found == found | only_python
    assert (tmp_path / "y.svm").read_bytes() == (tmp_path / "x.svm").read_bytes()


def test_standard_output_equals_the_file(path, tmp_path):
    for form in STREAM_FORMATS:
        stream = io.BytesIO()
        assert sppfeat.export(path, stream, export_format=form).paths == ()
        result = run(path, "-o", "-", "--format", form)
        out = tmp_path / f"x-{form}"
        run(path, "-o", out, "--format", form, "-q")
        assert result.stdout_bytes == stream.getvalue() == out.read_bytes()


@pytest.mark.parametrize("form", ["pt", "safetensors", "npz"])
def test_readers_accept_exports_through_a_pipe(path, tmp_path, form):
    out = tmp_path / f"x.{form}"
    command = (
        f"{sys.executable} -m sppfeat export {path} -o - --format {form} -q --rows status=any | cat > {out}"
    )
    subprocess.run(command, shell=True, check=True)
    with FeatureFile(path) as file:
        _, _, paths, _ = READERS[f".{form}"](out, file.select(rows="status=any"))
    assert paths == names(PATHS)


@pytest.mark.slow
def test_a_reader_that_leaves_early_causes_no_message(path):
    command = f"{sys.executable} -m sppfeat export {path} -o - --format csv -q | true"
    said = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert said.stderr == ""
