# ruff: noqa: F811 - put is a fixture
"""Box files of annotation tools: CVAT, LabelMe, VIA and Parquet, and the names of those that are not read."""

import io
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_formats import EDITS, assert_rows, message_of, mutate, put, rows_of, zipped  # noqa: F401

from sppfeat.boxes.formats import read_boxes
from sppfeat.config.regions import BoxConvention
from sppfeat.errors import BoxError, ConfigError

NAN = math.nan
PIXELS = BoxConvention()

BOX = '<box label="cat" occluded="1" xtl="10" ytl="20.5" xbr="110" ybr="220" z_order="0"/>'


def cvat(*images):
    return (
        "<?xml version='1.0'?>\n<annotations><version>1.1</version>\n" + "\n".join(images) + "</annotations>"
    )


def image(name, *shapes, size='width="640" height="480"'):
    return f'<image id="0" name="{name}" {size}>\n' + "\n".join(shapes) + "</image>"


def labelme(*shapes, name="im0.jpg", **others):
    content = {"version": "5.0.1", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": "AAAA"}
    return json.dumps({**content, "imageHeight": 480, "imageWidth": 640, **others})


def rectangle(*points, label="cat", kind="rectangle", **others):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **others}


def region(kind="rect", box=(10, 20, 100, 200), **attributes):
    shape = {"name": kind} | dict(zip(("x", "y", "width", "height"), box, strict=True))
    return {"shape_attributes": shape, "region_attributes": attributes}


def via(*regions, **others):
    entries = {"im0.jpg123": {"filename": "im0.jpg", "size": 123, "regions": regions, "file_attributes": {}}}
    return json.dumps({**entries, **others})


def via_csv(*regions, name="im0.jpg"):
    header = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
    cells = [
        [json.dumps(part).replace('"', '""') for part in (of["shape_attributes"], of["region_attributes"])]
        for of in regions
    ]
    lines = [f'{name},123,"{{}}",{len(cells)},{i},"{a}","{b}"\n' for i, (a, b) in enumerate(cells)]
    return header + "".join(lines) + 'none.jpg,9,"{}",0,0,"{}","{}"\n'


def parquet(**columns):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


TOOL_FILES = {
    "cvat": cvat(image("im0.jpg", BOX, '<polygon label="a" points="1,2"/>')).encode(),
    "labelme": labelme(rectangle([1, 2], [3, 4]), rectangle([1, 2], [3, 4], kind="line")).encode(),
    "via": via(region(name="cat"), region("circle")).encode(),
    "via csv": via_csv(region(name="cat"), region("circle")).encode(),
}


# ---- CVAT


def test_cvat(put):
    other = image("b/im1.png", '<tag label="x"/>', BOX.replace("cat", "dog").replace("1", "0", 1), size="")
    found = read_boxes(put("annotations.xml", cvat(image("im0.jpg", BOX, BOX), other, image("none.jpg"))))
    table = found.table
    assert (found.box_format, table.convention, table.classes) == ("cvat", PIXELS, ("cat", "dog"))
    assert list(table.images) == [b"im0.jpg", b"b/im1.png", b"none.jpg"]
    assert table.image_hw.tolist() == [[480, 640], [0, 0], [480, 640]]
    assert (table.extra_names, table.notes) == (("occluded",), ())
    box = (10.0, 20.5, 110.0, 220.0)
    assert_rows(
        table,
        [
            (b"im0.jpg", box, "cat", NAN, b"im0.jpg:1", (b"1",)),
            (b"im0.jpg", box, "cat", NAN, b"im0.jpg:2", (b"1",)),
            (b"b/im1.png", box, "dog", NAN, b"b/im1.png:1", (b"0",)),
        ],
    )


def test_cvat_shapes_that_are_no_boxes_are_counted(put):
    polygon = '<polygon label="cat" points="1,2;3,4;5,6"><attribute name="a">b</attribute></polygon>'
    skeleton = (
        '<skeleton label="hand"><points label="1" points="1,2"/><points label="2" points="3,4"/></skeleton>'
    )
    turned = BOX.replace("/>", ' rotation="45.00"/>')
    table = read_boxes(put("a.xml", cvat(image("a.jpg", polygon, polygon, skeleton, turned, BOX)))).table
    assert len(table) == 2
    assert table.notes == (
        "3 shapes are not boxes and have no row: 2 polygon, 1 skeleton",
        "1 box has a rotation (45 degrees), which is not applied",
    )


