import builtins
import io
import json
import math
import os
import string
import struct
import sys
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from places import REAL_DATA

from sppfeat.boxes import formats
from sppfeat.boxes.formats import BoxFile, read_boxes, recognize_format, records
from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.table import BoxTable
from sppfeat.config.regions import BOX_FORMATS, BoxConvention
from sppfeat.errors import BoxError, ConfigError
from sppfeat.files.image_names import match_images

REAL = REAL_DATA / "boxes"
NAN = math.nan


# ---- writing box files


def npy(array, **options):
    """Return the bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz(**arrays):
    """Return the bytes of an .npz file; the names of images are keys."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy_header(descr="<f8", shape="(2, 4)", n_bytes=64):
    """Return an .npy file that says of itself what it is told to."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(n_bytes)


def zipped(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def cells(items):
    array = np.empty((1, len(items)), dtype=object)
    array[0, :] = items
    return array


def mat(**variables):
    scipy_io = pytest.importorskip("scipy.io")
    file = io.BytesIO()
    scipy_io.savemat(file, variables)
    return file.getvalue()


CSV = b"""path,xmin,ymin,xmax,ymax,label,score,id,source\r
b/2.jpg,1,2,3.5,4e1,cat,0.5,first,hand\r
\r
"a, 1.jpg",-1,,inf,nan,,,,\r
b/2.jpg,0,0,1,1,dog,1,third,\xc3\xa9\r
"""
JSONL = b"""{"image": "b/2.jpg", "bbox": [1, 2, 3.5, 40], "class": "cat", "score": 0.5, "id": 7, "source": "hand"}

{"image": "a.jpg", "bbox": [-1, null, Infinity, NaN], "class": 3, "score": null, "flags": {"a": [1, true]}}
"""
COCO = {
    "info": {"year": 2017},
    "images": [
        {"id": 9, "file_name": "b.jpg", "height": 480, "width": 640},
        {"id": 3, "file_name": "none.jpg"},
        {"id": 4, "file_name": "a.jpg", "height": 10, "width": 20.0},
    ],
    "annotations": [
        {
            "id": 70,
            "image_id": 4,
            "bbox": [1, 2, 3, 4.5],
            "category_id": 1,
            "segmentation": [[1, 2]],
            "area": 3,
        },
        {"id": 60, "image_id": 9, "bbox": [0, 0, 1, 1], "category_id": 90, "iscrowd": 1, "score": 0.25},
    ],
    "categories": [{"id": 90, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 2, "name": "bird"}],
}
RESULTS = [
    {"image_id": 42, "bbox": [1, 2, 3, 4], "category_id": 18, "score": 0.5},
    {"image_id": 7, "bbox": [5, 6, 7, 8]},
    {"image_id": 42, "bbox": [9, 9, 9, 9], "category_id": 3, "score": 0.75},
]
VOC = b"""<?xml version="1.0"?>
<annotation>
  <folder>VOC2007</folder><filename>b.jpg</filename>
  <size><width>500</width><height>375</height><depth>3</depth></size>
  <object>
    <name>dog</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
    <bndbox><ymin>2</ymin><xmin>1</xmin><xmax>3.5</xmax><ymax>4</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>
  </object>
  <object>
    <name>cat</name><score>0.5</score>
    <bndbox><xmin>5</xmin><ymin>6</ymin><xmax>7</xmax><ymax>8</ymax></bndbox>
  </object>
</annotation>
"""
YOLO = b"15 0.5 0.5 0.25 1\r\n\r\n3 0.1\t0.2 0.3 0.4 0.75\n"
ROWS = [[1, 2, 3, 4], [5, 6, 7, 8]]

FILES = {
    "csv": ("b.csv", CSV),
    "tsv": ("b.tsv", CSV.replace(b"a, 1.jpg", b"a 1.jpg").replace(b",", b"\t")),
    "jsonl": ("b.jsonl", JSONL),
    "coco": ("b.json", json.dumps(COCO).encode()),
    "voc": ("b.xml", VOC),
    "yolo": ("b.txt", YOLO),
    "numpy": ("b.npz", npz(**{"b.jpg": np.array(ROWS, dtype=np.uint8), "a.jpg": np.empty((0, 4))})),
}


@pytest.fixture
def put(tmp_path):
    """Write files, each below the test's folder, and return the path of the first."""

    def put(name, content, **others):
        for file, text in {name: content, **others.pop("files", {})}.items():
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text)
        return tmp_path / name

    return put


def rows_of(table):
    """Return a table as plain rows: image, box, class, score, id, extras."""
    assert isinstance(table, BoxTable)
    assert table.boxes.shape == (len(table), 4)
    assert table.boxes.dtype == table.score.dtype == np.float64
    assert table.image.dtype == table.label.dtype == np.int64
    assert table.image_hw.shape == (len(table.images), 2)
    assert len(set(table.images)) == len(table.images)
    assert len(table.extra) == len(table.extra_names)
    assert all(len(column) == len(table) for column in (table.label, table.score, table.ids, *table.extra))
    classes = [*table.classes, None]  # -1 is the last
    return [
        (
            table.images[table.image[i]],
            tuple(table.boxes[i].tolist()),
            classes[table.label[i]],
            float(table.score[i]),
            table.ids[i],
            tuple(column[i] for column in table.extra),
        )
        for i in range(len(table))
    ]


def assert_rows(table, expected):
    assert repr(rows_of(table)) == repr(expected)  # repr: NaN is NaN, and -0.0 is not 0.0


def message_of(path, box_format=None, parts=()):
    with pytest.raises(BoxError) as caught:
        read_boxes(path, box_format=box_format)
    message = str(caught.value)
    assert len(message) < 700
    for part in ("allowed", *parts):
        assert part in message
    return message


# ---- each format


