"""Feature files that somebody made to do harm, or that time has damaged: a clear error, or a right answer."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from feature_files import BLOCKS, DIMENSION, config, new_file
from hostile_files import (
    PROPERTIES,
    N,
    edit,
    error_of,
    plain,
    read_everything,
    refused,
    use,
    whole_images,
    with_boxes,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from sppfeat.cli import main
from sppfeat.config.wording import one_line
from sppfeat.errors import StoreError
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import COLUMNS, ROW_COLUMNS
from sppfeat.store.verify import verify_file
from sppfeat.store.writer import FeatureWriter

HUGE = 10**12
TEXT = h5py.string_dtype("utf-8")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A file of each kind."""
    folder = tmp_path_factory.mktemp("pristine")
    return {make: make(folder / f"{make.__name__}.h5") for make in (whole_images, with_boxes)}


@pytest.fixture
def file(pristine, tmp_path):
    return Path(shutil.copy(pristine[whole_images], tmp_path / "f.h5"))


@pytest.fixture
def boxed(pristine, tmp_path):
    return Path(shutil.copy(pristine[with_boxes], tmp_path / "f.h5"))


def test_the_files_of_these_tests_are_good(tmp_path):
    for make in (whole_images, with_boxes):
        path = make(tmp_path / f"{make.__name__}.h5")
        with FeatureFile(path) as features:
            assert verify_file(features).problems == []
        use(path)


# --- settings ---------------------------------------------------------------------------------------

DEEP = "[" * 100_000
RECORDED = json.loads(config().to_json())
ODD_VALUES = [
    None,
    True,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    10**400,
    "",
    "abc",
    "a\n\x1b[2J",
    [],
    [[]],
    [["a"], {"b": 1}],
    {},
    {"a": [1]},
    [None],
    [10**400] * 3,
    [0.5, "x", 0.5],
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", [DEEP, '{"size": ' + DEEP, "9" * 5000, "[" + "9" * 5000 + "]", '"' + "x" * 10**6]
)
@pytest.mark.parametrize("name", ["config", "norm_factors"])
def test_json_that_python_cannot_take(file, name, text):
    edit(file, lambda f: f.attrs.create(name, text, dtype=TEXT))
    with FeatureFile(file) as features, pytest.raises(StoreError, match=f"attribute '{name}'") as raised:
        getattr(features, name)
    assert len(str(raised.value)) < 1000
    use(file)


@pytest.mark.slow
@pytest.mark.parametrize("make", [whole_images, with_boxes])
def test_settings_of_any_type_are_good_or_said(tmp_path, monkeypatch, make):
    with FeatureFile(make(tmp_path / "f.h5")) as features:
        recorded = json.loads(features.attribute("config"))
        for name in recorded:
            for value in ODD_VALUES:
                text = json.dumps({**recorded, name: value})
                monkeypatch.setattr(FeatureFile, "attribute", lambda file, name, text=text: text)
                vars(features).pop("config", None)
                said = error_of(lambda: features.config.fingerprint)
                assert said.isprintable()
                assert len(said) < 1000


def test_names_of_settings_reach_no_terminal_raw(file):
    edit(file, lambda f: f.attrs.modify("config", json.dumps({**RECORDED, "a\n\x1b[2J": 1})))
    result = CliRunner().invoke(main, ["info", str(file)])
    assert result.exit_code == 1
    assert "unknown settings: 'a\\n\\x1b[2J'" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    ["5", "null", "{}", '"123"', "[]", "[true]", "[0]", "[-1]", "[NaN]", "[Infinity]", "[[1]]", '["1"]', "{"],
)
def test_factors_that_are_no_positive_numbers(file, text):
    edit(file, lambda f: f.attrs.create("norm_factors", text, dtype=TEXT))
    with FeatureFile(file) as features:
        with pytest.raises(StoreError, match=r"'norm_factors' is .* allowed: a list of numbers above 0"):
            _ = features.norm_factors
        assert any("norm_factors" in problem for problem in verify_file(features).problems)


