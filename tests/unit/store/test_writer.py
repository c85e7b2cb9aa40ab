"""The output file: laid out whole, filled in place, never wrong whenever one looks or kills."""

import contextlib
import dataclasses
import errno
import itertools
import os
import shutil
import stat
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from feature_files import BLOCKS, DIMENSION, config, descriptors, new_file, plan_of, write
from hypothesis import given, settings
from hypothesis import strategies as st
from places import REPOSITORY, SUPPORT

import sppfeat
from sppfeat.errors import StoreError
from sppfeat.files.outputs import OutputLock, check_output
from sppfeat.files.paths import PathTable
from sppfeat.store.layout import create_file
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import (
    COLUMNS,
    ERROR_NBYTES,
    VERSION_COLUMNS,
    ColumnBlock,
    Status,
    check_dimension,
    column_blocks,
    cut_error,
)
from sppfeat.store.writer import FeatureWriter

PENDING, DONE, FAILED = Status


@pytest.fixture
def file(tmp_path):
    return new_file(tmp_path / "f.h5")


def read(path, name):
    with h5py.File(path, "r") as opened:
        return opened[name][()]


def run(code, *arguments, **options):
    """Run some code in a Python of its own, the files of the tests at hand."""
    prelude = "import sys, os, signal\nfrom pathlib import Path\nfrom feature_files import *\n"
    for module in ("store.writer", "store.layout", "files.outputs"):
        prelude += f"from sppfeat.{module} import *\n"
    prelude += "from sppfeat.errors import StoreError\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), str(REPOSITORY)])}
    command = [sys.executable, "-c", prelude + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **options)


# --- the layout -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "stored"), [("float32", "<f4"), ("float16", "<f2")])
def test_the_file_is_what_the_schema_says(tmp_path, dtype, stored):
    sizes = [[4, 6], [0, 0], [70_000, 1]]
    plan = plan_of(["a/1.jpg", "a/2.jpg", "b/3.jpg"], sizes=sizes, labels=[0, 0, 1], classes=[b"a", b"b"])
    create_file(tmp_path / "f.h5", plan, config(dtype), BLOCKS, weights_path="/w\udcff.pth")
    columns = {**COLUMNS, **VERSION_COLUMNS}
    with h5py.File(tmp_path / "f.h5", "r") as opened:
        names = []
        opened.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        assert set(names) == {"features", *columns}
        sides = {"R": 3, "N": 3, "K": 2, "B": len(BLOCKS)}
        for name, (shape, kind) in {"features": (("R", DIMENSION), stored), **columns}.items():
            dataset = opened[name]
            assert dataset.shape == tuple(sides.get(side, side) for side in shape)
            if kind == "string":
                assert h5py.check_string_dtype(dataset.dtype) == ("utf-8", None)
            else:
                assert dataset.dtype == np.dtype(kind)
            assert dataset.chunks is None
            assert dataset.compression is None
            assert dataset.id.get_offset() is not None
        assert h5py.check_string_dtype(opened["images/error"].dtype) == ("utf-8", ERROR_NBYTES)
        assert opened["images/path"][()].tolist() == [b"a/1.jpg", b"a/2.jpg", b"b/3.jpg"]
        assert opened["images/size"][()].tolist() == sizes
        assert opened["images/nbytes"][()].tolist() == opened["images/mtime_ns"][()].tolist() == [-1] * 3
        assert opened["images/rows"][()].tolist() == [[0, 1], [1, 2], [2, 3]]
        assert opened["images/status"][()].tolist() == [0, 0, 0]
        assert opened["images/error"][()].tolist() == [b"", b"", b""]
        assert opened["images/label"][()].tolist() == [0, 0, 1]
        assert opened["classes"][()].tolist() == [b"a", b"b"]
        assert opened["image_index"][()].tolist() == [0, 1, 2]
        assert opened["columns/layer"][()].tolist() == [b"layer3", b"layer3", b"layer4", b"layer4"]
        assert opened["columns/start"][()].tolist() == [0, 2, 10, 11]
        assert opened["columns/stop"][()].tolist() == [2, 10, 11, 15]
        boxes = opened["boxes"][()]
        assert boxes[[0, 2]].tolist() == [[0, 0, 6, 4], [0, 0, 1, 70_000]]
        assert np.isnan(boxes[1]).all()
        attributes = dict(opened.attrs)
        assert attributes.pop("created").endswith("+00:00")
        assert attributes == {
            "format": "sppfeat",
            "schema_version": 1,
            "sppfeat_version": sppfeat.__version__,
            "config": config(dtype).to_json(),
            "fingerprint": config(dtype).fingerprint,
            "weights_sha256": "0" * 64,
            "weights_path": "/w\udcff.pth",
            "input_root": "/data",
        }