@pytest.mark.parametrize("box_format", ["csv", "tsv"])
def test_separated_text(put, box_format):
    name, content = FILES[box_format]
    result = read_boxes(put(name, content))
    second = b"a, 1.jpg" if box_format == "csv" else b"a 1.jpg"
    assert result.box_format == box_format
    assert list(result.table.images) == [b"b/2.jpg", second]
    assert result.table.classes == ("cat", "dog")
    assert result.table.extra_names == ("source",)
    assert result.table.convention == BoxConvention()
    assert_rows(
        result.table,
        [
            (b"b/2.jpg", (1.0, 2.0, 3.5, 40.0), "cat", 0.5, b"first", (b"hand",)),
            (second, (-1.0, NAN, math.inf, NAN), None, NAN, b"", (b"",)),
            (b"b/2.jpg", (0.0, 0.0, 1.0, 1.0), "dog", 1.0, b"third", (b"\xc3\xa9",)),
        ],
    )


@pytest.mark.parametrize(
    ("header", "coords", "extra"),
    [
        ("path,x0,y0,x1,y1", "xyxy", ()),
        ("X1 , Y1,x2,y2,File_Name", "xyxy", ()),
        ("image,x,y,w,h", "xywh", ()),
        ("filename,cx,cy,w,h", "cxcywh", ()),
        ("filename,width,height,class,xmin,ymin,xmax,ymax", "xyxy", ("width", "height")),
        ("path,x0,y0,x1,y1,x2,y2", "xyxy", ("x2", "y2")),
        ("path,image,x0,y0,x1,y1,score,confidence", "xyxy", ("image", "confidence")),
        (",path,x0,y0,x1,y1", "xyxy", ("column_1",)),
    ],
)
def test_column_names_decide(put, header, coords, extra):
    row = ",".join("1" for _ in header.split(","))
    table = read_boxes(put("b.csv", f"\ufeff{header}\n{row}\n")).table
    assert table.convention == BoxConvention(coords=coords)
    assert table.extra_names == extra
    assert_rows(
        table,
        [
            (
                b"1",
                (1.0,) * 4,
                "1" if "class" in header else None,
                1.0 if "score" in header else NAN,
                b"",
                (b"1",) * len(extra),
            )
        ],
    )


def test_jsonl(put):
    table = read_boxes(put("b.jsonl", JSONL)).table
    assert table.convention == BoxConvention(coords="xywh")
    assert table.extra_names == ("source", "flags")
    assert_rows(
        table,
        [
            (b"b/2.jpg", (1.0, 2.0, 3.5, 40.0), "cat", 0.5, b"7", (b"hand", b"")),
            (b"a.jpg", (-1.0, NAN, math.inf, NAN), "3", NAN, b"", (b"", b'{"a":[1,true]}')),
        ],
    )


def test_jsonl_with_four_keys_in_any_order(put):
    lines = [
        '{"x1": 3, "path": "a", "x0": 1, "y0": 2, "y1": "4"}',
        '{"path": "a", "X0": 1, "y0": 2, "x1": 3, "y1": null}',
    ]
    table = read_boxes(put("b.jsonl", "\n".join(lines))).table
    assert table.convention == BoxConvention()
    assert table.boxes[0].tolist() == [1, 2, 3, 4]
    assert math.isnan(table.boxes[1, 3])


def test_coco_instances(put):
    table = read_boxes(put("b.json", json.dumps(COCO, indent=1))).table
    assert list(table.images) == [b"b.jpg", b"none.jpg", b"a.jpg"]
    assert table.image_hw.tolist() == [[480, 640], [0, 0], [10, 20]]
    assert table.classes == ("cat", "dog", "bird")
    assert (table.names, table.extra_names) == ("path", ("iscrowd",))
    assert table.convention == BoxConvention(coords="xywh")
    assert_rows(
        table,
        [
            (b"a.jpg", (1.0, 2.0, 3.0, 4.5), "dog", NAN, b"70", (b"",)),
            (b"b.jpg", (0.0, 0.0, 1.0, 1.0), "cat", 0.25, b"60", (b"1",)),
        ],
    )


@pytest.mark.parametrize("named", [False, True])
def test_coco_results(put, named):
    results = [{**entry, "file_name": f"im{entry['image_id']}.jpg"} if named else entry for entry in RESULTS]
    table = read_boxes(put("b.json", json.dumps(results))).table
    first, second = (b"im42.jpg", b"im7.jpg") if named else (b"42", b"7")
    assert (table.names, table.classes) == ("path" if named else "id", ("3", "18"))
    assert_rows(
        table,
        [
            (first, (1.0, 2.0, 3.0, 4.0), "18", 0.5, b"", ()),
            (second, (5.0, 6.0, 7.0, 8.0), None, NAN, b"", ()),
            (first, (9.0, 9.0, 9.0, 9.0), "3", 0.75, b"", ()),
        ],
    )


def test_voc_folder(put, tmp_path):
    empty = b"<annotation><size><width>many</width></size></annotation>"
    put(
        "a/10.xml",
        VOC,
        files={"a/2.XML": empty, "a/.hidden.xml": b"<", "a/sub/1.xml": empty, "a/10.jpg": b""},
    )
    table = read_boxes(tmp_path / "a").table
    assert list(table.images) == [b"2", b"b.jpg", b"1"]
    assert table.image_hw.tolist() == [[0, 0], [375, 500], [0, 0]]
    assert table.classes == ("cat", "dog")
    assert table.extra_names == ("difficult", "truncated", "occluded", "pose")
    assert table.convention == BoxConvention(origin=1, ends="inclusive")
    rows = [
        (b"b.jpg", (1.0, 2.0, 3.5, 4.0), "dog", NAN, b"10.xml:1", (b"0", b"1", b"", b"Left")),
        (b"b.jpg", (5.0, 6.0, 7.0, 8.0), "cat", 0.5, b"10.xml:2", (b"",) * 4),
    ]
    assert_rows(table, rows)
    assert_rows(read_boxes(tmp_path / "a" / "10.xml").table, rows)