def test_factors_of_other_layers(file):
    edit(file, lambda f: f.attrs.create("norm_factors", "[1.5]", dtype=TEXT))
    with FeatureFile(file) as features:
        assert features.norm_factors == (1.5,)
        assert any("one factor per layer" in problem for problem in verify_file(features).problems)


# --- attributes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config", "input_root", "created", "weights_path", "norm_factors"])
def test_attributes_of_absurd_length(file, name):
    edit(file, lambda f: f.attrs.create(name, "x" * (2 << 20), dtype=TEXT))
    said = f"its attribute '{name}' has 2097152 characters; allowed: 1048576"
    if name in ("config", "input_root"):
        refused(file, said)
    with pytest.raises(StoreError, match=said), FeatureFile(file) as features:
        features.attribute(name)
    use(file)


ODD_ATTRIBUTES = [
    np.array(["x" * 100] * 100, dtype=object),
    h5py.Empty("S7"),
    h5py.Empty("i8"),
    np.zeros(3, dtype=[("a\n\x1b[2J", "i4"), ("b", "f8")]),
    np.zeros((), dtype=[("a\n\x1b[2J", "i4"), ("b", "f8")]),
    np.void(b"\0\1"),
    np.float16(1),
    np.bytes_(b"\xff\xfe\n"),
    10**15,
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["schema_version", "config", "norm_factors"])
def test_attributes_of_any_type(file, name):
    for value in ODD_ATTRIBUTES:
        kind = TEXT if isinstance(value, np.ndarray) and value.dtype == object else None
        edit(file, lambda f, value=value, kind=kind: f.attrs.create(name, value, dtype=kind))
        said = error_of(lambda: read_everything(file))
        assert said.isprintable()
        with FeatureFile(file) if not said else contextlib.nullcontext() as features:
            assert (
                features is None or error_of(lambda features=features: features.attribute(name)).isprintable()
            )
    use(file)


def test_an_attribute_of_many_texts_is_not_read(file):
    """Each may be the same long one."""
    edit(file, lambda f: f.attrs.create("created", ["x"] * 1000, dtype=TEXT))
    with FeatureFile(file) as features, pytest.raises(StoreError, match="no text attribute 'created'"):
        features.attribute("created")


# --- content that is not there ----------------------------------------------------------------------


def unwritten(name, n, **options):
    """An edit that makes a dataset claim ``n`` entries, and writes none."""

    def change(opened):
        old = opened[name]
        shape, kind = old.shape, old.dtype
        text = h5py.check_string_dtype(kind)
        del opened[name]
        opened.create_dataset(
            name, (n, *shape[1:]), dtype=TEXT if text and text.length is None else kind, **options
        )

    return change


@pytest.mark.parametrize(
    "name", ["features", "image_index", "images/rows", "images/path", "images/error", "classes"]
)
@pytest.mark.parametrize("n", [N, HUGE])
def test_chunks_that_were_never_written(file, name, n):
    def change(opened):
        per_image = {"R": n, "N": n} if n == HUGE else {}
        for other, (shape, _) in {**COLUMNS, "features": (("R",), "")}.items():
            if other == name or shape[0] in per_image:
                row = opened[other].shape[1:]
                unwritten(other, n, chunks=(1 << 20 if n == HUGE else 2, *row))(opened)

    edit(file, change)
    refused(file, "was not written: 0 of its [0-9]+ chunks are there")


def test_chunks_of_which_one_was_written(file):
    def change(opened):
        unwritten("classes", 10**9, chunks=(1,))(opened)
        opened["classes"][5] = b"cat"

    edit(file, change)
    refused(file, "/classes was not written: 1 of its 1000000000 chunks are there")


@pytest.mark.parametrize("name", ["features", "images/path", "boxes"])
def test_contiguous_content_that_was_never_written(file, name):
    edit(file, unwritten(name, N))
    refused(file, f"/{name} was never written")