def test_the_file_is_in_the_oldest_format_and_reserved(file):
    content = file.read_bytes()
    assert content[:8] == b"\x89HDF\r\n\x1a\n"
    assert content[8] == 0  # version of the superblock: no flag that says "open for writing"
    assert file.stat().st_blocks * 512 >= len(content) - 4096


@pytest.mark.slow
@given(n=st.integers(0, 7), at_once=st.integers(1, 8))
@settings(deadline=None, max_examples=20)
def test_a_file_is_laid_out_in_blocks(tmp_path_factory, n, at_once):
    path = tmp_path_factory.mktemp("blocks") / "features.h5"
    plan = plan_of([f"{i}.jpg" for i in range(n)], sizes=[(i, 2 * i) for i in range(n)])
    plan = dataclasses.replace(plan, ids=PathTable(f"id {i}" for i in range(n)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sppfeat.store.layout._AT_ONCE", at_once)
        create_file(path, plan, config(), BLOCKS)
    with h5py.File(path) as file:
        assert file["images/path"][()].tolist() == list(plan.paths)
        assert file["images/id"][()].tolist() == list(plan.ids)
        assert file["image_index"][()].tolist() == list(range(n))
        expected = [[np.nan] * 4 if i == 0 else [0, 0, 2 * i, i] for i in range(n)]
        assert np.array_equal(file["boxes"][()], np.reshape(expected, (n, 4)), equal_nan=True)
    with FeatureFile(path) as opened:
        assert list(opened.path_table) == list(plan.paths)
        assert list(opened.image_id_table) == list(plan.ids)


def test_the_permissions_are_those_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        assert stat.S_IMODE(new_file(tmp_path / "f.h5").stat().st_mode) == 0o640
    finally:
        os.umask(before)


NAMES = [b"new\nline.jpg", b"\xff\xfe.jpg", "\U0001f4f7/\u00e9.jpg".encode(), b" ", b"x" * 4000]


def test_names_of_every_kind_survive(tmp_path):
    plan = plan_of(NAMES, labels=range(5), classes=NAMES, root=b"/ro\xffot\n")
    create_file(tmp_path / "f.h5", plan, config(), BLOCKS)
    assert list(read(tmp_path / "f.h5", "images/path")) == NAMES
    with FeatureFile(tmp_path / "f.h5") as features:
        assert list(features.path_table) == NAMES
        assert [os.fsencode(path) for path in features.paths] == NAMES
        assert [os.fsencode(name) for name in features.classes] == NAMES
        assert os.fsencode(features.root) == b"/ro\xffot\n"
        assert os.fsencode(features.path_of(1)) == NAMES[1]


def test_the_columns_of_several_layers_and_levels():
    blocks = column_blocks(["a", "b"], [3, 5], [4, 1])
    assert blocks == (
        ColumnBlock("a", 4, 3, 0, 48),
        ColumnBlock("a", 1, 3, 48, 51),
        ColumnBlock("b", 4, 5, 51, 131),
        ColumnBlock("b", 1, 5, 131, 136),
    )
    check_dimension(blocks, 136)
    for wrong in (blocks[1:], blocks[:-1], (blocks[0]._replace(channels=2), *blocks[1:])):
        with pytest.raises(StoreError, match="does not describe the 136 columns"):
            check_dimension(wrong, 136)


@given(st.text(st.characters(exclude_categories=[]), max_size=300))
def test_a_reason_is_cut_at_a_character_into_one_line(reason):
    cut = cut_error(reason)
    assert len(cut) <= 200
    assert not set(cut.decode("utf-8")) & set("\n\r\0")
    whole = " ".join(reason.split())
    if "\0" not in whole and not any("\ud800" <= c <= "\udfff" for c in whole):
        assert whole.startswith(cut.decode("utf-8"))
        assert len(cut) > 196 or cut.decode("utf-8") == whole


# --- creating -------------------------------------------------------------------------------------


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


def raising(error):
    def call(*arguments):
        raise error

    return call


def test_an_existing_output_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = new_file(tmp_path / "f.h5", n=3)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(os, "posix_fallocate", raising(full))
        with pytest.raises(StoreError, match=r"cannot create '.*f.h5': No space left on device"):
            new_file(path, n=9)
    assert path.read_bytes() == before
    assert leftovers(tmp_path) == ["f.h5"]
    new_file(path, n=9)
    assert len(read(path, "features")) == 9


def test_a_file_system_that_reserves_nothing_will_do(tmp_path, monkeypatch):
    unsupported = OSError(errno.EOPNOTSUPP, "Operation not supported")
    monkeypatch.setattr(os, "posix_fallocate", raising(unsupported))
    assert len(read(new_file(tmp_path / "f.h5"), "features")) == 5


def test_an_interrupted_creation_cleans_up(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", raising(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        new_file(tmp_path / "f.h5")
    assert leftovers(tmp_path) == []


def test_an_output_that_is_a_link_stays_one(tmp_path):
    (tmp_path / "big").mkdir()
    link = tmp_path / "f.h5"
    link.symlink_to("big/real.h5")
    check_output(link)
    new_file(link)
    assert link.is_symlink()
    assert leftovers(tmp_path / "big") == ["real.h5"]
    with OutputLock(link):
        assert leftovers(tmp_path / "big") == ["real.h5", "real.h5.lock"]
        with pytest.raises(StoreError, match="another process"):
            OutputLock(tmp_path / "big" / "real.h5")


def test_outputs_that_cannot_be(tmp_path):
    for name in ("d", "d.pt"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "fifo")
    for path, said in [
        (tmp_path / "d", "is a folder; give a file name such as '.*features.h5'"),
        (tmp_path / "d.pt", "is a folder; give a file name such as '.*features.pt'"),
        (tmp_path / "gone" / "f.h5", "the folder of the output does not exist"),
        (tmp_path / "fifo", "is not a regular file"),
        (Path("/dev/null"), "is not a regular file"),
        (tmp_path / "fifo" / "f.h5", "the folder of the output does not exist"),
    ]:
        with pytest.raises(StoreError, match=said):
            check_output(path)
    check_output(tmp_path / "f.h5")
    check_output(Path("f.h5"))
    for path in (tmp_path / "gone" / "f.h5", tmp_path / ("x" * 300)):
        with pytest.raises(StoreError, match="cannot create"):
            new_file(path)
        with pytest.raises(StoreError, match="cannot write to the folder"):
            OutputLock(path)


def test_space_that_is_gone_between_the_check_and_the_writing(mount_disk, monkeypatch, capfd):
    tiny_disk = mount_disk(1)
    plan = plan_of([f"{i}.jpg" for i in range(5000)])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**12))
    with pytest.raises(StoreError, match="cannot create"):
        create_file(tiny_disk / "f.h5", plan, config(), BLOCKS)
    assert capfd.readouterr().err == ""  # h5py says it once for every object that it cannot close
    assert leftovers(tiny_disk) == []


# --- filling --------------------------------------------------------------------------------------


def test_rows_status_and_errors_are_where_hdf5_sees_them(file):
    rows = descriptors(5)
    with contextlib.closing(FeatureWriter(file)) as writer:
        write(writer, 1, rows[1:3])
        writer.mark_done(1)
        writer.mark_done(2)
        write(writer, 4, rows[4:][:, ::-1])
        writer.mark_failed(4, "damaged:\n" + "\u00e9" * 200)
    assert read(file, "images/status").tolist() == [PENDING, DONE, DONE, PENDING, FAILED]
    assert np.array_equal(read(file, "features")[1:3], rows[1:3])
    assert np.isnan(read(file, "features")[4]).all()
    error = read(file, "images/error")[4]
    assert error.decode("utf-8") == "damaged: " + "\u00e9" * 95
    assert read(file, "images/error")[:4].tolist() == [b""] * 4
    assert read(file, "images/path").tolist() == [b"0.jpg", b"1.jpg", b"2.jpg", b"3.jpg", b"4.jpg"]


def test_float16(tmp_path):
    path = new_file(tmp_path / "f.h5", dtype="float16")
    rows = descriptors(5)
    rows[0, 0], rows[0, 1] = 65504, 1e6
    with warnings.catch_warnings(), contextlib.closing(FeatureWriter(path)) as writer:
        warnings.simplefilter("error")
        write(writer, 0, rows[:4])
        writer.mark_failed(4, "no")
    stored = read(path, "features")
    assert stored.dtype == np.float16
    assert stored[0, :2].tolist() == [65504, np.inf]
    assert np.array_equal(stored[1:4], rows[1:4].astype(np.float16))
    assert np.isnan(stored[4]).all()


def test_arrays_of_any_layout_and_type_are_stored_by_value(file):
    rows = descriptors(5)
    with contextlib.closing(FeatureWriter(file)) as writer:
        write(writer, 0, np.asfortranarray(rows[:2]))
        write(writer, 2, rows.astype(np.float64)[2:5:2])
        write(writer, 5, rows[:0])
        write(writer, 4, rows[4:].astype(">f4"))
    assert np.array_equal(read(file, "features"), rows[[0, 1, 2, 4, 4]])


def test_what_does_not_fit_is_refused_and_writes_nothing(file):
    before = file.read_bytes()
    with contextlib.closing(FeatureWriter(file)) as writer:
        for first, rows in [(-1, 1), (5, 1), (4, 2), (0, 6), (10**12, 1)]:
            with pytest.raises(IndexError, match="/features"):
                write(writer, first, np.ones((rows, DIMENSION), dtype=np.float32))
        for shape in [(1, DIMENSION - 1), (DIMENSION,), (1, 1, DIMENSION)]:
            with pytest.raises(ValueError, match="descriptors of shape"):
                write(writer, 0, np.ones(shape, dtype=np.float32))
        for image in (-1, 5):
            for call in (
                lambda i: writer.mark_done(i),
                lambda i: writer.mark_failed(i, "no"),
                lambda i: writer.write_sizes(np.array([i]), np.array([(1, 1)])),
                lambda i: writer.reopen(i),
            ):
                with pytest.raises(IndexError):
                    call(image)
    assert file.read_bytes() == before


def test_a_size_that_becomes_known_and_its_box(tmp_path):
    path = new_file(tmp_path / "f.h5", sizes=[[4, 6], [0, 0], [4, 6], [4, 6], [4, 6]])
    with contextlib.closing(FeatureWriter(path)) as writer:
        writer.write_boxes(np.array([1]), np.array([[0.0, 0, 9, 7]]))
        writer.write_sizes(np.array([1]), np.array([(7, 9)]))
    assert read(path, "images/size").tolist() == [[4, 6], [7, 9], [4, 6], [4, 6], [4, 6]]
    assert read(path, "boxes")[:3].tolist() == [[0, 0, 6, 4], [0, 0, 9, 7], [0, 0, 6, 4]]


@pytest.mark.parametrize("gone", ["removed", "renamed", "replaced"])
def test_a_file_that_goes_away_is_noticed_and_loses_nothing(file, tmp_path, gone):
    writer = FeatureWriter(file, sync_seconds=1e-9)
    write(writer, 0, descriptors(1))
    writer.mark_done(0)
    moved = file.rename(tmp_path / "moved.h5")
    if gone == "removed":
        moved.unlink()
    elif gone == "replaced":
        new_file(file)
    write(writer, 1, descriptors(1))
    with pytest.raises(StoreError, match="was removed, renamed or replaced while it was being written"):
        writer.mark_done(1)
    with pytest.raises(StoreError, match="was removed"):
        writer.close()
    writer.close()
    if gone != "removed":
        assert read(moved, "images/status").tolist() == [DONE, DONE, 0, 0, 0]


def test_a_failed_image_that_is_tried_again_loses_its_error(file):
    with contextlib.closing(FeatureWriter(file)) as writer:
        writer.mark_failed(0, "no such file")
        writer.mark_failed(1, "no such file")
    with contextlib.closing(FeatureWriter(file)) as writer:
        writer.reopen(0)
        writer.reopen(1)
        assert read(file, "images/status").tolist() == [0] * 5
        write(writer, 0, descriptors(1))
        writer.mark_done(0)
        writer.mark_done(2)
        writer.reopen(2)
    assert read(file, "images/status").tolist() == [DONE, PENDING, PENDING, 0, 0]
    assert read(file, "images/error")[0] == b""


def intercept(monkeypatch, *, write, sync):
    """Call ``write`` with the place before each write to the disk, and ``sync`` before each sync."""
    true_pwrite, true_sync = os.pwrite, os.fdatasync

    def pwrite(fd, content, at):
        write(at)
        return true_pwrite(fd, content, at)

    def fdatasync(fd):
        sync()
        return true_sync(fd)

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "fdatasync", fdatasync)