def test_yolo_folder_without_names_of_classes(put, tmp_path):
    put("labels/val/b.txt", YOLO, files={"labels/a10.txt": b"", "labels/a2.txt": b"3.0e+00 0 0 1 1"})
    table = read_boxes(tmp_path / "labels").table
    assert list(table.images) == [b"a2", b"a10", b"val/b"]
    assert table.classes == ("3", "15")
    assert table.convention == BoxConvention(coords="cxcywh", units="normalized")
    assert_rows(
        table,
        [
            (b"a2", (0.0, 0.0, 1.0, 1.0), "3", NAN, b"a2.txt:1", ()),
            (b"val/b", (0.5, 0.5, 0.25, 1.0), "15", NAN, b"val/b.txt:1", ()),
            (b"val/b", (0.1, 0.2, 0.3, 0.4), "3", 0.75, b"val/b.txt:3", ()),
        ],
    )


@pytest.mark.parametrize("file", ["classes.txt", "obj.names"])
def test_yolo_names_of_classes(put, tmp_path, file):
    put("labels/a.txt", "1 0 0 1 1", files={f"labels/{file}": "cat\n dog \nbird\n\n"})
    table = read_boxes(tmp_path / "labels").table
    assert (table.classes, table.label.tolist(), list(table.images)) == (("cat", "dog", "bird"), [1], [b"a"])
    put("labels/a.txt", "3 0 0 1 1")
    message_of(tmp_path / "labels", parts=["a.txt', line 1: class is '3'", "from 0 to 2"])


def test_numpy(put, tmp_path):
    boxes = np.array(ROWS, dtype=">i2")
    scored = np.asfortranarray(np.array([[1, 2, 3, 4, 0.5]], dtype=np.float16))
    table = read_boxes(put("b.npz", npz(**{"b.jpg": boxes, "d/a": scored, "none": np.empty(0)}))).table
    rows = [
        (b"b.jpg", (1.0, 2.0, 3.0, 4.0), None, NAN, b"b.jpg:0", ()),
        (b"b.jpg", (5.0, 6.0, 7.0, 8.0), None, NAN, b"b.jpg:1", ()),
        (b"d/a", (1.0, 2.0, 3.0, 4.0), None, 0.5, b"d/a:0", ()),
    ]
    assert (list(table.images), table.names) == ([b"b.jpg", b"d/a", b"none"], "path")
    assert table.convention == BoxConvention()
    assert_rows(table, rows)
    put("f/b.jpg.npy", npy(boxes), files={"f/d/a.npy": npy(scored), "f/none.npy": npy(np.empty((0, 5)))})
    assert list(read_boxes(tmp_path / "f").table.images) == [b"b.jpg", b"d/a", b"none"]
    assert_rows(read_boxes(tmp_path / "f").table, rows)
    single = read_boxes(tmp_path / "f" / "b.jpg.npy").table
    assert (single.names, list(single.images), list(single.ids)) == ("single", [b"b.jpg"], [b"0", b"1"])


def test_mat(put):
    single = read_boxes(put("0004.mat", mat(boxes=np.array(ROWS, dtype=np.uint16)))).table
    assert (single.names, list(single.images), list(single.ids)) == ("single", [b"0004"], [b"0", b"1"])
    assert single.boxes.tolist() == ROWS
    assert single.convention == BoxConvention(ends="inclusive")
    scored = np.array([[1, 2, 3, 4, 0.5]])
    content = mat(
        boxes=cells([scored, np.empty((0, 0)), np.array(ROWS, dtype=np.uint8)]), images=cells(["7", "3", "5"])
    )
    table = read_boxes(put("b.mat", content)).table
    assert (table.names, list(table.images)) == ("path", [b"7", b"3", b"5"])
    assert_rows(
        table,
        [
            (b"7", (1.0, 2.0, 3.0, 4.0), None, 0.5, b"7:0", ()),
            (b"5", (1.0, 2.0, 3.0, 4.0), None, NAN, b"5:0", ()),
            (b"5", (5.0, 6.0, 7.0, 8.0), None, NAN, b"5:1", ()),
        ],
    )


