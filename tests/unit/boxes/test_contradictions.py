# ruff: noqa: F811 - put is a fixture
"""Box files that contradict themselves: rotated boxes, two names of one image, ids of another file."""

import json
import math

import pytest
from test_formats import assert_rows, message_of, put  # noqa: F401

from sppfeat.boxes.formats import read_boxes
from sppfeat.errors import BoxError, ConfigError

NAN = math.nan


def voc(filename, *objects):
    name = f"<filename>{filename}</filename>" if filename else ""
    return f"<annotation>{name}{''.join(objects)}</annotation>"


def voc_object(box="bndbox", more=""):
    corners = "".join(f"<{tag}>{n}</{tag}>" for n, tag in enumerate(("xmin", "ymin", "xmax", "ymax"), 1))
    return f"<object><name>cat</name><{box}>{corners}</{box}>{more}</object>"


def voc_rotation(angle):
    pairs = (("other", "x"), ("rotation", angle))
    attributes = "".join(
        f"<attribute><name>{name}</name><value>{value}</value></attribute>" for name, value in pairs
    )
    return f"<attributes>{attributes}</attributes>"


def instances(*categories, boxes=(), images=((1, "1.jpg"), (2, "10.jpg"))):
    return json.dumps({
        "images": [{"id": i, "file_name": name, "width": 640, "height": 480} for i, name in images],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": category, "bbox": [1, 2, 3, 4], **more}
            for i, (category, more) in enumerate(boxes)
        ],
        "categories": [
            {"id": i, "name": name, "supercategory": parent} for i, name, parent in categories
        ],
    })  # fmt: skip


# ---- rotated boxes


@pytest.mark.parametrize(
    ("name", "content", "extra"),
    [
        ("a.xml", voc("a.jpg", voc_object(more=voc_rotation("45.0")), voc_object()), (b"45.0", b"")),
        ("a.json", instances((1, "cat", ""), boxes=[(1, {"attributes": {"rotation": 45.0}}), (1, {})]), (b"45", b"")),
        ("a.csv", "image,xmin,ymin,xmax,ymax,Rotation\na.jpg,1,2,3,4,45\na.jpg,1,2,3,4,0\n", (b"45", b"0")),
    ],
)  # fmt: skip
def test_a_rotation_is_kept_and_said(put, name, content, extra):
    table = read_boxes(put(name, content)).table
    note = table.notes[-1]
    assert note.startswith("1 box has a rotation (45 ")
    assert note.endswith("which is not applied")
    assert tuple(table.extra[[n.lower() for n in table.extra_names].index("rotation")]) == extra


def test_a_rotation_of_zero_is_none(put):
    content = voc("a.jpg", voc_object(more=voc_rotation("0.0")), voc_object(more=voc_rotation("?")))
    assert read_boxes(put("a.xml", content)).table.notes == ()


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.xml", voc("a.jpg", voc_object("robndbox")), ["found a robndbox, which is a rotated box", "bndbox"]),
        ("a.txt", "0 .1 .2 .3 .2 .3 .4 .1 .4", ["found 9 fields", "four corners of a rotated box, OBB"]),
        ("a.txt", "0 .1 .2 .3 .2 .3 .4 .1 .4 .9", ["found 10 fields", "four corners of a rotated box, OBB"]),
        ("a.txt", "1 2 3 4 5 6 7 8 plane 0", ["found 10 fields", "rotated box, as DOTA writes them"]),
        ("a.csv", "image,x1,y1,x2,y2,x3,y3,x4,y4\na.jpg,1,2,3,2,3,4,1,4\n", ["corners of rotated boxes", "upright"]),
        ("a.json", instances(boxes=[(None, {"bbox": [1, 2, 3, 4, 30]})]), ["five numbers are a rotated box"]),
        ("a.json", json.dumps([{"image_id": 1, "bbox": [1, 2, 3, 4, 5, 6, 7, 8]}]), ["eight numbers are the corners"]),
    ],
)  # fmt: skip
def test_boxes_that_are_nothing_but_rotated_are_refused(put, name, content, parts):
    box_format = "yolo" if name == "a.txt" else None
    message_of(put(name, content), box_format, parts)


def test_scores_of_yolo_that_may_be_angles_are_said(put):
    content = "0 .5 .5 .2 .2 1.57\n0 .5 .5 .2 .2 -.3\n0 .5 .5 .2 .2 .9\n0 .5 .5 .2 .2\n"
    (note,) = read_boxes(put("a.txt", content)).table.notes
    assert note.startswith("2 boxes have a sixth number outside 0..1, read as score")


# ---- the name of the file, and the one inside


@pytest.mark.parametrize(
    ("inside", "own"),
    [
        ("im0.jpg", None),
        ("IM0.JPG", None),
        ("D:\\photos\\im0.png", None),
        ("im0", None),
        ("", None),
        ("im1.jpg", b"sub/im0"),
        ("sub/im1.jpg", b"sub/im0"),
    ],
)
@pytest.mark.parametrize("suffix", ["xml", "json"])
def test_the_name_of_a_file_is_kept_where_the_one_inside_differs(put, tmp_path, suffix, inside, own):
    content = json.dumps({"shapes": [], "imagePath": inside}) if suffix == "json" else voc(inside)
    put(f"f/sub/im0.{suffix}", content)
    table = read_boxes(tmp_path / "f").table
    assert (None if table.own_names is None else list(table.own_names)) == (None if own is None else [own])
    for names, expected in (("inside", inside.encode()), ("file", b"sub/im0")):
        chosen = read_boxes(tmp_path / "f", names=names).table
        assert chosen.own_names is None
        if inside:
            assert list(chosen.images) == [expected]


