"""Parts of a feature file: rows and columns against plain loops, labels from anywhere, scaling done again."""

import itertools
import os
import re
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from feature_files import (
    BLOCKS,
    CHANNELS,
    DIMENSION,
    LAYERS,
    LEVELS,
    config,
    descriptors,
    fill,
    new_file,
    plan_of,
)
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.errors import ConfigError, LabelError, LabelWarning, StoreError
from sppfeat.store.descriptor_columns import select_columns
from sppfeat.store.layout import create_file
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import column_blocks

PATHS = [b"a/1.jpg", b"a/2.jpg", b"b/1.jpg", b"b/2.jpg", b"b/3.jpg", b"\xff.jpg"]
N = len(PATHS)
HAVE = [0, 1, 2, 4, 5]  # 3 failed


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Six images of which number 3 failed; cat, cat, dog, dog, bird, none."""
    path = tmp_path_factory.mktemp("selection") / "f.h5"
    plan = plan_of(PATHS, labels=[0, 0, 1, 1, 2, -1], classes=[b"cat", b"dog", b"bird"])
    create_file(path, plan, config(), BLOCKS)
    return fill(path, descriptors(N), failed=[3])


@pytest.fixture
def file(path):
    with FeatureFile(path) as opened:
        yield opened


def with_normalize(path: Path, copy: Path, normalize: str) -> Path:
    """A copy of a file that says that it was scaled."""
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "r+") as opened:
        text = opened.attrs["config"].replace('"normalize":"none"', f'"normalize":"{normalize}"')
        assert f'"{normalize}"' in text
        opened.attrs["config"] = text
    return copy


# --- columns --------------------------------------------------------------------------------------


def wanted_columns(layers, levels, bins):
    """Plain loops over every column of a descriptor: which are wanted, and what they are called."""
    numbers, names, at = [], [], 0
    for layer, n_channels in zip(LAYERS, CHANNELS, strict=True):
        for n in LEVELS:
            for channel, row, column in itertools.product(range(n_channels), range(n), range(n)):
                in_bins = n not in (bins or {}) or (row, column) in bins[n]
                if (layers is None or layer in layers) and (levels is None or n in levels) and in_bins:
                    numbers.append(at)
                    names.append(f"{layer}:{n}:{channel}" + (f":{row}:{column}" if n > 1 else ""))
                at += 1
    return numbers, names


SOME_LAYERS = st.none() | st.lists(st.sampled_from(LAYERS), min_size=1, unique=True)
SOME_LEVELS = st.none() | st.lists(st.sampled_from(LEVELS), min_size=1, unique=True)
SOME_BINS = st.none() | st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, unique=True
).map(lambda bins: {2: bins})


@pytest.mark.slow
@given(layers=SOME_LAYERS, levels=SOME_LEVELS, bins=SOME_BINS)
def test_columns_are_those_of_plain_loops(path, layers, levels, bins):
    if bins and levels is not None and 2 not in levels:
        bins = None
    numbers, names = wanted_columns(layers, levels, bins)
    columns = select_columns(BLOCKS, layers=layers, levels=levels, bins=bins)
    assert columns.numbers.tolist() == numbers
    assert list(columns.names()) == names
    assert columns.width == len(numbers)
    for layer, part in columns.layer_ranges().items():
        assert all(name.startswith(layer) for name in names[part])
    with FeatureFile(path) as file:
        x, y = file.to_sklearn(layers=layers, levels=levels, bins=bins)
        assert np.array_equal(x, descriptors(N)[HAVE][:, numbers])
        assert y.tolist() == [0, 0, 1, 2, -1]


def test_blocks_of_some_levels_describe_what_is_selected(file):
    assert select_columns(BLOCKS, levels=2).blocks == tuple(
        column_blocks([layer], [n], [2])[0]._replace(start=start, stop=start + 4 * n)
        for layer, n, start in zip(LAYERS, CHANNELS, (0, 8), strict=True)
    )
    with pytest.raises(ConfigError, match="some bins of level 2 do not form a grid"):
        _ = select_columns(BLOCKS, bins={2: [(0, 0)]}).blocks


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"layers": "layer9"}, "layers are layer9; in this file: layer3, layer4"),
        ({"layers": []}, "layers are none"),
        ({"levels": [1, 3]}, "levels are 3; in this file: 1, 2"),
        ({"bins": {3: [(0, 0)]}}, "levels of bins are 3; in this file: 1, 2"),
        ({"bins": {2: [(0, 2)]}}, r"bin \(0, 2\) of level 2; allowed: rows and columns 0 to 1"),
        ({"bins": {2: []}}, "no bins of level 2"),
    ],
)
def test_columns_that_there_are_not(file, choice, message):
    with pytest.raises(ConfigError, match=message):
        file.select(**choice)


def test_a_range_of_columns_and_rows_is_not_copied(file):
    part = file.select(rows=slice(0, 3), layers="layer3")
    assert np.shares_memory(part.X, file.features)
    assert not part.X.flags.writeable
    assert not np.shares_memory(file.select(levels=1).X, file.features)


# --- scaling --------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", ["l2", "power"])
def test_what_is_left_of_a_layer_is_scaled_again(path, tmp_path, normalize):
    copy = with_normalize(path, tmp_path / "scaled.h5", normalize)
    rows = descriptors(N)[HAVE]
    rows[1, 2:10] = 0  # of level 2 of layer3
    rows[2, 2:10] = 1e-30
    with h5py.File(copy, "r+") as opened:
        opened["features"][HAVE] = rows
    with FeatureFile(copy) as file:
        x, _ = file.to_sklearn(levels=2)
        for row, got in zip(rows, x, strict=True):
            for layer_part, got_part in ((row[2:10], got[:8]), (row[11:15], got[8:])):
                norm = np.linalg.norm(layer_part.astype(np.float64))
                assert np.allclose(got_part, layer_part / norm if norm else layer_part, rtol=1e-6, atol=0)
        assert np.array_equal(file.to_sklearn(layers="layer4")[0], rows[:, 10:])  # whole, so as it is
        assert np.array_equal(file.to_sklearn()[0], rows)
    with FeatureFile(path) as file:
        assert np.array_equal(file.to_sklearn(levels=1)[0], descriptors(N)[HAVE][:, [0, 1, 10]])


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (None, HAVE),
        (slice(1, 5), [1, 2, 4]),
        ([4, 0, 0], [4, 0, 0]),
        ([], []),
        (np.array([True] * N), HAVE),
        ("1:4", [1, 2]),
        (":", HAVE),
        ("-2:", [4, 5]),
        ("::2", [0, 2, 4]),
        ("4,0", [4, 0]),
        ("label=cat", [0, 1]),
        (["label=cat", "label=b*"], [0, 1, 4]),
        ("label=*", [0, 1, 2, 4]),
        (["label=*", "1:3"], [1, 2]),
        ("image=a/*", [0, 1]),
        ("image=1.jpg", [0, 2]),
        ("image=b/1.jpg", [2]),
        ("image=\udcff.jpg", [5]),
        (["image=?/2.jpg", "status=any"], [1, 3]),
        ("status=failed", [3]),
        (["status=done", "status=failed"], [0, 1, 2, 3, 4, 5]),
        ("status=pending", []),
        (["3,0", "status=any"], [3, 0]),
    ],
)
def test_which_rows(file, rows, expected):
    selection = file.select(rows=rows)
    assert selection.rows.tolist() == expected
    assert selection.groups.tolist() == expected  # whole images: a row each
    assert selection.paths == [os.fsdecode(PATHS[i]) for i in expected]
    good = [row for row in expected if row != 3]
    x = selection.X
    assert np.array_equal(x[[row != 3 for row in expected]], descriptors(N)[good])
    assert np.isnan(x[[row == 3 for row in expected]]).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("lable=cat", "rows are 'lable=cat'; allowed: A:B, "),
        ("cat", "allowed: A:B"),
        ("label=", "allowed: A:B"),
        ("label=cow", "rows are label=cow, which fits none of 'cat', 'dog', 'bird'"),
        ("image=x/*", "fits none of 'a/1.jpg'"),
        ("status=broken", "allowed: status=pending|done|failed|any"),
        ("flag=ok", "rows of this file are whole images, not boxes"),
        ("flag=fine", "allowed: flag=ok"),
        (["1:2", "3:4"], "allowed: numbers or a range once"),
        ("::0", "a step of 1 or more"),
        ("6", "row 6 of 6; allowed: 0 to 5"),
        ("999999999999999999", "allowed: 0 to 5"),
        pytest.param(f"0,{'9' * 5000}", "allowed: A:B", id="more digits than Python reads"),
        ([-1], "row -1 of 6"),
        ("3", "row 3 ('b/2.jpg') has no descriptor"),
        ([3], "has no descriptor"),
        (np.array([True]), "a mask of shape (1,); allowed: (6,)"),
        (np.array([1.5]), "float64 of shape"),
        ([[1, 2]], "int64 of shape"),
    ],
)
def test_rows_that_there_are_not(file, rows, message):
    with pytest.raises(ConfigError) as error:
        file.select(rows=rows)
    assert message in str(error.value)


# --- labels ---------------------------------------------------------------------------------------


def table(folder: Path, text: str, name="labels.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na/1.jpg,x\nb/1.jpg,y\nb/3.jpg,x\nunknown.jpg,z\n",
        "\ufefflabel,other,image\nx,,a/1\ny,,b/1.jpg\nx,,b/3.jpg\n\nz,,unknown.jpg\n",
        "path, label\na/1.jpg, x\nb/1.jpg ,y \nb/3.jpg,\tx\nunknown.jpg,z\n,\n",
        "path,class\r\na/1.jpg,x\r\na/1.jpg,x\r\nb/1.jpg,y\r\nb/3.jpg,x\r\na/2.jpg,\r\nunknown.jpg,y\r\n",
    ],
)
def test_labels_of_a_table_by_path(file, tmp_path, text):
    selection = file.select(labels=table(tmp_path, text))
    assert [selection.target_names[i] if i >= 0 else None for i in selection.y] == ["x", None, "y", "x", None]
    assert selection.labels.n_unknown == 1


@pytest.mark.parametrize("how", ["by path", "by row", "mapping", "array"])
def test_classes_are_numbered_in_natural_order_wherever_labels_come_from(file, tmp_path, how):
    names = ["10", "2", "1", "", "B", "a3"]
    paths = [os.fsdecode(path) for path in PATHS]
    labels = {
        "by path": lambda: table(tmp_path, "path,label\n" + "".join(map("{},{}\n".format, paths, names))),
        "by row": lambda: table(tmp_path, "row,label\n" + "".join(map("{},{}\n".format, range(N), names))),
        "mapping": lambda: dict(zip(paths, names, strict=True)),
        "array": lambda: names,
    }[how]()
    selection = file.select(labels=labels)
    assert selection.target_names == ["1", "2", "10", "a3", "B"]
    assert selection.y.tolist() == [2, 1, 0, 4, 3]


def test_blanks_around_a_label_are_not_part_of_it(file, tmp_path):
    for text in ("path,label\na/1.jpg, x\na/2.jpg,x \nb/1, \n", "row,label\n0,x\n1,\tx\n2,  \n"):
        selection = file.select(labels=table(tmp_path, text), rows=[0, 1, 2])
        assert (selection.target_names, selection.y.tolist()) == (["x"], [0, 0, -1])


def test_rows_of_a_table_are_those_of_its_paths(file, tmp_path):
    text = "row,path,label\n0,a/1.jpg,x\n2,elsewhere.jpg,y\n4,b/3.jpg,y\n"
    assert file.select(labels=table(tmp_path, text), rows=[0, 2, 4]).y.tolist() == [0, 1, 1]
    message = "line 4: row 4 belongs to 'b/3.jpg', but the path is 'a/2.jpg'; use the rows of this file, or"
    with pytest.raises(LabelError, match=message):
        file.select(labels=table(tmp_path, text.replace("b/3", "a/2")))


@pytest.mark.parametrize(
    ("labels", "rows", "notes"),
    [
        ({"a/1.jpg": "x", "z.jpg": "y"}, None, ["1 of 2 names matches no image of '", "4 of 5 rows have no"]),
        ({"a/1.jpg": "x", "a/2.jpg": "y"}, "image=a/*", []),
        ({"a/1.jpg": "x"}, [0, 1], ["1 of 2 rows has no label"]),
        ({"a/1.jpg": None, "a/2.jpg": float("nan")}, [0, 1], ["2 of 2 rows have no label"]),
        ("row,label\n1,x\n", None, ["4 of 5 rows have no label"]),
        (
            "path,label\na/1,x\nu,x\nv,x\nw,x\nt,x\n",
            [0],
            ["4 of 5 names match no image of '", ": 'u', 'v', 'w', ..."],
        ),
        (["x", "", None, "y", "x", "y"], None, []),
        (None, None, []),
        ("image", None, []),
    ],
)
def test_what_labels_leave_unmatched_is_counted(file, tmp_path, labels, rows, notes):
    source, said = labels, "the labels"
    if isinstance(labels, str) and "," in labels:
        source, said = table(tmp_path, labels), repr(str(tmp_path / "labels.csv"))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        file.select(labels=source, rows=rows)
    told = "\n".join(str(warning.message) for warning in found)
    assert all(warning.category is LabelWarning for warning in found)
    assert all(line.startswith(f"{said}: ") for line in told.splitlines())
    assert all(note in told for note in notes)
    assert bool(told) == bool(notes)


# --- class numbers --------------------------------------------------------------------------------


@pytest.fixture
def val(tmp_path):
    """Cat and bird, and one of no class: without the dogs of the other file."""
    return fill(
        new_file(tmp_path / "val.h5", n=3, labels=[0, 1, -1], classes=[b"bird", b"cat"]), descriptors(3)
    )


@pytest.mark.parametrize("like", ["file", "path", "selection", "classes"])
def test_two_files_get_the_same_class_numbers(file, path, val, like):
    given = {
        "file": {"like": file},
        "path": {"like": os.fsencode(path)},
        "selection": {"like": file.select(rows="label=cat")},
        "classes": {"classes": np.array(["cat", "dog", "bird"])},
    }[like]
    with FeatureFile(val) as other:
        assert other.to_sklearn()[1].tolist() == [0, 1, -1]
        assert other.to_sklearn(**given)[1].tolist() == [2, 0, -1]
        selection = other.select(**given)
        assert selection.target_names == ["cat", "dog", "bird"]
        assert selection.to_pandas()["label"].cat.codes.tolist() == [2, 0, -1]
        assert selection.to_torch_dataset().target_names == ["cat", "dog", "bird"]
        assert np.concatenate([y for _, y in other.iter_batches(2, **given)]).tolist() == [2, 0, -1]
        assert other.select(rows="label=cat", **given).y.tolist() == [0]


def test_classes_of_the_labels_that_are_asked_for(file, val):
    labels = {"0.jpg": "y", "1.jpg": "x", "2.jpg": "x"}
    like = file.select(labels={"a/1.jpg": "y", "a/2.jpg": "x", "b/1.jpg": "w"})
    with FeatureFile(val) as other:
        assert other.select(labels=labels, like=like).y.tolist() == [2, 1, 1]


def test_the_file_that_numbers_the_rows_may_be_closed(path, val):
    with FeatureFile(path) as train:
        train.to_sklearn()
    with FeatureFile(val) as other:
        assert other.to_sklearn(like=train)[1].tolist() == [2, 0, -1]
    for call in (train.to_sklearn, train.select, lambda: train.status):
        with pytest.raises(StoreError, match=rf"'{path}' is closed; open it again"):
            call()


def test_class_names_instead_of_numbers(file):
    x, names = file.to_sklearn(names=True)
    assert (len(x), names.tolist()) == (5, ["cat", "cat", "dog", "bird", ""])
    assert file.select(rows="label=dog").to_sklearn(names=True)[1].tolist() == ["dog"]
    batches = [y for _, y in file.iter_batches(2, names=True)]
    assert np.concatenate(batches).tolist() == names.tolist()
    assert file.to_sklearn(names=True, labels="box")[1] is None
    assert file.to_sklearn(names=True, labels=list("xyxyxz"))[1].tolist() == list("xyxxz")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"classes": ["cat", "bird"]},
            "1 row has a class that classes lacks: 'dog' 1; allowed: 'cat', 'bird'. Leave such rows out with",
        ),
        (
            {"classes": ["cat", "bird", "cat", "dog"]},
            "classes holds 'cat' 2 times; allowed: class names as text",
        ),
        ({"classes": [0, 1, 2]}, "classes holds 0; allowed: class names as text, each once"),
        ({"classes": ["cat", ["dog"]]}, "classes holds ['dog']; allowed: class names as text, each once"),
        ({"classes": []}, "classes is empty; allowed: a sequence of class names"),
        (
            {"like": ["cat"]},
            "like is ['cat']; allowed: a feature file, its path, or a selection (class names",
        ),
        ({"classes": "cat"}, "classes is 'cat'; allowed: a sequence of class names, in the order"),
        ({"classes": {"cat": 0, "dog": 1}}, "classes is {'cat': 0, 'dog': 1}; allowed: a sequence"),
        (
            {"classes": ["a"], "labels": [1, 0, 1, 0, 1, 0]},
            "classes needs class names, but the labels are numbers",
        ),
        ({"names": True, "labels": [1, 0, 1, 0, 1, 0]}, "names=True needs class names, but the labels are"),
    ],
)
def test_classes_that_do_not_number_the_rows(file, given, message):
    with pytest.raises(LabelError) as error:
        file.to_sklearn(**given)
    assert message in str(error.value)


def test_files_that_cannot_number_the_rows(file, tmp_path):
    plain = fill(new_file(tmp_path / "plain.h5"), descriptors(5))
    with pytest.raises(LabelError, match=rf"like is '{plain}', which has no classes; allowed"):
        file.select(like=plain)
    with pytest.raises(ConfigError, match="classes and like are both given; give one of them"):
        file.select(like=plain, classes=["cat"])
    assert file.select(rows="label=cat", classes=["cat"]).y.tolist() == [0, 0]  # of the selected rows
    with FeatureFile(plain) as other:
        assert other.to_sklearn(like=file)[1] is None


def test_labels_of_a_table_by_row_and_rows_by_them(file, tmp_path):
    path = table(tmp_path, "row\tlabel\n0\tx\n5\ty\n2\tx\n", "labels.tsv")
    selection = file.select(labels=str(path), rows="label=x")
    assert selection.rows.tolist() == [0, 2]
    assert selection.y.tolist() == [0, 0]
    assert selection.target_names == ["x", "y"]


def test_labels_in_memory(file):
    assert file.select(labels={"a/1.jpg": "x", "b/3.jpg": "y"}).y.tolist() == [0, -1, -1, 1, -1]
    assert file.select(labels=list("xyxyxz")).y.tolist() == [0, 1, 0, 0, 2]
    assert file.select(labels=[3.5, 1, 2, 3, 4, 5]).y.tolist() == [3.5, 1, 2, 4, 5]
    assert file.select(labels="image").y.tolist() == [0, 0, 1, 2, -1]
    names = np.array([b"x", b"\xff", b"x", b"x", b"", b"y"])
    assert file.select(labels=names).target_names == ["x", "y", "\udcff"]
    missing = np.array(["x", float("nan"), None, "x", "nan", "y"], dtype=object)  # as pandas has them
    assert file.select(labels=missing).y.tolist() == [1, -1, -1, 0, 2]
    pandas = pytest.importorskip("pandas")
    assert file.select(labels=pandas.Series(missing, dtype="string")).y.tolist() == [1, -1, -1, 0, 2]
    assert file.select(labels="box").y is None
    for none in ([None] * 6, [""] * 6, {}):  # and not all of a class -1
        assert file.select(labels=none).y is None
        assert file.select(labels=none).labels.name_of(0) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header is ''; allowed: label|class|category, and row|path"),
        ("path,name\n", "the header is 'path,name'"),
        ("path,label\na/1.jpg\n", "line 2: found 1 field, 'a/1.jpg'; allowed: 2"),
        ("path,label,Label\n", "line 1: found the column 'label' twice in"),
        ("path,label\na/1.jpg,x\na/1.jpg,y\n", "image 'a/1.jpg' is both 'x' and 'y'"),
        ("path,label\n1.jpg,x\n", "the image name '1.jpg' could mean"),
        ("path,label\nz.jpg,x\n", "none of the names (1) is an image of"),
        ('path,label\n"a,x\n', "line 2: cannot be split"),
        ("row,label\n6,x\n", "row is '6'; allowed: 0 to 5"),
        ("row,label\n-1,x\n", "row is '-1'"),
        ("row,label\n1,x\n1,x\n", "line 3: row 1 has a label already"),
    ],
)
def test_tables_that_are_wrong(file, tmp_path, text, message):
    with pytest.raises(LabelError) as error:
        file.select(labels=table(tmp_path, text))
    assert message in str(error.value)


def test_labels_that_are_not_there(file):
    with pytest.raises(ConfigError, match="no such table of labels: 'gone'; allowed: 'box', 'image'"):
        file.select(labels="gone")
    with pytest.raises(LabelError, match=r"labels of shape \(2,\); allowed: one for each of 6 rows"):
        file.select(labels=["x", "y"])


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_batches_in_any_order_hold_every_row_once(file, seed):
    selection = file.select(levels=2)
    x, y = selection.to_sklearn()
    batches = list(selection.iter_batches(2, seed=seed))
    assert [len(part) for part, _ in batches] == [2, 2, 1]
    got, labels = np.concatenate([part for part, _ in batches]), np.concatenate([part for _, part in batches])
    order = [int(np.flatnonzero((x == row).all(axis=1))[0]) for row in got]
    assert sorted(order) == list(range(5))
    assert (order == list(range(5))) == (seed is None)
    assert labels.tolist() == y[order].tolist()
    with pytest.raises(ValueError, match="batch_size"):
        selection.iter_batches(0)


def test_a_file_without_rows(tmp_path):
    with FeatureFile(new_file(tmp_path / "f.h5", n=0)) as file:
        x, y = file.to_sklearn(levels=1)
        assert (x.shape, y) == ((0, 3), None)
        assert file.groups.shape == (0,)
        with pytest.raises(ConfigError, match="row 0; the file has no"):
            file.select(rows="0")


# --- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", ["none", "l2"])
@pytest.mark.parametrize("columns", [{}, {"layers": "layer3"}, {"levels": 2}, {"bins": {2: [(0, 1)]}}])
@pytest.mark.parametrize("positions", [None, [1, 2, 3], [4, 0, 2, 2], []])
def test_blocks_are_all_rows_in_their_order(path, tmp_path, monkeypatch, normalize, columns, positions):
    monkeypatch.setattr("sppfeat.store.reader._COPIED_NBYTES", 4 * DIMENSION * 2)
    with FeatureFile(with_normalize(path, tmp_path / "f.h5", normalize)) as opened:
        selection = opened.select(**columns)
        wanted = np.arange(len(selection)) if positions is None else np.array(positions, dtype=np.int64)
        blocks = selection.blocks(
            None if positions is None else wanted, nbytes=4 * selection.dimension * 2 + 3
        )
        found = [(part, rows.copy()) for part, rows in blocks]
        assert [len(rows) for _, rows in found] == [2] * (len(wanted) // 2) + [1] * (len(wanted) % 2)
        for part, rows in found:
            assert rows.dtype == opened.dtype
            assert np.array_equal(rows, selection.take(wanted[part]))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="says what is mapped")
@pytest.mark.parametrize("columns", [{}, {"levels": 1}])
def test_blocks_leave_nothing_mapped(tmp_path, columns):
    def mapped(path):
        """Bytes of a file that are in the memory of this process."""
        areas = Path("/proc/self/smaps").read_bytes().split(b"VmFlags")
        own = [area for area in areas if os.fsencode(path) in area]
        return sum(int(re.search(rb"Rss: +(\d+) kB", area)[1]) for area in own)

    rows = np.ones((20_000, DIMENSION), dtype=np.float32)  # 1.2 MB
    plan = plan_of([b"%d.jpg" % i for i in range(len(rows))])
    create_file(tmp_path / "f.h5", plan, config(), BLOCKS)
    with h5py.File(tmp_path / "f.h5", "r+") as opened:
        opened["features"][:] = rows
        opened["images/status"][:] = 1
    with FeatureFile(tmp_path / "f.h5") as opened:
        most = 0
        for i, (_, block) in enumerate(opened.select(**columns).blocks(nbytes=20_000)):
            assert block.sum()
            most = max(most, mapped(tmp_path / "f.h5") if i % 10 == 0 else 0)
        assert most < rows.nbytes / 2
        assert mapped(tmp_path / "f.h5") == 0