def test_mat_without_scipy(put, monkeypatch):
    path = put("b.mat", b"MATLAB 5.0 MAT-file" + bytes(200))
    for name in [name for name in sys.modules if name.split(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    real_import = builtins.__import__

    def no_scipy(name, *arguments, **options):
        if name.split(".")[0] == "scipy":
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", no_scipy)
    with pytest.raises(BoxError, match=r"pip install 'sppfeat\[mat\]'"):
        read_boxes(path)


@pytest.mark.parametrize("options", [{"format": "4"}, {"do_compression": True}])
def test_other_kinds_of_mat(put, options):
    scipy_io = pytest.importorskip("scipy.io")
    file = io.BytesIO()
    scipy_io.savemat(file, {"other": np.ones(3), "boxes": np.array(ROWS, dtype=float)}, **options)
    assert read_boxes(put("b.mat", file.getvalue())).table.boxes.tolist() == ROWS


@pytest.mark.parametrize(
    ("path", "n_boxes", "n_images"),
    [
        ("coco128/instances_train2017.json", 939, 128),
        ("coco128/labels", 941, 128),
        ("selective_search/000004_boxes.mat", 2888, 1),
    ],
)
def test_real_files(path, n_boxes, n_images):
    if not (REAL / path).exists():
        pytest.skip("no real data")
    if path.endswith(".mat"):
        pytest.importorskip("scipy.io")
    table = read_boxes(REAL / path).table
    assert (len(rows_of(table)), len(table.images)) == (n_boxes, n_images)


# ---- round trips

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
NAME = TEXT.filter(bool)
NUMBER = st.floats(width=64)
ROW = st.tuples(NAME, st.tuples(NUMBER, NUMBER, NUMBER, NUMBER), TEXT, NUMBER, TEXT, TEXT)


def expected_rows(rows):
    return [
        (name.encode(), box, label.strip() or None, score, box_id.encode(), (extra.encode(),))
        for name, box, label, score, box_id, extra in rows
    ]


@given(rows=st.lists(ROW, min_size=1, max_size=6), box_format=st.sampled_from(["csv", "tsv"]))
@example(rows=[('"\r\n,\t', (0.0, -0.0, 5e-324, 1e308), "\ufeff", NAN, " ", "'")], box_format="csv")
def test_separated_round_trip(tmp_path, rows, box_format):
    import csv

    path = tmp_path / f"b.{box_format}"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="," if box_format == "csv" else "\t", quoting=csv.QUOTE_ALL)
        writer.writerow(["path", "x0", "y0", "x1", "y1", "label", "score", "id", "note"])
        writer.writerows([name, *map(repr, box), *rest] for name, box, *rest in rows)
    assert_rows(read_boxes(path).table, expected_rows(rows))


@given(rows=st.lists(ROW, min_size=1, max_size=6), ascii_only=st.booleans())
def test_jsonl_round_trip(tmp_path, rows, ascii_only):
    path = tmp_path / "b.jsonl"
    keys = ("file_name", "box", "category", "confidence", "box_id", "note")
    lines = [json.dumps(dict(zip(keys, row, strict=True)), ensure_ascii=ascii_only) for row in rows]
    path.write_bytes("\n".join(lines).encode())
    assert_rows(read_boxes(path).table, expected_rows(rows))


@given(name=st.text(string.printable, min_size=1).map(lambda text: os.fsencode(text) + b"\xff"))
def test_a_path_that_is_no_utf8_survives(tmp_path, name):
    path = tmp_path / "b.csv"
    path.write_bytes(b'path,x0,y0,x1,y1\n"' + name.replace(b'"', b'""') + b'",1,2,3,4\n')
    assert list(read_boxes(path).table.images) == [name]


# ---- recognition


def recognized(path):
    return recognize_format(AnnotationFiles(path))


@pytest.mark.parametrize("box_format", FILES)
@pytest.mark.parametrize("suffix", ["", ".csv", ".txt"])
def test_content_is_recognised_whatever_the_name(put, box_format, suffix):
    assert recognized(put(f"boxes{suffix}", FILES[box_format][1])) == box_format


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("b", json.dumps(COCO, indent=2), "coco"),
        ("b", "\ufeff\n {}\n", "jsonl"),
        ("b", '{"path": "a"}\n', "jsonl"),
        ("b.ndjson", '{"path": \n', "jsonl"),
        ("b", '{"path": \n', "coco"),
        ("b", "\n 0 .1 .2 .3 .4\n", "yolo"),
        ("b", "0 1 2 3 4 5 6", "yolo"),
        ("b", "0 1 2 3\t4 x", "tsv"),
        ("b", "path,x0", "csv"),
        ("b", "\ufeff  <a/>", "voc"),
        ("b", "<a/>".encode("utf-16"), "voc"),
        ("b", "path,x0".encode("utf-16"), "csv"),
        ("b", b"MATLAB 5.0 MAT-file" + bytes(120), "mat"),
        ("b", b"MATLAB 7.3 MAT-file" + bytes(120), "mat"),
        ("b.mat", b"\0\0\0\0\1\0\0\0", "mat"),
        ("f/a.xml", b"", "voc"),
        ("f/d/a.txt", b"", "yolo"),
        ("f/a.npy", b"", "numpy"),
    ],
)
def test_recognition(put, tmp_path, name, content, expected):
    path = put(name, content)
    assert recognized(tmp_path / "f" if name.startswith("f/") else path) == expected


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"a.jpg": b"", "classes.txt": b"x"}, "found none"),
        ({"a.xml": b"", "b.txt": b"", "c.txt": b""}, "1 .xml, 2 .txt"),
        (b"", "found an empty file"),
        (b" \n\n", "found an empty file"),
        (b"\x89PNG\r\n\0\0", r"'\x89PNG"),
    ],
)
def test_what_is_not_recognised(put, tmp_path, files, found):
    path = put("boxes", files) if isinstance(files, bytes) else tmp_path / "boxes"
    if isinstance(files, dict):
        put("boxes/x.jpg", b"", files={f"boxes/{name}": content for name, content in files.items()})
    with pytest.raises(BoxError) as caught:
        recognized(path)
    for part in (str(path), found, "--box-format", *BOX_FORMATS):
        assert part in str(caught.value)


def test_a_format_that_is_named_is_not_recognised(put):
    path = put("labels.txt", b"")
    assert len(read_boxes(path, box_format="yolo").table) == 0
    with pytest.raises(ConfigError, match=r"box-format is 'pascal'; allowed: csv, tsv"):
        read_boxes(path, box_format="pascal")


def test_every_format_has_a_reader():
    assert tuple(formats._READERS) == BOX_FORMATS


# ---- digests


def test_the_digest_is_of_the_bytes(put):
    import hashlib

    path = put("b.csv", CSV)
    result = read_boxes(str(path))
    assert isinstance(result, BoxFile)
    assert (result.sha256, result.path) == (hashlib.sha256(CSV).hexdigest(), str(path))


def test_the_digest_of_a_folder(put, tmp_path):
    digests = []
    for folder, files in {
        "one": {"a.txt": YOLO, "b/c.txt": b"", "x.jpg": b"1"},
        "two/moved": {"b/c.txt": b"", "a.txt": YOLO, "x.jpg": b"2"},  # not read: does not count
        "content": {"a.txt": YOLO + b"\n", "b/c.txt": b""},
        "name": {"a2.txt": YOLO, "b/c.txt": b""},
        "more": {"a.txt": YOLO, "b/c.txt": b"", "d.txt": b""},
        "classes": {"a.txt": YOLO, "b/c.txt": b"", "obj.names": b"\n".join(b"%d" % i for i in range(16))},
    }.items():
        put(f"{folder}/other", b"", files={f"{folder}/{name}": content for name, content in files.items()})
        digests.append(read_boxes(tmp_path / folder).sha256)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 5


# ---- malformed files