def test_a_folder_of_cvat_files(put, tmp_path):
    put(
        "f/job1/annotations.xml", cvat(image("a.jpg", BOX)), files={"f/job2/a.xml": cvat(image("b.jpg", BOX))}
    )
    assert list(read_boxes(tmp_path / "f").table.images) == [b"a.jpg", b"b.jpg"]
    put("f/job3/a.xml", cvat(image("a.jpg")))
    assert "line 3: found the image 'a.jpg', as in job1/annotations.xml, line 3" in message_of(tmp_path / "f")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (
            cvat('<track id="0" label="cat"><box frame="0" xtl="1"/></track>'),
            ["line 3", "CVAT for video"],
        ),
        (cvat(image("a.jpg", BOX.replace('ybr="220"', ""))), ["line 4", "ybr is ''", "a number"]),
        (cvat(image("a.jpg", BOX.replace("220", "x"))), ["line 4", "ybr is 'x'"]),
        (cvat(image("")), ["line 3", "without name"]),
        (cvat(image("a.jpg"), image("a.jpg")), ["line 5", "found the image 'a.jpg'", "once"]),
        (cvat(image("a.jpg"))[:-4], ["line 4", "unclosed token"]),
    ],
)
def test_malformed_cvat(put, content, parts):
    message_of(put("a.xml", content), None, parts)


# ---- LabelMe


def test_labelme_folder(put, tmp_path):
    upright = rectangle([5, 6], [1, 6], [1, 2], [5, 2], label="dog", score=0.5)
    put(
        "f/b.json",
        labelme(rectangle([110, 220], [10, 20]), upright),
        files={"f/a.json": labelme(name="..\\i\\a.jpg")},
    )
    found = read_boxes(tmp_path / "f")
    assert (found.box_format, found.table.convention) == ("labelme", PIXELS)
    assert list(found.table.images) == [b"..\\i\\a.jpg", b"im0.jpg"]
    assert found.table.image_hw.tolist() == [[480, 640]] * 2
    rows = [
        (b"im0.jpg", (10.0, 20.0, 110.0, 220.0), "cat", NAN, b"b.json:1", ()),
        (b"im0.jpg", (1.0, 2.0, 5.0, 6.0), "dog", 0.5, b"b.json:2", ()),
    ]
    assert_rows(found.table, rows)
    assert_rows(read_boxes(tmp_path / "f" / "b.json").table, rows)


@pytest.mark.parametrize(
    "content",
    [
        labelme(rectangle([1, 2], [3, 4])).replace("\n", ""),
        json.dumps(
            json.loads(labelme(rectangle([1, 2], [3, 4]), imageData="A" * 200_000)), sort_keys=True, indent=1
        ),
        labelme(rectangle([1, 2], [3, 4])),
    ],
)
def test_labelme_is_recognised_in_any_layout(put, content):
    found = read_boxes(put("a.json", content))
    assert (found.box_format, len(found.table)) == ("labelme", 1)


def test_labelme_shapes_that_are_no_boxes_are_counted(put):
    shapes = [
        rectangle([1, 2], [3, 4], [5, 6], kind="polygon"),
        rectangle([1, 2], [3, 4], kind=None),
        rectangle([1, 2], [3, 4], kind="circle"),
        rectangle([0, 1], [1, 0], [2, 1], [1, 2]),
    ]
    table = read_boxes(put("a.json", labelme(*shapes))).table
    assert (len(table), list(table.images)) == (0, [b"im0.jpg"])
    assert table.notes == (
        "4 shapes are not boxes and have no row: 1 circle, 2 polygon, 1 rotated rectangle",
    )


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (labelme(7), ["shapes[0]", "found 7"]),
        (labelme(rectangle([1, 2])), ["shapes[0].points", "two or four corners"]),
        (labelme(rectangle([1, 2], [3])), ["shapes[0].points", "points x, y"]),
        (labelme(rectangle([1, 2], [3, "x"])), ["shapes[0].points[1]", "'x'", "a number"]),
        (labelme(rectangle([1, 2], [3, 4], label=[1])), ["shapes[0].label", "[1]"]),
        (labelme(name=7), ["imagePath", "found 7"]),
        ('{"imageData": "A"}', ["a list of shapes"]),
    ],
)
def test_malformed_labelme(put, content, parts):
    message_of(put("a.json", content), None, parts)


def test_two_labelme_files_of_an_image(put, tmp_path):
    put("f/a.json", labelme(), files={"f/b.json": labelme()})
    message_of(
        tmp_path / "f", None, ["b.json', imagePath: found 'im0.jpg', as in 'a.json'", "one file per image"]
    )