def test_content_that_claims_more_than_compression_can(file):
    """A chunk of which a filter keeps a few bytes, whatever its size."""

    def change(opened):
        del opened["classes"]
        kind = np.dtype("S1000")
        opened.create_dataset(
            "classes", (1 << 20,), dtype=kind, chunks=(1 << 20,), compression="gzip", shuffle=True
        )
        opened["classes"].id.write_direct_chunk((0,), b"12345678")

    edit(file, change)
    refused(file, "/classes claims 1048576000 bytes of content in 8 bytes of the file; allowed: 2000 times")


def test_a_chunk_that_is_larger_than_the_dataset(file):
    def change(opened):
        del opened["classes"]
        opened.create_dataset(
            "classes", (2,), dtype="S8", chunks=(1 << 28,), maxshape=(None,), compression="gzip"
        )
        opened["classes"].id.write_direct_chunk((0,), b"12345678")

    edit(file, change)
    refused(file, "/classes claims 2147483648 bytes")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"compression": "gzip", "shuffle": True}, {}])
@pytest.mark.parametrize("make", [whole_images, with_boxes])
def test_every_dataset_repacked_still_reads(tmp_path, make, options):
    path = make(tmp_path / "f.h5")

    def change(opened):
        for name in ("features", *COLUMNS, *(ROW_COLUMNS if "row_flag" in opened else ())):
            values, kind = opened[name][()], opened[name].dtype
            del opened[name]
            chunks = tuple(min(2, side) for side in values.shape) if values.size else None
            opened.create_dataset(name, data=values, dtype=kind, chunks=chunks, **(options if chunks else {}))

    with FeatureFile(path) as features:
        no_boxes = () if features.has_boxes else ("row_", "box_")
        names = [name for name in PROPERTIES if name != "nbytes" and not name.startswith(no_boxes)]
        expected = {name: plain(getattr(features, name)) for name in names}
    del features  # maps of it hold HDF5's lock
    edit(path, change)
    with FeatureFile(path) as features:
        assert {name: plain(getattr(features, name)) for name in names} == expected
        assert verify_file(features).problems == []
    use(path)


def test_pending_rows_compress_very_well(tmp_path):
    path = new_file(tmp_path / "f.h5", n=20_000)

    def change(opened):
        values = opened["features"][()]
        del opened["features"]
        opened.create_dataset(
            "features", data=values, chunks=(20_000, DIMENSION), compression="gzip", compression_opts=9
        )

    edit(path, change)
    with FeatureFile(path) as features:
        assert features.features.shape == (20_000, DIMENSION)


# --- texts that lie elsewhere -----------------------------------------------------------------------


def aim_at_one_text(name, n, text, **options):
    """An edit: a dataset of ``n`` texts, all of which are the one long text at its beginning."""

    def change(opened):
        del opened[name]
        opened.create_dataset(name, data=[text] + [b""] * (n - 1), dtype=TEXT, **options)

    def spread(path):
        with h5py.File(path) as opened:
            place, info = opened[name].id, None
            if options:
                info = place.get_chunk_info(0)
                offset, nbytes = info.byte_offset, info.size
            else:
                offset, nbytes = place.get_offset(), n * 16
        content = bytearray(path.read_bytes())
        content[offset : offset + nbytes] = content[offset : offset + 16] * (nbytes // 16)
        path.write_bytes(content)

    return change, spread


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"chunks": (1000,)}])
@pytest.mark.parametrize("name", ["classes", "images/path"])
def test_many_texts_that_are_one_long_text(file, name, options, monkeypatch):
    monkeypatch.setattr("sppfeat.store.text_heaps._TEXTS_NBYTES", 1 << 20)
    n = 1000 if name == "classes" else N
    if options:
        options = {"chunks": (n,)}
    change, spread = aim_at_one_text(name, n, b"x" * 100_000, **options)
    edit(file, change)
    spread(file)
    with FeatureFile(file) as features:
        wanted = "path_table" if name == "images/path" else "classes"
        with pytest.raises(StoreError, match=f"the texts of /{name} claim more bytes than the file has"):
            getattr(features, wanted)
    use(file)