HEADER = "path,x0,y0,x1,y1,score\n"
BOX = '"path": "a", "box": [1, 2, 3, 4]'


def coco_with(**changes):
    """Return instances with values put at JSON paths, such as ``annotations__0__bbox=...``."""
    content = json.loads(json.dumps(COCO))
    for path, value in changes.items():
        *keys, last = [int(key) if key.isdigit() else key for key in path.split("__")]
        target = content
        for key in keys:
            target = target[key]
        if value is None:
            del target[last]
        else:
            target[last] = value
    return json.dumps(content)


MALFORMED = {
    "csv": [
        ("", ["line 1", "found nothing"]),
        ("a.jpg,1,2,3,4\n", ["line 1", "a.jpg", "a header"]),
        ("path,a,b\n", ["line 1", "no box", "xmin,ymin,xmax,ymax"]),
        (HEADER + "a,1,2,3,4,\xff\n", ["line 2", "score"]),
        ((HEADER + "a,1,2,3,4,K\xe4").encode("cp1252"), ["line 2", "0xe4", "--encoding cp1252"]),
        ("path,x,y,w,h,cx,cy\n", ["line 1", "more than one box"]),
        ("x0,y0,x1,y1\n", ["line 1", "without a column of image names", "image_path"]),
        ("path,x0,y0,x1,y1,Path \n", ["line 1", "'Path'", "twice"]),
        (HEADER + "\na,1,2,3,4\n", ["line 3", "5 fields", "allowed: 6"]),
        (HEADER + '"a\nb",1,2,3,4,5\na,1,2,3px,4,5\n', ["line 4", "'x1' is '3px'", "a number"]),
        (HEADER + "a,1,2,3,4,high\n", ["line 2", "'score' is 'high'"]),
        (HEADER + ",1,2,3,4,1\n", ["line 2", "'path' is ''"]),
        (HEADER + 'a,1,2,3,4,1\na,"1,2,3,4,1\n', ["line 3", "cannot be split"]),
        (HEADER + "a,1,\0,3,4,1\n", ["line 2", "zero byte"]),
        ((HEADER + "a,1,2,3,4,1\n").encode("utf-16-le"), ["line 1", "zero byte", "--encoding utf-16-le"]),
        (b"\xff\xfe" + HEADER.encode(), ["line 1: the byte 0x0a", "utf-16-le"]),
    ],
    "tsv": [("path\tx0\ty0\tx1\ty1\na\t1\t2\t3\t?\n", ["line 2", "'y1' is '?'"])],
    "jsonl": [
        (f"{{{BOX}}}\n{{{BOX}", ["line 2, column", "the end of the text"]),
        (f"{{{BOX}}} x", ["line 1, column 36", "'x'"]),
        (f"\n[{BOX[-12:]}]", ["line 2", "[1, 2, 3, 4]", "JSON object"]),
        ('{"path": "a", "path": "b"}', ["line 1", "'path' 2 times"]),
        (f'{{{BOX}, "bbox": [1, 2, 3, 4]}}', ["line 1", "more than one"]),
        (f'{{{BOX}}}\n{{"path": "a", "bbox": [1, 2, 3, 4]}}', ["line 2", "bbox, but box on line 1"]),
        ('{"path": 7, "box": [1, 2, 3, 4]}', ["line 1", "'path' is 7"]),
        (r'{"path": "\ud800", "box": [1, 2, 3, 4]}', ["line 1", r"'\ud800'", "surrogates"]),
        ('{"path": "a", "box": [1, 2, 3]}', ["line 1", "'box' is [1, 2, 3]", "four numbers"]),
        ('{"path": "a", "box": [1, 2, true, 4]}', ["line 1", "box[2] is True", "a number"]),
        ('{"path": "a", "box": [1, 2, 1' + "0" * 5000 + ", 4]}", ["line 1", "'1000", "400 digits"]),
        (f'{{{BOX}, "score": "high"}}', ["line 1", "'score' is 'high'"]),
        (f'{{{BOX}, "label": [1]}}', ["line 1", "'label' is [1]", "text, a number, or null"]),
        (f'{{{BOX}, "id": false}}', ["line 1", "'id' is False"]),
        (
            f"{{{BOX}, " + ", ".join(f'"k{i}": 1' for i in range(1001)) + "}",
            ["line 1", "'k1000'", "allowed: 1000"],
        ),
        (f'{{{BOX}, "deep": {"[" * 100_000}{"]" * 100_000}}}', ["line 1", "too deeply"]),
    ],
    "coco": [
        ('{"images": [],\n "annotations": [', ["line 2, column 18", "the end of the text"]),
        (b'{"images":\n "\xe9"}', ["line 2, column 3", r"b'\xe9'", "UTF-8"]),
        ("[" * 100_000, ["too deeply"]),
        ("7", ["found 7", "COCO"]),
        ('{"info": {}, "annotations": []}', ["images", "is missing among", "'info'"]),
        (coco_with(images={}), ["images", "{}", "a list"]),
        (coco_with(annotations__1=7), ["annotations[1]", "found 7", "an object"]),
        (coco_with(images__1__id=9), ["images[1].id", "'9'", "images[0]"]),
        (coco_with(images__1__file_name="b.jpg"), ["images[1].file_name", "'b.jpg'", "images[0]"]),
        (coco_with(images__0__file_name=None), ["images[0].file_name", "missing"]),
        (coco_with(images__0__height=1.5), ["images[0].height", "found 1.5"]),
        (coco_with(annotations__1__image_id=5), ["annotations[1].image_id", "found 5", "images"]),
        (coco_with(annotations__0__category_id=5), ["annotations[0].category_id", "found 5", "categories"]),
        (coco_with(annotations__0__bbox=None), ["annotations[0].bbox", "missing", "four numbers"]),
        (coco_with(annotations__0__bbox=[1, 2, 3]), ["annotations[0].bbox", "[1, 2, 3]"]),
        (coco_with(annotations__0__bbox=[1, 2, "x", 4]), ["annotations[0].bbox[2]", "'x'", "a number"]),
        (coco_with(annotations__0__score="x"), ["annotations[0].score", "'x'"]),
        (coco_with(annotations__0__iscrowd="x"), ["annotations[0].iscrowd", "'x'"]),
        (coco_with(categories__1__name="cat"), ["categories[1].name", "'cat'", "categories[0]", "one class"]),
        (coco_with(categories__1__id=90), ["categories[1].id", "'90'", "categories[0]"]),
        ('[{"bbox": [1, 2, 3, 4]}]', ["[0].image_id", "missing"]),
        ('[{"file_name": "a", "bbox": [1, 2, 3, 4]}, {"image_id": 1}]', ["[1].file_name", "missing"]),
        ("[[1]]", ["[0]", "[1]", "an object"]),
    ],
    "voc": [
        ("<annotation>\n<object></annotation>", ["line 2", "<object></annotation>", "mismatched tag"]),
        ("", ["line 1", "no element"]),
        ("<svg/>", ["line 1", "<svg>", "<annotation>"]),
        ("<annotation>".ljust(2**23 + 1), ["found 8388609 bytes; allowed: up to 8388608"]),
        ("<?xml version='1.0' encoding='gb2312'?><annotation/>", ["line 1", "encoding"]),
        (
            "<annotation>\n<object><name>a</name></object></annotation>",
            ["line 2, object 1", "'name'", "bndbox"],
        ),
        (VOC.replace(b"<xmin>5</xmin>", b""), ["line 12, object 2", "xmin"]),
        (VOC.replace(b">5<", b">five<"), ["line 12, object 2", "xmin is 'five'", "a number"]),
        (VOC.replace(b">0.5<", b">high<"), ["line 10, object 2", "score is 'high'"]),
        (VOC.replace(b"<ymax>8</ymax>", b"<ymax>1<b>2</b>8</ymax>"), ["line 12, object 2", "ymax is '1 8'"]),
        (VOC.replace(b"<xmin>5", b"<xmin>5</xmin>\n<xmin>6"), ["line 13", "a second 'xmin'"]),
        (VOC.replace(b"</filename>", b"</filename><filename>c</filename>"), ["line 3", "second 'filename'"]),
        ('<!DOCTYPE annotation [<!ENTITY a "b">]><annotation/>', ["line 1", "DOCTYPE of 'annotation'"]),
        ('<!DOCTYPE x SYSTEM "http://localhost/x.dtd"><annotation/>', ["line 1", "DOCTYPE of 'x'"]),
    ],
    "yolo": [
        ("0 .1 .2 .3 .4\n0 .1 .2 .3", ["line 2", "4 fields", "'0 .1 .2 .3'", "class cx cy w h"]),
        ("0 .1 .2 .3 .4 .5 .6", ["line 1", "7 fields", "polygon"]),
        ("cat .1 .2 .3 .4", ["line 1", "class is 'cat'", "whole number from 0"]),
        ("-1 .1 .2 .3 .4", ["line 1", "class is '-1'"]),
        ("0 .1 .2 wide .4", ["line 1", "w is 'wide'", "a number"]),
        ("0 .1 .2 .3 .4 \xff", ["line 1", "score is 'ÿ'"]),
        (b"\xff\xfe0\0", ["line 1", "1 field"]),
    ],
    "numpy": [
        (b"", ["numpy.save"]),
        (b"path,x0", ["b'path,x0'", "numpy.save"]),
        (npy(np.zeros((2, 3))), ["shape (2, 3)", "(K, 4)"]),
        (npy(np.zeros((2, 4), dtype=bool)), ["'bool'", "integers or floats"]),
        (npy(np.zeros(2, dtype=[("x", "<f8")])), ["('x', '<f8')"]),
        (npy(np.array([[None] * 4]), allow_pickle=True), ["Python objects", "'|O'", "unpickled"]),
        (npy(np.zeros((2, 4)))[:-1], ["191 bytes", "(2, 4)", "192"]),
        (npy_header(shape="(1000000000000, 4)"), ["(1000000000000, 4)", "32000000000"]),
        (npy_header(shape="(-2, 4)"), ["(-2, 4)"]),
        (npy_header(shape=f"({'9' * 50}, 4)"), ["999"]),
        (npy_header(descr="<f3"), ["'<f3'"]),
        (npz(a=np.zeros((1, 4)), b=np.zeros((1, 3))), ["key 'b'", "shape (1, 3)"]),
        (npz(a=np.zeros((1, 4)))[:-30], ["damaged .npz"]),
        (zipped([("a.npy", npy(np.zeros((1, 4)))), ("b.txt", b"x")]), ["'b.txt'", ".npy"]),
        (zipped([("a.npy", npy_header(shape="(2000000, 4)"))]), ["key 'a'", "(2000000, 4)"]),
        (zipped([("a.npy", npy(np.zeros((2, 4))))], zipfile.ZIP_BZIP2), ["key 'a'", "compression 12"]),
        (zipped([("a.npy", npy(np.array([[None] * 4]), allow_pickle=True))]), ["key 'a'", "Python objects"]),
        (zipped([("a.npy", npy(np.zeros((9, 4))))]).replace(bytes(9), b"\1" * 9, 1), ["damaged .npz", "CRC"]),
    ],
}