def test_status_follows_only_after_rows_are_on_the_disk(file, monkeypatch):
    """What the system is asked for, in order: rows, a sync, then status."""
    calls = []
    with h5py.File(file, "r") as opened:
        offset = opened["images/status"].id.get_offset()
    intercept(
        monkeypatch,
        write=lambda at: calls.append("status" if offset <= at < offset + 5 else "rows"),
        sync=lambda: calls.append("sync"),
    )
    writer = FeatureWriter(file, sync_seconds=1e-9)
    for image in range(3):
        write(writer, image, descriptors(1))
        writer.mark_done(image)
    writer.mark_failed(3, "no")
    writer.close()
    for i, call in enumerate(calls):
        if call == "status":
            assert calls[i - 1] in ("sync", "status")
    assert calls.count("status") == 4
    assert calls[-1] == "sync"


def test_status_waits_for_a_sync_and_comes_with_time(file, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("sppfeat.store.writer.time", SimpleNamespace(monotonic=lambda: now[0]))
    writer = FeatureWriter(file, sync_seconds=2)
    now[0] = 1.9
    write(writer, 0, descriptors(1))
    writer.mark_done(0)
    assert read(file, "images/status")[0] == PENDING
    now[0] = 2.1
    write(writer, 1, descriptors(1))
    writer.mark_done(1)
    assert read(file, "images/status")[:2].tolist() == [DONE, DONE]
    writer.close()


def test_rows_that_the_disk_lost_are_never_marked_done(file, monkeypatch):
    """After a sync that failed the next one succeeds, though the rows are gone."""
    errors = [OSError(errno.EIO, "Input/output error")]

    def fail_once():
        if errors:
            raise errors.pop()

    intercept(monkeypatch, write=lambda at: None, sync=fail_once)
    writer = FeatureWriter(file, sync_seconds=1e-9)
    write(writer, 0, descriptors(1))
    with pytest.raises(StoreError, match="Input/output error"):
        writer.mark_done(0)
    writer.close()
    assert read(file, "images/status")[0] == PENDING


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_an_interruption_while_the_file_is_closed_loses_no_mark(file, monkeypatch, moment):
    """A second signal may come just then; what was finished is marked all the same."""
    calls = itertools.count()

    def interrupt_once(*at):
        if next(calls) == moment:
            raise KeyboardInterrupt

    writer = FeatureWriter(file, sync_seconds=1000)
    for image in range(3):
        write(writer, image, descriptors(1))
        writer.mark_done(image)
    intercept(monkeypatch, write=interrupt_once, sync=interrupt_once)
    with pytest.raises(KeyboardInterrupt):
        writer.close()
    assert read(file, "images/status")[:4].tolist() == [DONE, DONE, DONE, PENDING]


def test_several_writers_fill_disjoint_rows(file):
    writers = [FeatureWriter(file) for _ in range(2)]
    rows = descriptors(5)
    for image in range(5):
        write(writers[image % 2], image, rows[image : image + 1])
        writers[image % 2].mark_done(image)
    for writer in writers:
        writer.close()
        writer.close()
    assert np.array_equal(read(file, "features"), rows)
    assert read(file, "images/status").tolist() == [DONE] * 5


@pytest.mark.parametrize("kind", ["gone", "text", "foreign", "cut"])
def test_a_file_that_cannot_be_filled_is_refused(file, kind):
    if kind == "gone":
        file.unlink()
    elif kind == "text":
        file.write_text("no HDF5")
    elif kind == "cut":
        os.truncate(file, file.stat().st_size - 1)
    else:
        with h5py.File(file, "r+") as opened:
            del opened["boxes"]
    before = file.read_bytes() if file.exists() else None
    with pytest.raises(StoreError, match=r"f\.h5"):
        FeatureWriter(file)
    assert before == (file.read_bytes() if file.exists() else None)


# --- any plan, any order --------------------------------------------------------------------------

PATHS = st.lists(
    st.binary(min_size=1, max_size=20).map(lambda path: path.replace(b"\0", b"0")),
    min_size=1,
    max_size=12,
    unique=True,
)
REASONS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=40)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(PATHS, st.data(), st.sampled_from(["float32", "float16"]))
def test_what_is_written_is_what_is_read(tmp_path, paths, data, dtype):
    n = len(paths)
    sizes = data.draw(st.lists(st.lists(st.integers(1, 99), min_size=2, max_size=2), min_size=n, max_size=n))
    labels = data.draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n))
    plan = plan_of(paths, sizes=sizes, labels=labels, classes=[b"a", b"\xff", b"c"])
    path = tmp_path / "f.h5"
    create_file(path, plan, config(dtype), BLOCKS)
    rows = descriptors(n).astype(dtype)
    expected = np.zeros(n, dtype=np.uint8)
    reasons = {}
    with contextlib.closing(FeatureWriter(path)) as writer:
        for image in data.draw(st.lists(st.integers(0, n - 1), max_size=20)):  # the last mark counts
            if data.draw(st.booleans()):
                write(writer, image, rows[image : image + 1])
                writer.mark_done(image)
                expected[image] = DONE
                reasons.pop(image, None)
            else:
                reasons[image] = data.draw(REASONS)
                writer.mark_failed(image, reasons[image])
                expected[image] = FAILED
            if data.draw(st.booleans()):
                writer.sync()
    with FeatureFile(path) as features:
        assert features.status.tolist() == expected.tolist()
        assert features.errors == reasons
        assert not features.read("images/error")[expected != FAILED].any()
        done = np.flatnonzero(expected == DONE)
        x, y = features.to_sklearn()
        assert np.array_equal(x, rows[done])
        assert y.tolist() == [labels[i] for i in done]
        assert np.isnan(features.features[expected == FAILED]).all()
        assert list(features.path_table) == paths
        assert features.image_hw.tolist() == sizes
        assert features.columns == BLOCKS
        assert features.config == config(dtype)