def test_texts_in_parts_are_all_there(boxed, monkeypatch):
    """Compact datasets and chunks are read in parts, rows or pieces of rows."""

    def change(opened):
        values = opened["row_extra"][()].repeat(7, axis=1)
        values[:, 1:6] = [[b"%d%d" % (i, j) for j in range(5)] for i in range(3)]
        del opened["row_extra"], opened["row_extra_names"]
        opened.create_dataset("row_extra", data=values, dtype=TEXT, chunks=(2, 3))
        opened.create_dataset("row_extra_names", data=[b"%d" % i for i in range(7)], dtype=TEXT)

    edit(boxed, change)
    with FeatureFile(boxed) as features:
        expected = features.row_extra
    assert expected["3"] == ["02", "12", "22"]
    for nbytes in (0, 3 * boxed.stat().st_size, 15 * boxed.stat().st_size):
        monkeypatch.setattr("sppfeat.store.text_heaps._TEXTS_NBYTES", nbytes)
        with FeatureFile(boxed) as features:
            assert features.row_extra == expected


@pytest.mark.parametrize("which", [0, 1])
def test_a_heap_that_hdf5_would_never_come_to_the_end_of(file, which):
    """Eight bytes that are zero: the length of the free space after the texts."""
    edit(file, lambda f: replaced_paths(f))
    content = bytearray(file.read_bytes())
    starts = [match.start() for match in re.finditer(b"GCOL", content)]
    assert len(starts) > 1
    at = starts[-which] + 16
    while int.from_bytes(content[at : at + 2], "little"):
        at += 16 + -(-int.from_bytes(content[at + 8 : at + 16], "little") // 8) * 8
    content[at + 8 : at + 16] = bytes(8)
    file.write_bytes(content)
    if which == 0:
        refused(file, "damaged: a heap of texts has free space of 0 bytes")
    else:
        with FeatureFile(file) as features, pytest.raises(StoreError, match="free space of 0 bytes"):
            _ = features.paths
        use(file)


def replaced_paths(opened):
    """Texts that fill a heap of their own, behind the beginning of the file."""
    opened.create_dataset("filler", data=np.ones(100_000))
    del opened["images/path"]
    opened.create_dataset("images/path", data=[b"%d" % i + b"x" * 3000 for i in range(N)], dtype=TEXT)


# --- other files ------------------------------------------------------------------------------------


def link(name, value):
    def change(opened):
        del opened[name]
        opened[name] = value

    return change


@pytest.mark.parametrize("name", ["features", "images/path", "images", "columns"])
def test_links_to_other_files_are_refused(file, name, tmp_path):
    whole_images(tmp_path / "other.h5")
    edit(file, link(name, h5py.ExternalLink("other.h5", f"/{name}")))
    refused(file, "is a link to another file; allowed: datasets of this file")


def test_soft_links_lead_to_other_files_too(file, tmp_path):
    whole_images(tmp_path / "other.h5")
    edit(file, link("columns", h5py.SoftLink("/elsewhere")))
    edit(file, lambda f: f.__setitem__("elsewhere", h5py.ExternalLink("other.h5", "/columns")))
    refused(file, "is a link to another file")


def test_a_link_alone_makes_no_boxes(file, tmp_path):
    edit(file, lambda f: f.__setitem__("row_id", h5py.ExternalLink("other.h5", "/row_id")))
    refused(file, "has no dataset /row_source")


def test_links_in_circles(file):
    edit(file, link("columns", h5py.SoftLink("/columns/columns")))
    refused(file, "more than 16 soft links|damaged")


@pytest.mark.parametrize(
    "target", ["/elsewhere", "elsewhere", "./elsewhere/", "images/../elsewhere", "/images/up/elsewhere"]
)
def test_links_inside_the_file_are_fine(file, target):
    def change(opened):
        opened["elsewhere"] = opened["columns"]
        opened["images/up"] = opened["/"]
        link("columns", h5py.SoftLink(target))(opened)

    edit(file, change)
    if ".." in target:  # no such thing in HDF5
        refused(file, "has no dataset /columns")
    else:
        with FeatureFile(file) as features:
            assert features.columns == BLOCKS


def test_virtual_and_external_datasets_are_refused(file, tmp_path):
    whole_images(tmp_path / "other.h5")
    (tmp_path / "secret").write_bytes(bytes(1000))

    def virtual(opened):
        del opened["features"]
        layout = h5py.VirtualLayout((N, DIMENSION), "<f4")
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "features", (N, DIMENSION))
        opened.create_virtual_dataset("features", layout)

    def external(opened):
        del opened["features"]
        opened.create_dataset(
            "features", (N, DIMENSION), "<f4", external=[(str(tmp_path / "secret"), 0, 1000)]
        )

    for change, kind in ((virtual, "virtual"), (external, "external")):
        edit(file, change)
        refused(file, f"/features is {kind}, its content lies in other files")