# ---- VIA


def project(*regions):
    return json.dumps(
        {"_via_settings": {"core": {}}, "_via_img_metadata": json.loads(via(*regions)), "_via_attributes": {}}
    )


def numbered(*regions):
    content = json.loads(via())
    content["im0.jpg123"]["regions"] = {str(i): of for i, of in enumerate(regions)}
    return json.dumps(content)


@pytest.mark.parametrize("write", [via, numbered, project, via_csv])
@pytest.mark.parametrize("name", ["a.json", "a.csv"])
def test_via(put, write, name):
    polygon = {"shape_attributes": {"name": "polygon", "all_points_x": [1]}, "region_attributes": {}}
    found = read_boxes(
        put(name, write(region(species="cat\n"), polygon, region(box=(0, 1, 2, 3), species="")))
    )
    table = found.table
    assert (found.box_format, table.convention) == ("via", BoxConvention(coords="xywh"))
    assert list(table.images) == [b"im0.jpg", b"none.jpg"][: 1 + (write is via_csv)]
    assert table.boxes.tolist() == [[10, 20, 100, 200], [0, 1, 2, 3]]
    assert (table.classes, table.label.tolist()) == (("cat",), [0, -1])
    assert table.notes == (
        "the class of a box is its region attribute 'species'",
        "1 shape is not a box and has no row: 1 polygon",
    )


def test_via_classes_come_from_the_attribute_that_is_named(put):
    path = put("a.json", via(region(name="cat", type="pet"), region(name="dog", type="pet")))
    ambiguous = read_boxes(path).table
    assert ambiguous.classes == ()
    assert (
        "several region attributes could be it, 'name', 'type'; choose one with --box-label NAME"
        in ambiguous.notes[0]
    )
    assert read_boxes(path, label="type").table.classes == ("pet",)
    assert read_boxes(path, label="name").table.classes == ("cat", "dog")
    message_of_label = "found the region attributes 'name', 'type'"
    with pytest.raises(BoxError, match=message_of_label):
        read_boxes(path, label="kind")
    usual = read_boxes(put("b.json", via(region(label="cat", truncated="no")))).table
    assert usual.classes == ("cat",)
    assert usual.notes == (
        "the class of a box is its region attribute 'label' (of 'label', 'truncated'; choose another with --box-label)",
    )


def test_via_checkboxes(put):
    path = put("a.json", via(region() | {"region_attributes": {"k": {"cat": True, "dog": False}}}))
    assert read_boxes(path).table.classes == ("cat",)
    path = put("b.json", via(region() | {"region_attributes": {"k": {"cat": True, "dog": True}}}))
    message_of(path, None, ["'k' is 'cat', 'dog'", "one class per box"])


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (via(region(box=(1, 2, 3, "x"))), ["regions[0]", "height is 'x'"]),
        (via(7), ["regions[0]", "found 7"]),
        (via(other={"filename": "", "regions": []}), ["other", "the name of an image"]),
        (via(other={"filename": "im0.jpg", "regions": []}), ["'im0.jpg'", "once"]),
        (via_csv(region()).replace('""rect""', "rect"), ["line 2, column", "not JSON"]),
    ],
)
def test_malformed_via(put, content, parts):
    message_of(put("a.json", content), "via", parts)


# ---- Parquet


def test_parquet(put):
    content = parquet(
        path=["a.jpg", "b.jpg"],
        xmin=[1, 2],
        ymin=[3, 4],
        xmax=[5.5, None],
        ymax=[7, 8],
        label=["cat", None],
        n=[1, 2],
    )
    found = read_boxes(put("boxes", content))
    assert (found.box_format, found.table.convention, found.table.extra_names) == ("parquet", PIXELS, ("n",))
    assert_rows(
        found.table,
        [
            (b"a.jpg", (1.0, 3.0, 5.5, 7.0), "cat", NAN, b"", (b"1",)),
            (b"b.jpg", (2.0, 4.0, NAN, 8.0), None, NAN, b"", (b"2",)),
        ],
    )


def test_parquet_with_lists_and_other_types(put):
    import datetime

    pa = pytest.importorskip("pyarrow")
    content = parquet(
        file_name=[b"\xff.jpg"],
        bbox=[[1, 2, 3, 4]],
        category=pa.array(["dog"]).dictionary_encode(),
        day=[datetime.date(2026, 1, 2)],
    )
    table = read_boxes(put("a.parquet", content)).table
    assert table.convention == BoxConvention(coords="xywh")
    assert_rows(table, [(b"\xff.jpg", (1.0, 2.0, 3.0, 4.0), "dog", NAN, b"", (b'"2026-01-02"',))])