# --- the lock -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_lock_of_a_dead_process_blocks_nobody(tmp_path):
    output = tmp_path / "f.h5"
    code = "lock = OutputLock(Path(sys.argv[1]))\nprint('locked', flush=True)\nsignal.pause()"
    with run(code, output) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(StoreError, match=r"another process is writing '.*f.h5' \(it holds f.h5.lock\)"):
            OutputLock(output)
        process.kill()
    assert leftovers(tmp_path) == ["f.h5.lock"]
    with pytest.raises(LookupError), OutputLock(output), OutputLock(tmp_path / "other.h5"):
        raise LookupError
    assert leftovers(tmp_path) == []


CONTENDER = """
import time
output, counter = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(60):
    while True:
        try:
            lock = OutputLock(output)
            break
        except StoreError:
            time.sleep(0.0005)
    with lock:
        n = int(counter.read_text())
        time.sleep(0.0002)
        counter.write_text(str(n + 1))
"""


@pytest.mark.slow
def test_of_many_that_take_turns_never_two_have_the_lock(tmp_path):
    (tmp_path / "n").write_text("0")
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(run(CONTENDER, tmp_path / "f.h5", tmp_path / "n")) for _ in range(4)]
        assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "n").read_text() == "240"


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", raising(OSError(errno.ENOLCK, "No locks available")))
    with (
        pytest.warns(UserWarning, match=r"cannot lock \(No locks available\): make sure"),
        OutputLock(tmp_path / "f.h5"),
    ):
        pass
    assert leftovers(tmp_path) == []


def test_readers_are_not_kept_out(file):
    with OutputLock(file), FeatureFile(file) as features:
        assert features.n_images == 5