@pytest.mark.slow
def test_no_other_file_is_opened(tmp_path):
    """A pipe in the place of the other file: who opens it waits for ever."""
    os.mkfifo(tmp_path / "pipe")
    for i, kind in enumerate(("link", "soft", "virtual", "external")):
        path = whole_images(tmp_path / f"{i}.h5")
        with h5py.File(path, "r+") as opened:
            del opened["features"]
            if kind == "virtual":
                space = h5py.h5s.create_simple((N, DIMENSION), (h5py.h5s.UNLIMITED, DIMENSION))
                space.select_hyperslab((0, 0), (h5py.h5s.UNLIMITED, 1), None, (1, DIMENSION))
                properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                properties.set_virtual(space, os.fsencode(tmp_path / "pipe"), b"features", space)
                h5py.h5d.create(opened.id, b"features", h5py.h5t.IEEE_F32LE, space, properties)
            elif kind == "external":
                opened.create_dataset(
                    "features", (N, DIMENSION), "<f4", external=[(str(tmp_path / "pipe"), 0, 1000)]
                )
            else:
                opened["features" if kind == "link" else "away"] = h5py.ExternalLink("pipe", "/features")
                if kind == "soft":
                    opened["features"] = h5py.SoftLink("/away")
    code = """
import sys, sppfeat
from sppfeat.errors import StoreError
for path in sys.argv[1:]:
    try:
        sppfeat.open(path).features
    except StoreError as error:
        print(error)
"""
    paths = [str(tmp_path / f"{i}.h5") for i in range(4)]
    out = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=60, check=True
    )
    assert len(out.stdout.splitlines()) == 4


# --- places in the file -----------------------------------------------------------------------------


def move(path, name, to):
    """Make a contiguous dataset lie elsewhere in the file: its address, in the one place where it stands."""
    with h5py.File(path) as opened:
        offset, nbytes = opened[name].id.get_offset(), opened[name].id.get_storage_size()
        to = to if isinstance(to, int) else opened[to].id.get_offset()
    old = offset.to_bytes(8, "little") + nbytes.to_bytes(8, "little")
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, to.to_bytes(8, "little") + old[8:]))


@pytest.mark.parametrize(
    ("name", "onto"), [("images/status", "features"), ("boxes", "features"), ("features", "boxes")]
)
def test_datasets_that_share_bytes(file, name, onto):
    move(file, name, onto)
    refused(file, "share bytes of the file; each has its own")
    with pytest.raises(StoreError, match="share bytes"):
        FeatureWriter(file)