def test_class_numbers_beside_missing_ones(put):
    content = parquet(path=["a", "b"], box=[[1, 2, 3, 4]] * 2, label=[2.0, NAN])
    table = read_boxes(put("a.parquet", content)).table
    assert (table.classes, table.label.tolist()) == (("2",), [0, -1])


def test_malformed_parquet(put):
    box = {"path": ["a"], "x": [1], "y": [2], "w": [3], "h": [4]}
    content = parquet(**box)
    message_of(put("a", content[:-20]), None, ["cannot be read as Parquet"])
    message_of(put("b", parquet(x=[1])), None, ["columns: found 'x', which describes no box"])
    message_of(put("c", parquet(**box | {"path": [None]})), None, ["row 0", "'path' is None"])
    message_of(put("d", parquet(**box | {"x": ["1px"]})), None, ["row 0", "'x' is '1px'"])
    many = parquet(**{name: values * 1_000_000 for name, values in box.items()})
    message_of(put("e", many), None, ["found 1000000 boxes or more in"])


# ---- the class


def test_any_column_may_be_the_class(put):
    text = "path;x0;y0;x1;y1;label;Species\na.jpg;1;2;3;4;x;cat\n"
    assert read_boxes(put("a.csv", text), label="species").table.classes == ("cat",)
    with pytest.raises(BoxError, match="but no column 'kind'; --box-label takes one of these"):
        read_boxes(put("a.csv", text), label="kind")
    line = '{"path": "a.jpg", "box": [1, 2, 3, 4], "species": "cat"}'
    assert read_boxes(put("a.jsonl", line), label="species").table.classes == ("cat",)
    with pytest.raises(ConfigError, match="box-label is 'species', but the boxes are in cvat; allowed: csv"):
        read_boxes(put("a.xml", cvat()), label="species")


def test_encodings_of_box_files(put):
    text = "path,x0,y0,x1,y1,label\nÄ.jpg,1,2,3,4,Käfer\n"
    for content, encoding in [(text.encode("utf-16"), None), (text.encode("cp1252"), "cp1252")]:
        table = read_boxes(put("a.csv", content), encoding=encoding).table
        assert (list(table.images), table.classes) == (["Ä.jpg".encode()], ("Käfer",))
    coco = json.dumps([{"file_name": "Ä.jpg", "bbox": [1, 2, 3, 4]}], ensure_ascii=False).encode("utf-16")
    assert list(read_boxes(put("a.json", coco)).table.images) == ["Ä.jpg".encode()]


# ---- what is not read