@pytest.mark.parametrize(
    ("box_format", "content", "parts"),
    [(box_format, *case) for box_format, cases in MALFORMED.items() for case in cases],
    ids=lambda value: "" if isinstance(value, str | bytes) and len(value) > 5 else None,
)
def test_malformed(put, box_format, content, parts):
    path = put("broken.file", content)
    message_of(path, box_format, [repr(str(path)), *parts])


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_image_twice_in_an_npz(put):
    member = ("a.npy", npy(np.zeros((1, 4))))
    assert "key 'a': found twice" in message_of(put("b.npz", zipped([member, member])))


def test_an_archive_that_expands_too_far(put):
    # Once: 10 kB make a table of 380 MB.
    one, half = (npy(np.zeros((n, 4), dtype=np.uint8)) for n in (300_000, 150_000))
    for members in ([("a.npy", one)], [("b.npy", half), ("a.npy", half)]):
        parts = ["key 'a': found 300000 boxes or more in", "allowed: 200000, or 50 per byte"]
        message_of(put("b.npz", zipped(members, zipfile.ZIP_DEFLATED)), parts=parts)
    assert len(read_boxes(put("b.npz", zipped([("a.npy", half)], zipfile.ZIP_DEFLATED))).table) == 150_000


@pytest.mark.slow
def test_an_archive_that_expands_beyond_what_it_says(put):
    small = npy(np.array(ROWS))
    large = small + bytes(40 * 2**20)
    content = zipped([("a.npy", large)], zipfile.ZIP_DEFLATED)
    for says, said in ((len(small), len(large)), (zlib.crc32(small), zlib.crc32(large))):
        content = content.replace(said.to_bytes(4, "little"), says.to_bytes(4, "little"))
    path = put("b.npz", content)
    tracemalloc.start()
    assert read_boxes(path).table.boxes.tolist() == ROWS
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 2**20  # once 40, or as much as the file likes


