"""Exports of YOLO labels: where their class names are, which image a label file is of, and the files beside them."""

import pytest

from sppfeat.boxes.formats import read_boxes
from sppfeat.errors import BoxError

LINE = "1 .5 .5 .2 .2\n"


def put(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def read(folder, files, given="."):
    put(folder, files)
    return read_boxes(folder / given)


@pytest.mark.parametrize(
    "names",
    [
        "names: [cat, dog]",
        "names: ['cat', \"dog\"]  # two",
        "names: [\n  'cat',  # first\n  dog,\n]\nnc: 2",
        "nc: 2\nnames:\n- cat\n- 'dog'\nroboflow:\n  url: x",
        "path: ..\nnames:\n  0: cat\n  1: dog # the last\n\ndownload: x",
        "names: {0: cat, 1: 'dog'}",
        "names:\n  1: dog\n  0: cat",
    ],
)
@pytest.mark.parametrize("file", ["data.yaml", "dataset.yml"])
def test_names_in_yaml(tmp_path, names, file):
    table = read(tmp_path, {"a.txt": LINE, file: f"train: ../train/images\n{names}\n"}).table
    assert (table.classes, table.label.tolist(), table.notes) == (("cat", "dog"), [1], ())


def test_quotes_and_signs_in_names(tmp_path):
    text = "names: ['it''s, [a] #1', \"b: \\\"c\\\"\", bird's nest]\n"
    table = read(tmp_path, {"a.txt": LINE, "d.yaml": text}).table
    assert table.classes == ("it's, [a] #1", 'b: "c"', "bird's nest")
    put(tmp_path, {"d.yaml": "names:\n  - 'c #1'  # one\n  - C# \n"})
    assert read_boxes(tmp_path).table.classes == ("c #1", "C#")


@pytest.mark.parametrize(
    ("files", "given", "path"),
    [
        ({"labels/a.txt": LINE, "classes.txt": "cat\ndog\n"}, "labels", "../classes.txt"),
        ({"labels/a.txt": LINE, "classes.txt": "cat\ndog\n"}, "labels/a.txt", "../classes.txt"),
        ({"labels/a.txt": LINE, "labels/classes.txt": "cat\ndog\n"}, ".", "labels/classes.txt"),
        ({"labels/a.txt": LINE, "obj.names": "cat\ndog\n"}, ".", None),
        ({"obj_train_data/a.txt": LINE, "obj.names": "cat\ndog\n"}, "obj_train_data", "../obj.names"),
        ({"train/labels/a.txt": LINE, "data.yaml": "names: [cat, dog]"}, "train/labels", "../../data.yaml"),
        ({"labels/train/a.txt": LINE, "data.yaml": "names: [cat, dog]"}, "labels/train", "../../data.yaml"),
        ({"train/a.txt": LINE, "train/_darknet.labels": "cat\ndog"}, ".", "train/_darknet.labels"),
        # The nearest one, whatever the others say.
        ({"labels/a.txt": LINE, "labels/classes.txt": "cat\ndog\n", "classes.txt": "x\n"}, "labels", None),
        # A YAML file about something else.
        (
            {"a.txt": LINE, "hyp.yaml": "lr: 0.1\n", "x.yaml": "names: y\n", "coco.names": "cat\ndog"},
            ".",
            None,
        ),
    ],
)
def test_where_names_are_found(tmp_path, files, given, path):
    table = read(tmp_path, {f"e/d/{name}": text for name, text in files.items()}, f"e/d/{given}").table
    assert (table.classes, table.label.tolist()) == (("cat", "dog"), [1])
    assert [repr(path) in note for note in table.notes] == ([True] if path else [])


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        (
            {"classes.txt": "cat\ndog", "data.yaml": "names: [dog, cat]"},
            ["data.yaml'", "differs from"],
        ),
        ({"t/classes.txt": "cat\ndog", "u/classes.txt": "dog"}, ["u/classes.txt'", "differs from"]),
        ({"data.yaml": "names: {0: cat, 2: dog}"}, ["found the numbers [0, 2]"]),
        ({"data.yaml": "names: [cat, cat]"}, ["found 'cat', as on item 0 of names"]),
        ({"data.yaml": "names: ['cat, dog]"}, ["allowed: a list or map of class names"]),
        ({"../classes.txt": "cat"}, ["a.txt', line 1: class is '1'", "the classes of '../classes.txt'"]),
    ],
)
def test_names_that_contradict_each_other_are_refused(tmp_path, files, parts):
    with pytest.raises(BoxError) as raised:
        read(tmp_path, {"e/" + name: text for name, text in {"a.txt": LINE, **files}.items()}, "e")
    assert all(part in str(raised.value) for part in parts)


def test_the_digest_changes_with_the_names_alone(tmp_path):
    files = {"labels/a.txt": LINE, "classes.txt": "cat\ndog", "other.yaml": "lr: 1"}
    digests = [read(tmp_path, files, given).sha256 for given in ("labels", "labels/a.txt")]
    put(tmp_path, {"other.yaml": "lr: 2"})
    assert [read_boxes(tmp_path / given).sha256 for given in ("labels", "labels/a.txt")] == digests
    put(tmp_path, {"classes.txt": "cat\nbird"})
    changed = [read_boxes(tmp_path / given).sha256 for given in ("labels", "labels/a.txt")]
    assert all(one != other for one, other in zip(digests, changed, strict=True))


@pytest.mark.parametrize(
    ("files", "image"),
    [
        (["labels/x.txt", "images/x.jpg"], b"images/x"),
        (["train/labels/x.txt"], b"train/images/x"),
        (["labels/train/x.txt"], b"images/train/x"),
        (["labels/a/labels/x.txt"], b"labels/a/images/x"),
        (["labels/x.txt", "labels/x.jpg"], b"labels/x"),
        (["obj_train_data/x.txt"], b"obj_train_data/x"),
    ],
)
def test_the_image_of_a_label_file(tmp_path, files, image):
    assert list(read(tmp_path, dict.fromkeys(files, LINE)).table.images) == [image]


def test_files_beside_labels_are_skipped(tmp_path):
    files = {
        "train.txt": "data/obj_train_data/a.jpg\ndata/obj_train_data/b.jpg\n",
        "README.roboflow.txt": "Boxes, exported on a day\n",
        "notes.json": "{}",
        "obj.data": "classes = 2\nnames = data/obj.names\n",
    }
    found = read(tmp_path, {"labels/a.txt": LINE, **files})
    assert (found.box_format, list(found.table.images)) == ("yolo", [b"images/a"])
    assert found.table.notes == ("skipped 2 text files without labels: 'README.roboflow.txt', 'train.txt'",)
    put(tmp_path, {"README.txt": LINE})
    assert b"README" in list(read_boxes(tmp_path).table.images)