def test_a_dataset_by_two_names(boxed):
    edit(boxed, lambda f: f.__delitem__("row_mirrored"))
    edit(boxed, lambda f: f.__setitem__("row_mirrored", f["row_flag"]))
    refused(boxed, "/row_flag and /row_mirrored share bytes|/row_mirrored and /row_flag share bytes")


@pytest.mark.parametrize("name", ["features", "images/error", "images/path"])
def test_a_dataset_behind_the_end(file, name):
    move(file, name, file.stat().st_size - 10)
    refused(file, f"cannot open /{name}: .*invalid dataset size|/{name} ends behind the end of the file")


def test_a_file_with_a_block_of_the_user_before_it(tmp_path, file):
    """Places are counted from the beginning of the file, not of HDF5's part of it."""
    with h5py.File(file) as source, h5py.File(tmp_path / "u.h5", "w", userblock_size=1024) as target:
        for name in source:
            source.copy(name, target)
        for name, value in source.attrs.items():
            target.attrs[name] = value
    with FeatureFile(file) as a, FeatureFile(tmp_path / "u.h5") as b:
        assert isinstance(b.features, np.memmap)
        assert np.array_equal(a.features, b.features, equal_nan=True)
        assert np.array_equal(a.status, b.status)
        assert a.paths == b.paths


def test_a_file_that_is_cut_while_it_is_open(file):
    with FeatureFile(file) as features:
        os.truncate(file, file.stat().st_size // 2)
        for name in ("features", "status", "boxes", "path_table", "classes", "labels", "image_rows"):
            with pytest.raises(StoreError, match="was cut short since it was opened"):
                getattr(features, name)


# --- types ------------------------------------------------------------------------------------------


def odd_type(kind):
    if kind == "fewer bits":
        made = h5py.h5t.STD_I64LE.copy()
        made.set_precision(40)
    elif kind == "bits elsewhere":
        made = h5py.h5t.STD_I64LE.copy()
        made.set_precision(40)
        made.set_offset(8)
    else:
        made = h5py.h5t.enum_create(h5py.h5t.STD_I64LE)
        made.enum_insert(b"a\n", 1)
    return made


@pytest.mark.parametrize("kind", ["fewer bits", "bits elsewhere", "enumeration"])
def test_integers_of_a_strange_make(file, kind):
    def change(opened):
        del opened["image_index"]
        space = h5py.h5s.create_simple((N,))
        made = h5py.h5d.create(opened.id, b"image_index", odd_type(kind), space)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(N))

    edit(file, change)
    refused(file, "/image_index is stored as a type of its own; allowed: plain <i8|/image_index is int64")


def test_floats_of_a_strange_make(file):
    def change(opened):
        del opened["features"]
        made = h5py.h5t.IEEE_F32LE.copy()
        made.set_fields(31, 22, 9, 0, 22)
        h5py.h5d.create(opened.id, b"features", made, h5py.h5s.create_simple((N, DIMENSION)))
        opened["features"][:] = 1

    edit(file, change)
    refused(file, "/features is (stored as a type of its own|float)")


def test_a_committed_type_is_a_type(file):
    def change(opened):
        opened["my type"] = np.dtype("<i8")
        del opened["image_index"]
        opened.create_dataset("image_index", data=np.arange(N), dtype=opened["my type"])

    edit(file, change)
    with FeatureFile(file) as features:
        assert features.image_index.tolist() == list(range(N))


def test_types_with_names_that_steer_terminals(file):
    def change(opened):
        del opened["boxes"]
        opened["boxes"] = np.zeros(N, dtype=[("a\n\x1b[2J" + "x" * 1000, "<f8")])

    edit(file, change)
    refused(file, "/boxes is")


# --- values -----------------------------------------------------------------------------------------