def test_two_files_of_one_name_inside(put, tmp_path):
    put("f/a.xml", voc("a.jpg"), files={"f/b.xml": voc("a.jpg")})
    message_of(tmp_path / "f", parts=["found 'a.jpg', as in 'a.xml'", "--box-names file"])
    assert list(read_boxes(tmp_path / "f", names="file").table.images) == [b"a", b"b"]


def test_options_are_part_of_the_digest(put, tmp_path):
    put("f/a.xml", voc("a.jpg"))
    digests = {read_boxes(tmp_path / "f", names=names).sha256 for names in (None, "inside", "file")}
    assert len(digests) == 3


# ---- COCO


@pytest.mark.parametrize(
    ("categories", "boxes", "classes"),
    [
        ([(0, "cats", "none"), (1, "cat", "cats")], [(1, {})], ("cat",)),  # Roboflow's root
        ([(0, "cats", "none"), (1, "cat", "cats")], [], ("cat",)),
        ([(0, "cat", "none"), (1, "cat", "cat"), (2, "dog", "cat")], [(1, {}), (2, {})], ("cat", "dog")),
        ([(0, "cat", "none"), (1, "cat", "cat")], [(0, {})], ("cat",)),
        ([(0, "cats", "none"), (1, "cat", "cats")], [(0, {}), (1, {})], ("cats", "cat")),
        ([(1, "cat", "pet"), (2, "cat", "pet")], [(2, {})], ("cat",)),
        ([(1, "cat", "pet"), (2, "cat", "pet")], [], ("cat",)),
        ([(1, "cat", "none"), (2, "dog", "none")], [(2, {})], ("cat", "dog")),  # a class without boxes here
    ],
)
def test_categories_that_no_box_has(put, categories, boxes, classes):
    table = read_boxes(put("a.json", instances(*categories, boxes=boxes))).table
    assert table.classes == classes
    names = {i: name for i, name, _ in categories}
    assert [table.classes[label] for label in table.label.tolist()] == [names[i] for i, _ in boxes]


def test_two_categories_of_one_name_that_boxes_have_are_refused(put):
    content = instances((1, "cat", "pet"), (2, "cat", "pet"), boxes=[(1, {}), (2, {})])
    message_of(put("a.json", content), parts=["categories[1].name", "categories[0]", "boxes use both"])


RESULTS = [{"image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]
GROUND_TRUTH = instances((0, "pets", "none"), (1, "cat", "pets"), (7, "dog", "pets"))


def test_instances_name_the_ids_of_results(put):
    path, truth = put("r.json", json.dumps(RESULTS)), put("gt.json", GROUND_TRUTH)
    found = read_boxes(path, images=truth, categories=truth)
    table = found.table
    assert (table.names, table.classes, table.notes) == ("path", ("cat", "dog"), ())
    assert table.image_hw.tolist() == [[480, 640]]
    assert_rows(table, [(b"10.jpg", (1.0, 2.0, 3.0, 4.0), "cat", 0.5, b"", ())])
    plain = read_boxes(path)
    assert plain.sha256 != found.sha256
    assert [list(plain.table.images), plain.table.classes] == [[b"2"], ("1",)]
    images, categories = plain.table.notes
    assert "read as file names" in images
    assert "--box-images INSTANCES.json" in images
    assert "--box-categories INSTANCES.json" in categories


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"image_id": 3}, ["[0].image_id: found 3", "images of --box-images"]),
        ({"category_id": 3}, ["[0].category_id: found 3", "categories of --box-categories"]),
        ({"file_name": "2.jpg"}, ["[0].file_name: found '2.jpg'", "'10.jpg'", "--box-images"]),
    ],
)
def test_results_that_do_not_go_with_the_instances(put, change, parts):
    path, truth = put("r.json", json.dumps([RESULTS[0] | change])), put("gt.json", GROUND_TRUTH)
    with pytest.raises(BoxError) as caught:
        read_boxes(path, images=truth, categories=truth)
    assert all(part in str(caught.value) for part in parts)


def test_instances_that_cannot_be_used(put, tmp_path):
    path, truth = put("r.json", json.dumps(RESULTS)), put("gt.json", GROUND_TRUTH)
    with pytest.raises(BoxError, match=r"no\.json.*cannot be read"):
        read_boxes(path, images=tmp_path / "no.json")
    with pytest.raises(BoxError, match=r"r\.json.*allowed: an object of COCO instances"):
        read_boxes(path, categories=path)
    with pytest.raises(BoxError, match=r"gt\.json.*has its own images and categories"):
        read_boxes(truth, images=truth)
    table = put("a.csv", "image,x,y,w,h\na.jpg,1,2,3,4\n")
    for option in ("images", "categories"):
        with pytest.raises(ConfigError, match=f"box-{option} is .*gt.json', but the boxes are in csv"):
            read_boxes(table, **{option: truth})
    with pytest.raises(
        ConfigError, match=r"box-names is 'file', but the boxes are in csv; allowed: voc, labelme"
    ):
        read_boxes(table, names="file")
    with pytest.raises(ConfigError, match=r"box-names is 'both'; allowed: inside, file"):
        read_boxes(table, names="both")