FOREIGN = {
    "CreateML": json.dumps([{"image": "a", "annotations": [{"label": "c", "coordinates": {"x": 1}}]}]),
    "CreateML ": json.dumps([{"image": "a", "annotations": []}]),
    "Label Studio": json.dumps([{"id": 1, "annotations": [{"result": []}], "data": {"image": "/a"}}]),
    "Label Studio ": json.dumps([{"image": "a", "id": 1, "label": [], "annotator": 1, "annotation_id": 1}]),
    "Label Studio  ": "image,id,label,annotator,annotation_id,created_at\na,1,[],1,1,x\n",
    "Labelbox": json.dumps({"data_row": {"id": "x"}, "projects": {"p": {"labels": []}}}) + "\n",
    "Labelbox ": json.dumps([{"ID": "x", "DataRow ID": "y", "Label": {"objects": []}}]),
    "Supervisely": json.dumps(
        {"tags": [], "size": {"height": 1, "width": 2}, "objects": [{"classTitle": "c"}]}
    ),
    "Datumaro": json.dumps({"info": {}, "categories": {}, "items": [{"id": "a", "annotations": []}]}),
    "VIA 3": json.dumps({"project": {"pid": "x"}, "metadata": {}, "file": {}}),
    "Open Images": "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n",
    "Excel": zipped([("[Content_Types].xml", b""), ("xl/workbook.xml", b"")]),
    "Excel ": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
    "zip archive": zipped([("annotations.xml", b"")]),
    "Feather": b"ARROW1\0\0" + bytes(100),
    "gzip": b"\x1f\x8b\x08" + bytes(20),
    "pickle": b"\x80\x04\x95" + bytes(20),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(20),
    "HTML": "<!DOCTYPE html>\n<html><head>",
    "YOLO dataset": "train: ../train/images\nnc: 1\nnames: [a]\n",
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("suffix", [".json", ".csv", ""])
def test_what_is_not_read_is_named_with_advice(put, name, suffix):
    message = message_of(put(f"boxes{suffix}", FOREIGN[name]))
    assert name.strip() in message
    assert "which is not supported: " in message


def test_a_wrong_format_that_is_named_tells_the_right_one(put):
    path = put("a.json", FOREIGN["Label Studio"])
    assert "it looks like JSON of Label Studio" in message_of(path, "coco")
    assert "it looks like cvat" in message_of(put("a.xml", cvat()), "voc")


@pytest.mark.parametrize("suffix", [".json", ".txt"])
def test_a_folder_tells_its_format_by_its_first_file_with_content(put, tmp_path, suffix):
    put(f"f/a{suffix}", "", files={f"f/b{suffix}": FOREIGN["Supervisely"]})
    assert "JSON of Supervisely" in message_of(tmp_path / "f")


@pytest.mark.parametrize(
    "content",
    [
        {"images": [{"id": 1, "file_name": "a"}], "info": {"regions": 1, "filename": "b"}, "annotations": []},
        {"items": {}, "categories": [], "annotations": [], "images": []},
        [{"image_id": 1, "bbox": [1, 2, 3, 4], "image": "a", "annotations": []}],
        {"imageData": 1, "annotations": [], "images": []},
    ],
)
def test_further_keys_do_not_hide_coco(put, content):
    assert read_boxes(put("a.json", json.dumps(content))).box_format == "coco"


def test_text_without_a_header(put):
    for row in ("/data/a.jpg,1,2,3,4,cat\n", "TRAIN,gs://b/a.jpg,cat,0.1,0.1,,,0.2,0.2,,\n"):
        message_of(put("a.csv", row), None, ["line 1", "a header, the names of the columns"])


def test_decimal_commas(put):
    message_of(
        put("a.csv", "path;x0;y0;x1;y1\na;1,5;2;3;4\n"), None, ["'x0' is '1,5'", "with a decimal point"]
    )


def test_xml_that_declares_no_encoding(put):
    content = cvat(image("Käfer.jpg", BOX)).encode("cp1252")
    message_of(put("a.xml", content), None, ["line 3", "invalid token", "--encoding cp1252"])
    assert list(read_boxes(put("a.xml", content), encoding="cp1252").table.images) == ["Käfer.jpg".encode()]
    declared = content.replace(b"'1.0'", b"'1.0' encoding='latin-1'")
    assert list(read_boxes(put("a.xml", declared), encoding="cp437").table.images) == ["Käfer.jpg".encode()]


def test_utf16_without_a_mark_in_a_box_file(put):
    text = "path,x0,y0,x1,y1\na.jpg,1,2,3,4\n"
    for encoding in ("utf-16-le", "utf-16-be"):
        path = put("a.csv", text.encode(encoding))
        message_of(path, None, [f"--encoding {encoding}"])
        assert len(read_boxes(path, encoding=encoding).table) == 1


def test_names_of_images_in_another_encoding_are_noted(put):
    path = put("a.csv", "path,x0,y0,x1,y1\nkäfer.jpg,1,2,3,4\n".encode("cp1252"))
    _, note = read_boxes(path).table.notes
    assert note == (
        "1 name of an image is not UTF-8, such as b'k\\xe4fer.jpg'; for text from Windows add --encoding cp1252"
    )
    assert list(read_boxes(path, encoding="cp1252").table.images) == ["käfer.jpg".encode()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", TOOL_FILES)
@settings(max_examples=100)
@given(edits=EDITS, named=st.booleans())
def test_anything_gives_a_table_or_a_box_error(tmp_path, kind, edits, named):
    path = tmp_path / "boxes"
    path.write_bytes(mutate(TOOL_FILES[kind], edits))
    try:
        rows_of(read_boxes(path, box_format=kind.split()[0] if named else None).table)
        return
    except BoxError as error:
        message = str(error)
    assert str(path) in message
    assert "allowed" in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "path,x0,y0,x1,y1,label,note\na.jpg,1,2,3,4,cat,x\n"),
        ("a.jsonl", '{"path": "a.jpg", "x0": 1, "y0": 2, "x1": 3, "y1": 4, "label": "cat", "note": "x"}\n'),
    ],
)
def test_the_columns_of_a_table_are_noted(put, name, content):
    assert read_boxes(put(name, content)).table.notes == (
        "box columns: x0,y0,x1,y1; image names from 'path', classes from 'label'; also kept: note",
    )