@pytest.mark.parametrize(
    ("variables", "parts"),
    [
        ({"proposals": np.zeros((2, 4))}, ["boxes: found no such variable", "(K, 4)", "(read as mat"]),
        ({"boxes": np.zeros((2, 3))}, ["boxes", "(2, 3)"]),
        ({"boxes": "text"}, ["boxes", "<U4"]),
        ({"boxes": {"a": 1}}, ["boxes: found an array of shape (1, 1)"]),
        ({"boxes": cells([np.zeros((1, 4))])}, ["images", "no such variable"]),
        (
            {"boxes": cells([np.zeros((1, 4))]), "images": cells(["a", "b"])},
            ["images", "2 names for 1 cells"],
        ),
        (
            {"boxes": cells([np.zeros((1, 4))] * 2), "images": cells(["a", "a"])},
            ["images{2}", "'a'", "images{1}"],
        ),
        ({"boxes": cells([np.zeros((1, 4))]), "images": cells([7.0])}, ["images{1}", "7.0", "a name"]),
        ({"boxes": cells([np.zeros((1, 4))]), "images": np.array(["a"])}, ["images", "cell array"]),
        (
            {"boxes": cells([np.zeros((1, 4)), np.zeros((1, 2))]), "images": cells(["a", "b"])},
            ["boxes{2}", "(1, 2)"],
        ),
    ],
)
def test_malformed_mat(put, variables, parts):
    path = put("b.mat", mat(**variables))
    message_of(path, parts=[repr(str(path)), *parts])


def test_damaged_mat(put):
    content = mat(boxes=np.zeros((20, 4)))
    assert "scipy cannot read" in message_of(put("b.mat", content[:200]))
    assert "scipy cannot read" in message_of(put("b.mat", b"\1\1\1\0" + b"\1" * 300), "mat")
    assert "-v7" in message_of(put("b.mat", b"MATLAB 7.3 MAT-file" + bytes(600)))


def test_an_object_of_matlab_beside_the_boxes(put):
    content = mat(boxes=np.array(ROWS, dtype=float))
    flags, name = struct.pack("<4I", 6, 8, 17, 0), struct.pack("<2I8s", 1, 5, b"other")
    other = struct.pack("<2I", 14, 32) + flags + name  # of class 17, without a shape
    assert read_boxes(put("b.mat", content[:128] + other + content[128:])).table.boxes.tolist() == ROWS


def test_a_mat_that_expands_too_far(put):
    import scipy.io

    file = io.BytesIO()
    scipy.io.savemat(file, {"boxes": np.zeros((300_000, 4), dtype=np.uint8)}, do_compression=True)
    assert "boxes: found 300000 boxes or more in" in message_of(put("b.mat", file.getvalue()))


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ({"1.xml": VOC, "d/2.xml": VOC}, ["/d/2.xml', filename: found 'b.jpg'", "'1.xml'"]),
        (
            {"1.xml": VOC, "2.xml": VOC.replace(b"b.jpg", b"c.jpg").replace(b">8<", b"><")},
            ["/2.xml', line 12, object 2: ymax is ''"],
        ),
        ({"1.npy": npy(np.zeros((2, 4))), "2.npy": npy(np.zeros((2, 3)))}, ["/2.npy': found", "(2, 3)"]),
        ({"1.txt": b"0 0 0 1 1", "1.TXT": b""}, ["/1.txt'", "'1.TXT'"]),
        ({"1.txt": b"0 0 0 1 1", "classes.txt": b"\n"}, ["/classes.txt'", "found no class"]),
        ({"1.txt": b"0 0 0 1 1", "classes.txt": b"a\n\nb"}, ["/classes.txt', line 2: found ''"]),
        (
            {"1.txt": b"0 0 0 1 1", "classes.txt": b"a\nb\na"},
            ["/classes.txt', line 3: found 'a', as on line 1"],
        ),
    ],
)
def test_malformed_folder(put, tmp_path, files, parts):
    put("f/x.jpg", b"", files={f"f/{name}": content for name, content in files.items()})
    message_of(tmp_path / "f", parts=[str(tmp_path / "f"), *parts])


def test_what_cannot_be_read(put, tmp_path, monkeypatch):
    for path, reason in [
        (tmp_path / "gone.csv", "No such file"),
        (put("b.csv", CSV) / "x", "Not a directory"),
        ("a\0b", "null"),
        ("/dev/zero", "neither a file nor a folder"),
    ]:
        for read in (read_boxes, recognized):
            with pytest.raises(BoxError) as caught:
                read(path)
            assert repr(str(path)) in str(caught.value)
            assert reason in str(caught.value)

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", denied)
    with pytest.raises(BoxError, match=r"b\.csv': cannot be read: Permission denied"):
        read_boxes(tmp_path / "b.csv")