def set_items(name, index, value):
    return lambda opened: opened[name].__setitem__(index, value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (set_items("images/status", 4, 7), "1 image has an unknown status: images 4"),
        (set_items("images/label", 0, 2), "1 image has a label that no class has: images 0"),
        (set_items("images/label", 5, -2), "1 image has a label that no class has: images 5"),
        (set_items("images/size", (1, 0), -5), "1 image has a size below 0: images 1"),
        (set_items("images/path", 1, b"0.jpg"), "/images/path names an image twice"),
        (
            set_items("images/path", 1, b"/etc/passwd"),
            "1 image has a path that is none below the root: images 1",
        ),
        (set_items("images/path", 1, b""), "1 image has a path that is none below the root: images 1"),
        (set_items("classes", 1, b"cat"), "/classes names a class twice"),
        (set_items("image_index", 0, 1), "/image_index and /images/rows contradict each other"),
    ],
)
def test_values_that_cannot_be_are_found_by_verify(file, change, problem):
    edit(file, change)
    with FeatureFile(file) as features:
        assert problem in verify_file(features).problems
    use(file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (set_items("row_scale", 1, 33), "1 row has a scale that the attribute 'config' has not: 1"),
        (set_items("row_flag", 1, 8), "1 row has an unknown flag: 1"),
        (set_items("row_region", (1, 0, 0), 9), "1 row has a descriptor, but of no region: 1"),
    ],
)
def test_values_of_boxes_that_cannot_be_are_found_by_verify(boxed, change, problem):
    edit(boxed, change)
    with FeatureFile(boxed) as features:
        assert problem in verify_file(features).problems
    use(boxed)


@pytest.mark.parametrize(
    ("name", "value"), [("row_source", 9), ("row_label", 3), ("row_label", -2), ("box_row", 3)]
)
def test_numbers_of_boxes_that_name_nothing(boxed, name, value):
    edit(boxed, set_items(name, 0, value))
    refused(boxed, f"/{name} holds numbers outside")


def test_regions_of_another_number_of_layers(boxed):
    def change(opened):
        del opened["row_region"]
        opened["row_region"] = np.tile(np.array([0, 0, 1, 1], dtype="<i4"), (3, 5, 1))

    edit(boxed, change)
    with FeatureFile(boxed) as features:
        assert "/row_region has 5 layers, the attribute 'config' 2" in verify_file(features).problems


def columns(**values):
    def change(opened):
        for name, numbers in values.items():
            del opened[f"columns/{name}"]
            opened.create_dataset(f"columns/{name}", data=numbers, dtype=TEXT if name == "layer" else "<i8")

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            columns(layer=["a"], level=[1], channels=[2**63 - 1], start=[0], stop=[2**63 - 1]),
            "does not describe",
        ),
        (columns(layer=["a"], level=[2**32], channels=[15], start=[0], stop=[15]), "does not describe"),
        (columns(layer=["a"], level=[-1], channels=[15], start=[0], stop=[15]), "does not describe"),
        (
            columns(layer=["a", "b"], level=[1, 1], channels=[-5, 20], start=[0, -5], stop=[-5, 15]),
            "without channels",
        ),
        (
            columns(layer=["a"] * 16, level=[1] * 16, channels=[1] * 16, start=[0] * 16, stop=[15] * 16),
            "16 blocks",
        ),
        (columns(layer=[], level=[], channels=[], start=[], stop=[]), "0 blocks of 15 columns"),
        (columns(layer=[b"\xff"] * 4), "damaged"),
    ],
)
def test_columns_that_cannot_be(file, change, said):
    edit(file, change)
    refused(file, said)


def test_descriptors_without_columns(file):
    def change(opened):
        columns(layer=[], level=[], channels=[], start=[], stop=[])(opened)
        del opened["features"]
        opened["features"] = np.zeros((N, 0), dtype="<f4")

    edit(file, change)
    refused(file, "0 blocks of 0 columns")


def test_no_rows_of_very_many_columns(file):
    """A dimension costs nothing where there are no rows."""

    def change(opened):
        for name, (shape, kind) in {**COLUMNS, "features": (("R", 10**15), "<f4")}.items():
            if shape[0] in ("R", "N"):
                del opened[name]
                opened.create_dataset(name, (0, *shape[1:]), dtype=TEXT if kind == "string" else kind)
        columns(layer=["a"], level=[1], channels=[10**15], start=[0], stop=[10**15])(opened)

    edit(file, change)
    with FeatureFile(file) as features:
        assert verify_file(features).rows == 0
    use(file)


