"""Parquet and Arrow files as inputs, of images and of paths: against pyarrow reading everything at once."""

import gc
import io
import json
import os
import pickle
import re

import numpy as np
import pytest
from extraction_runs import assert_same_descriptors, extract
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_images import fetched
from PIL import Image

from sppfeat.errors import ConfigError, StoreError
from sppfeat.inputs import list_images
from sppfeat.inputs.tables.parquet import read_parquet
from sppfeat.store.reader import FeatureFile

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["dog", "cat", "eel"]}}
FORMATS = ("f.parquet", "stream.arrow", "file.arrow")


def table_of(columns, types, features=None):
    metadata = features and {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    schema = pa.schema(list(zip(columns, types, strict=True)), metadata=metadata)
    arrays = [pa.array(values, type=kind) for values, kind in zip(columns.values(), types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def write(path, table, rows_at_once=3, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rows_at_once, **options)
    else:
        new = pa.ipc.new_file if path.name.endswith("file.arrow") else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as file, new(file, table.schema, **options) as writer:
            writer.write_table(table, max_chunksize=rows_at_once)
    return path


def images_table(images, paths=None, labels=None):
    """Return a table as ``datasets`` makes it; an image that is None has no bytes."""
    paths = [f"{i}.png" for i in range(len(images))] if paths is None else paths
    rows = [{"bytes": image, "path": path} for image, path in zip(images, paths, strict=True)]
    labels = [i % 3 for i in range(len(images))] if labels is None else labels
    return table_of({"image": rows, "label": labels}, [IMAGE, pa.int64()], FEATURES)


def png(seed, height=20, width=24):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def scratch(tmp_path):
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


# --- the listing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_a_data_set_of_hugging_face(tmp_path, name):
    images = [b"a", b"b", b"c", b"d", b"e"]
    paths = ["x/cat.JPG", None, "dog.png", "no_suffix", "other.txt"]
    write(tmp_path / name, images_table(images, paths, [2, 0, -1, None, 1]))
    listing = list_images([str(tmp_path / name)])
    assert os.fsdecode(listing.root) == str(tmp_path)
    names = ["00000000.JPG", "00000001", "00000002.png", "00000003", "00000004"]
    assert [os.fsdecode(path) for path in listing.paths] == [f"{name}/{of}" for of in names]
    assert listing.classes == (b"dog", b"cat", b"eel")
    assert listing.labels.tolist() == [2, 0, -1, -1, 1]
    assert listing.n_unlabeled == 2
    assert list(listing.ids) == [b"x/cat.JPG", b"", b"dog.png", b"no_suffix", b"other.txt"]
    assert listing.storage.is_local == name.endswith(".arrow")


def test_splits_of_a_data_set_lie_below_its_folder(tmp_path):
    for split in ("train-00000-of-00001", "test-00000-of-00001"):
        write(tmp_path / "data" / f"{split}.parquet", images_table([b"a", b"b"]))
    listing = list_images(sorted(map(str, (tmp_path / "data").iterdir())))
    assert os.fsdecode(listing.root) == str(tmp_path)
    assert listing.paths[0] == b"data/test-00000-of-00001.parquet/00000000.png"
    assert listing.paths[3] == b"data/train-00000-of-00001.parquet/00000001.png"
    assert listing.classes == (b"dog", b"cat", b"eel")
    assert listing.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("name", FORMATS)
def test_images_as_plain_bytes_with_ids_and_classes_as_text(tmp_path, name, scratch):
    columns = {
        "id": [7, None, 9],
        "label": ["eel", None, "cat"],
        "jpg": [b"a", b"b", b"c"],
        "caption": ["x"] * 3,
    }
    types = [pa.int32(), pa.dictionary(pa.int8(), pa.string()), pa.large_binary(), pa.string()]
    listing = list_images([str(write(tmp_path / name, table_of(columns, types)))])
    assert list(listing.ids) == [b"7", b"", b"9"]
    assert listing.classes == (b"cat", b"eel")
    assert listing.labels.tolist() == [1, -1, 0]
    assert fetched(listing.storage, [2, 0, 1], scratch) == [b"c", b"a", b"b"]


def test_which_column_has_the_images_and_which_the_classes(tmp_path):
    columns = {
        "mask": [{"bytes": b"m", "path": None}],
        "img": [{"bytes": b"i", "path": None}],
        "label": ["text"],
        "fine_label": [1],
    }
    features = {"mask": {"_type": "Image"}, "img": {"_type": "Image"}, "fine_label": FEATURES["label"]}
    path = write(tmp_path / "a.parquet", table_of(columns, [IMAGE, IMAGE, pa.string(), pa.int64()], features))
    segment = read_parquet(os.fsencode(path))
    assert segment.own_labels.classes == (b"dog", b"cat", b"eel")
    (tmp_path / "scratch").mkdir()
    assert fetched(segment.storage, [0], tmp_path / "scratch") == [b"i"]


# --- tables of paths ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int8(), pa.string())]
)
def test_a_table_of_paths(tmp_path, name, kind):
    columns = {
        "path": ["b/2.png", "1.png", "3.png", "b/2.png"],
        "label": ["dog", "cat", None, "dog"],
        "uid": [1, 2, 3, 1],
    }
    write(tmp_path / name, table_of(columns, [kind, pa.string(), pa.int64()]))
    listing = list_images([str(tmp_path / name)])
    assert os.fsdecode(listing.root) == str(tmp_path)
    assert list(listing.paths) == [b"b/2.png", b"1.png", b"3.png"]
    assert listing.labels.tolist() == [1, 0, -1]
    assert list(listing.ids) == [b"1", b"2", b"3"]
    assert listing.n_repeated == 1


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("has_statistics", [True, False])
def test_structs_of_paths_without_bytes_are_a_table_of_paths(tmp_path, name, has_statistics):
    table = images_table([None] * 7, [f"{i}.png" for i in range(7)])
    options = {"write_statistics": has_statistics} if name == "f.parquet" else {}
    listing = list_images([str(write(tmp_path / name, table, **options))])
    assert os.path.join(listing.root, listing.paths[6]) == os.fsencode(tmp_path / "6.png")
    assert listing.classes == (b"dog", b"cat", b"eel")
    only = table_of({"image": [{"path": "1.png"}]}, [pa.struct([("path", pa.string())])])
    assert list(list_images([str(write(tmp_path / name, only))]).paths) == [b"1.png"]


def test_paths_that_are_not_utf8(tmp_path):
    path = write(tmp_path / "a.parquet", table_of({"path": [b"\xff.jpg"]}, [pa.binary()]))
    assert list(list_images([str(path)]).paths) == [b"\xff.jpg"]
    odd = tmp_path / os.fsdecode(b"\xfe.parquet")
    path.rename(odd)
    assert list(list_images([str(odd)]).paths) == [b"\xff.jpg"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("columns", "types", "said"),
    [
        ({"x": ["1.jpg"]}, [pa.string()], "no column holds the paths: found 'x'; allowed: exactly one of path|image"),
        ({"x": ["1.jpg"]}, [pa.string()], "or as bytes in a column image|img|"),
        ({"path": ["a"], "url": ["b"]}, [pa.string()] * 2, "several columns could hold the paths"),
        ({"path": ["a", None]}, [pa.string()] * 1, "row 1: found None; allowed: the path of an image"),
        ({"path": ["a", "b", "c", "a"], "label": [1, 2, 3, 4]}, [pa.string(), pa.int8()], "rows 0 and 3: "),
        ({"left": [b"a"], "right": [b"b"]}, [pa.binary()] * 2, "no column holds the paths: found 'left', 'right'"),
        ({"img": [b"a"], "png": [b"b"]}, [pa.binary()] * 2, "several columns could be the images"),
        ({"a": [{"bytes": b""}], "b": [{"bytes": b""}]}, [pa.struct([("bytes", pa.binary())])] * 2, "several columns"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_honoured(tmp_path, name, columns, types, said):
    path = write(tmp_path / name, table_of(columns, types))
    with pytest.raises(ConfigError, match=re.escape(said)) as error:
        list_images([str(path)])
    assert repr(str(path)) in str(error.value)


@pytest.mark.parametrize(
    ("names", "label", "said"),
    [
        (["a", "b"], 2, "row 0: the class is 2; allowed: 0 to 1, or -1 for none"),
        (["a", "a"], 0, "the names of the classes of 'label' are ['a', 'a']"),
        (["a", 7], 0, "the names of the classes of 'label'"),
        ("ab", 0, "the names of the classes of 'label' are 'ab'"),
    ],
)
def test_classes_that_are_none(tmp_path, names, label, said):
    features = {"label": {"_type": "ClassLabel", "names": names}}
    table = table_of({"image": [b"a"], "label": [label]}, [pa.binary(), pa.int64()], features)
    with pytest.raises(ConfigError, match=re.escape(said)):
        list_images([str(write(tmp_path / "a.parquet", table))])


@pytest.mark.parametrize(
    "metadata", [b"", b"[]", b"{", b'{"info": []}', b'{"info": {"features": 7}}', b"[" * 9999]
)
def test_metadata_of_another_make_says_nothing(tmp_path, metadata):
    schema = pa.schema([("image", pa.binary())], metadata={b"huggingface": metadata})
    write(tmp_path / "a.parquet", pa.Table.from_arrays([pa.array([b"a"])], schema=schema))
    assert list(list_images([str(tmp_path / "a.parquet")]).paths) == [b"a.parquet/00000000"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("content", [b"", b"PAR1", b"ARROW1\0\0", b"x" * 1000, None])
def test_files_that_are_something_else(tmp_path, name, content):
    path = write(tmp_path / name, images_table([b"a" * 1000] * 5))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ConfigError, match=r"cannot be read as|no images in|no column"):
        list_images([str(path)])


# --- the images -----------------------------------------------------------------------------------

ROWS = st.lists(st.one_of(st.none(), st.binary(max_size=40)), min_size=1, max_size=40)


@settings(max_examples=25)
@given(
    rows=ROWS,
    rows_at_once=st.integers(1, 9),
    windows=st.lists(st.lists(st.integers(0, 10**6), min_size=1), max_size=6),
    batch=st.integers(1, 5),
    data=st.data(),
)
def test_images_are_what_pyarrow_reads(tmp_path_factory, rows, rows_at_once, windows, batch, data):
    folder = tmp_path_factory.mktemp("rows")
    (folder / "scratch").mkdir()
    rows = [*rows, b"x"]  # so that it is no table of paths
    path = write(folder / data.draw(st.sampled_from(FORMATS)), images_table(rows), rows_at_once)
    storage = list_images([str(path)]).storage
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sppfeat.inputs.tables.parquet._MOST_ROWS", batch)
        for window in windows:
            wanted = [image % len(rows) for image in window]
            for row, found in zip(wanted, fetched(storage, wanted, folder / "scratch"), strict=True):
                said = "null in" if rows[row] is None else "empty" if not rows[row] else None
                assert found == rows[row] if said is None else found.startswith(said)


def test_places_hold_until_their_context_ends_and_no_longer(tmp_path, scratch):
    rows = [b"%d" % i for i in range(100)]
    storage = list_images([str(write(tmp_path / "a.parquet", images_table(rows)))]).storage
    first = storage.fetch(np.arange(50), scratch)
    second = storage.fetch(np.arange(50, 100), scratch)
    with first as places:
        with second as others:
            assert len({place.path for place in (*places, *others)}) == 2
        for i, place in enumerate(places):
            with open(place.path, "rb") as file:
                assert file.read()[place.offset :][: place.nbytes] == rows[i]
    assert os.listdir(scratch) == []


def test_a_row_group_that_spans_windows_is_read_once(tmp_path, scratch, monkeypatch):
    rows = [b"%d" % i * 9 for i in range(100)]
    storage = list_images([str(write(tmp_path / "a.parquet", images_table(rows), 50))]).storage
    began = []
    true_iter = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, **how: began.append(how["row_groups"]) or true_iter(self, **how),
    )
    monkeypatch.setattr("sppfeat.inputs.tables.parquet._MOST_ROWS", 7)
    found = [
        row for start in range(0, 100, 10) for row in fetched(storage, range(start, start + 10), scratch)
    ]
    assert found == rows
    assert began == [[0], [1]]
    assert fetched(storage, [3], scratch) == rows[3:4]
    assert began == [[0], [1], [0]]


@pytest.mark.slow
def test_of_many_files_few_are_open(tmp_path, scratch):
    for i in range(40):
        write(tmp_path / "in" / f"{i}.parquet", images_table([b"%d" % i, b"%d!" % i]))
    storage = list_images([str(tmp_path / "in")]).storage
    gc.collect()
    n_open = len(os.listdir("/proc/self/fd"))
    with storage.fetch(np.arange(0, 80, 2), scratch) as places:
        assert len(os.listdir("/proc/self/fd")) <= n_open + 2
        assert [place.nbytes for place in places] == [len(str(i)) for i in range(40)]
    assert fetched(storage, range(1, 80, 2), scratch) == [b"%d!" % i for i in range(40)]
    del storage
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= n_open


def test_it_can_be_pickled_at_any_time(tmp_path, scratch):
    for name in FORMATS:
        storage = list_images([str(write(tmp_path / name, images_table([b"a", b"b", b"c"])))]).storage
        assert fetched(storage, [1], scratch) == [b"b"]
        copy = pickle.loads(pickle.dumps(storage))
        assert fetched(copy, [2, 0], scratch) == [b"c", b"a"]
        assert copy.is_local == storage.is_local


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_goes_or_changes_ends_the_run_and_fails_no_image(tmp_path, name, scratch):
    path = write(tmp_path / name, images_table([b"a" * 99, b"b", b"c"]))
    storage = list_images([str(path)]).storage
    whole, listed = path.read_bytes(), path.stat()
    path.unlink()
    with pytest.raises(StoreError, match=f"{name}.* cannot be read"):
        fetched(storage, [0], scratch)
    write(path, images_table([b"a" * 99, b"b"]))
    with pytest.raises(StoreError, match="has changed since it was listed"):
        fetched(storage, [0], scratch)
    write(path, images_table([b"c" * 99, b"b", b"a"]))  # as many rows
    with pytest.raises(StoreError, match="has changed since it was listed"):
        fetched(storage, [0], scratch)
    if name == "f.parquet":
        at = whole.index(b"\x15")  # of the first page's header
        path.write_bytes(whole[:at] + bytes(60) + whole[at + 60 :])
        os.utime(path, ns=(listed.st_atime_ns, listed.st_mtime_ns))
        with pytest.raises(StoreError, match="cannot be read as Parquet"):
            fetched(storage, [0], scratch)
        path.write_bytes(whole)
        os.utime(path, ns=(listed.st_atime_ns, listed.st_mtime_ns))
        assert fetched(storage, [1], scratch) == [b"b"]
        with pytest.raises(StoreError, match="cannot copy images to"):
            storage.fetch(np.arange(3), tmp_path / "gone").__enter__()


def test_compressed_arrow_is_refused(tmp_path):
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    path = write(tmp_path / "stream.arrow", images_table([b"a" * 5000] * 3), options=options)
    with pytest.raises(ConfigError, match="is compressed; allowed: "):
        list_images([str(path)])


# --- whole runs -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["f.parquet", "stream.arrow"])
def test_descriptors_are_those_of_the_same_images_in_a_folder(tmp_path, name):
    images = [png(i, 20 + i % 3) for i in range(9)]
    for i, image in enumerate(images):
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / f"{i:08d}.png").write_bytes(image)
    table = write(tmp_path / "table" / name, images_table([*images, None, b"", b"no image"]), 4)
    extract([tmp_path / "folder"], tmp_path / "folder.h5")
    extract([table], tmp_path / "table.h5", stop_after=1)
    extract([table], tmp_path / "table.h5")
    with FeatureFile(tmp_path / "folder.h5") as one, FeatureFile(tmp_path / "table.h5") as other:
        assert_same_descriptors(one.features, other.features[:9])
        assert other.paths[3] == f"{name}/00000003.png"
        assert list(other.image_id_table) == [b"%d.png" % i for i in range(12)]
        assert other.errors.keys() == {9, 10, 11}
        assert other.errors[9].startswith("null")
        assert other.errors[10].startswith("empty")
        assert other.labels.tolist() == [i % 3 for i in range(12)]