def test_what_does_not_fit_into_memory(put, monkeypatch):
    def read(_):
        raise MemoryError

    monkeypatch.setitem(formats._READERS, "csv", read)
    for box_format in (None, "csv"):
        assert "does not fit into memory" in message_of(put("b.csv", CSV), box_format)


@pytest.mark.parametrize("box_format", BOX_FORMATS)
def test_a_folder_without_files_of_the_format(tmp_path, box_format):
    message_of(tmp_path, box_format, [str(tmp_path), "folder"])


def test_links_pipes_and_cycles_in_a_folder(put, tmp_path):
    put("f/d/a.txt", YOLO)
    (tmp_path / "f" / "d" / "up").symlink_to(tmp_path / "f")
    (tmp_path / "f" / "other").symlink_to(tmp_path / "f" / "d")
    assert list(read_boxes(tmp_path / "f").table.images) == [b"d/a", b"other/a"]
    os.mkfifo(tmp_path / "f" / "pipe.txt")
    with pytest.raises(BoxError, match=r"pipe\.txt': is neither"):
        read_boxes(tmp_path / "f")


def test_a_link_to_the_names_of_classes_that_leads_nowhere(put, tmp_path):
    # Once: as if there were none, and classes go by their numbers.
    put("f/a.txt", YOLO)
    (tmp_path / "f" / "classes.txt").symlink_to("gone")
    with pytest.raises(BoxError, match=r"classes\.txt': cannot be read: No such file"):
        read_boxes(tmp_path / "f")


def test_further_keys_of_many_boxes(put, monkeypatch):
    # Once: a line of 1000 keys and 20,000 of none, 0.6 MB, make a table of 310 MB.
    monkeypatch.setattr(records, "_MOST_CELLS", 5000)
    keys = ", ".join(f'"k{i}": 1' for i in range(500))
    assert len(read_boxes(put("b.jsonl", "\n".join([f"{{{BOX}, {keys}}}"] * 20))).table) == 20
    message = message_of(put("b.jsonl", f"{{{BOX}, {keys}}}\n" + f"{{{BOX}}}\n" * 20))
    assert "line 13: found 13 boxes and 500 other keys; allowed: 6" in message


def test_nothing_is_opened_by_the_names_in_a_box_file(put, tmp_path, monkeypatch):
    pytest.importorskip("scipy.io")
    names = ["../../etc/passwd", "/etc/passwd", "C:\\x\\a.jpg", "file:///etc/passwd"]
    boxes = np.array(ROWS)
    entries = [
        {"file_name": name, "id": i, "image_id": i, "bbox": [1, 2, 3, 4]} for i, name in enumerate(names)
    ]
    rows = "path,x0,y0,x1,y1\n" + "".join(f"{name},1,2,3,4\n" for name in names)
    xml = VOC.replace(b"<folder>VOC2007", b"<path>/etc/passwd</path><folder>/etc")
    sources = [
        put("b.csv", rows),
        put("b.jsonl", "\n".join(map(json.dumps, entries))),
        put("b.json", json.dumps({"images": entries, "annotations": entries})),
        put("b.npz", zipped([(f"{name}.npy", npy(boxes)) for name in names])),
        put("b.mat", mat(boxes=cells([boxes] * len(names)), images=cells(names))),
        put("f/0.xml", xml.replace(b"b.jpg", names[0].encode()), files={"f/1.xml": xml}).parent,
    ]
    touched, is_on = [], False

    def touch(event, arguments):  # an audit hook cannot be taken away
        if is_on and event in ("open", "os.scandir", "os.listdir"):
            touched.append(os.fsdecode(arguments[0]))

    real_stat = os.stat
    sys.addaudithook(touch)
    monkeypatch.setattr(
        os, "stat", lambda path, **options: touched.append(path) or real_stat(path, **options)
    )
    for source in sources:
        inside = [source, *source.glob("*.xml")]
        read_boxes(source)  # what is imported late is imported now
        touched.clear()
        is_on = True
        table = read_boxes(source).table
        found, _ = match_images(table.images, b"/photos", [b"a.jpg", b"etc/passwd"])
        is_on = False
        assert {os.path.normpath(os.fsdecode(path)) for path in touched} <= set(map(str, inside))
        assert names[0].encode() in list(table.images)
        assert dict(zip(table.images, found, strict=True))[names[0].encode()] == 1
        assert dict(zip(table.images, found, strict=True)).get(b"/etc/passwd", -1) == -1


# ---- anything at all


def mutate(content, edits):
    mutated = bytearray(content)
    for kind, place, piece in edits:
        at = place % (len(mutated) + 1)
        if kind == "insert":
            mutated[at:at] = piece
        elif kind == "replace":
            mutated[at : at + len(piece)] = piece
        elif kind == "delete":
            del mutated[at : at + 1 + len(piece) * 3]
        else:
            del mutated[at:]
    return bytes(mutated)


PIECES = st.binary(min_size=1, max_size=4) | st.sampled_from(
    [*b'null [ { " , < &a; -1 1e999 nan true \xff'.split(), b"\n", b"\t", b"\0"]
)
EDITS = st.lists(
    st.tuples(st.sampled_from(["insert", "replace", "delete", "cut"]), st.integers(0, 4000), PIECES),
    min_size=1,
    max_size=4,
)


@pytest.mark.slow
@pytest.mark.parametrize("box_format", FILES)  # damaged .mat files are scipy's
@settings(max_examples=100)
@given(edits=EDITS, random=st.none() | st.binary(max_size=200), named=st.booleans())
def test_anything_gives_a_table_or_a_box_error(tmp_path, box_format, edits, random, named):
    name, content = FILES[box_format]
    path = tmp_path / name
    path.write_bytes(mutate(content, edits) if random is None else random)
    try:
        rows_of(read_boxes(path, box_format=box_format if named else None).table)
        return
    except BoxError as error:
        message = str(error)
    assert str(path) in message
    assert "allowed" in message