@pytest.mark.slow
def test_very_many_classes_and_scales_take_no_time(boxed):
    """Counting is not a pass over the labels for each."""
    n = 60_000

    def change(opened):
        for name in ("classes", "row_classes"):
            del opened[name]
            opened.create_dataset(name, data=[b"%d" % i for i in range(n)], dtype=TEXT)

    edit(boxed, change)
    found = json.loads(CliRunner().invoke(main, ["info", "--json", str(boxed)]).stdout)
    assert len(found["classes"]) == n
    assert found["boxes"]["classes"]["1"] == 1


def test_classes_by_one_name_are_counted_together(file):
    edit(file, set_items("classes", 1, b"cat"))
    found = json.loads(CliRunner().invoke(main, ["info", "--json", str(file)]).stdout)
    assert found["classes"] == {"cat": 5}


def test_an_unknown_status_is_not_complete(file):
    edit(file, set_items("images/status", slice(4, 6), 7))
    assert json.loads(CliRunner().invoke(main, ["info", "--json", str(file)]).stdout)["complete"] is False
    result = CliRunner().invoke(main, ["info", str(file)])
    assert "incomplete" in result.stdout
    assert "2 of no known status" in result.stdout


# --- the terminal -----------------------------------------------------------------------------------


def test_nothing_of_a_file_steers_the_terminal(boxed):
    evil = "a\x1b[2J\r\nroot:      /fake\x07\u202e\x9b"

    def change(opened):
        for name in ("row_classes", "classes"):
            del opened[name]
            opened.create_dataset(name, data=[evil, evil + "2", evil + "3"], dtype=TEXT)
        opened["columns/layer"][:] = evil
        for name in ("input_root", "created", "sppfeat_version", "boxes_path", "fingerprint"):
            opened.attrs.create(name, evil, dtype=TEXT)
        opened["images/path"][1] = evil
        opened["images/status"][1] = 2
        opened["images/error"][1] = evil.encode() + b"\xff"
        recorded = {**json.loads(opened.attrs["config"]), "backbone": evil, "weights": evil}
        opened.attrs.create("config", json.dumps(recorded), dtype=TEXT)

    edit(boxed, change)
    use(boxed)
    result = CliRunner().invoke(main, ["info", str(boxed)])
    assert result.exit_code == 0
    assert not [
        line for line in result.stdout.splitlines() if line.startswith("root:") and "fake" in line[:30]
    ]
    assert all(character.isprintable() or character == "\n" for character in result.stdout)
    assert re.search(r"root: +a\\x1b\[2J\\r\\nroot: +/fake\\x07\\u202e\\x9b", result.stdout)


def test_what_an_error_quotes_is_cut():
    assert one_line("x" * 300) == "x" * 300
    assert one_line("x" * 301) == "x" * 297 + "..."
    assert one_line("\x1b" * 300, longest=11) == "\\x1b\\x1b..."


# --- any bytes --------------------------------------------------------------------------------------


FLIPS = st.lists(
    st.tuples(
        st.integers(0, 1 << 20),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from([bytes(8), b"\xff" * 8, b"\x01", b"\x7f", (2**63 - 1).to_bytes(8, "little")]),
        ),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.slow
@settings(max_examples=25, derandomize=True)
@given(st.sampled_from([whole_images, with_boxes]), FLIPS)
def test_a_file_with_other_bytes_is_read_or_refused(pristine, tmp_path, make, flips):
    content = bytearray(pristine[make].read_bytes())
    for at, replacement in flips:
        at %= len(content)
        content[at : at + len(replacement)] = replacement
    path = tmp_path / "f.h5"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    use(path)
