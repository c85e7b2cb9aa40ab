"""Classes from folders: splits, folders that hold everything, and the same classes from a folder and its archives."""

import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from sppfeat.inputs import list_images


def touch(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")


def pack(folder, *, below=""):
    """Write folder.zip and folder.tar with what is in a folder, below another one if it has a name."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    with zipfile.ZipFile(f"{folder}.zip", "w") as archive:
        for path in paths:
            archive.write(path, Path(below, path.relative_to(folder)))
    with tarfile.open(f"{folder}.tar", "w") as archive:
        for path in paths:
            archive.add(path, Path(below, path.relative_to(folder)))


def labeled(*inputs, labels="auto"):
    listing = list_images(inputs, labels=labels)
    names = [os.fsdecode(listing.classes[i]) if i >= 0 else None for i in listing.labels.tolist()]
    return dict(zip(map(os.fsdecode, listing.paths), names, strict=True)), " | ".join(listing.notes)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


LAYOUTS = {
    "classes": ["cat/1.jpg", "dog/2.jpg", "dog/more/3.jpg"],
    "one folder that holds all": ["photos/cat/1.jpg", "photos/dog/2.jpg"],
    "two folders that hold all": ["a/b/cat/1.jpg", "a/b/dog/2.jpg"],
    "splits": ["train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg"],
    "splits in a folder": ["set/train/cat/1.jpg", "set/train/dog/2.jpg", "set/test/cat/3.jpg"],
    "a folder in splits": ["train/images/cat/1.jpg", "train/images/dog/2.jpg", "val/images/dog/3.jpg"],
    "splits in splits": ["seg_train/seg_train/cat/1.jpg", "seg_test/seg_test/dog/2.jpg"],
    "one split": ["train/cat/1.jpg", "train/dog/2.jpg"],
    "a split without classes": ["train/cat/1.jpg", "train/dog/2.jpg", "test/3.jpg"],
    "a split of one plain folder": ["train/cat/1.jpg", "train/dog/2.jpg", "test/images/3.jpg"],
    "two splits of one plain folder": [
        *("train/cat/images/1.jpg", "train/dog/images/2.jpg", "val/images/3.jpg", "test/images/4.jpg")
    ],
    "one class": ["cat/1.jpg", "cat/sub/2.jpg"],
    "a stray image": ["cat/1.jpg", "dog/2.jpg", "3.jpg"],
    "splits without classes": ["train/1.jpg", "val/2.jpg"],
}


@pytest.mark.parametrize("labels", ["auto", "folder"])
@pytest.mark.parametrize("below", ["", "top"])
@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS)
def test_a_folder_its_zip_and_its_tar_have_the_same_classes(names, below, labels):
    touch(*(f"data/{name}" for name in names))
    pack("data", below=below)
    found = [labeled(name, labels=labels)[0] for name in ("data", "data.zip", "data.tar")]
    in_folder, *in_archives = found
    for name, in_archive in zip(("data.zip", "data.tar"), in_archives, strict=True):
        assert in_archive == {os.path.join(name, below, path): label for path, label in in_folder.items()}


def test_the_parent_is_the_folder_that_an_image_lies_in():
    touch("data/a/cat/1.jpg", "data/b/2.jpg", "data/3.jpg")
    pack("data")
    assert [*labeled("data", labels="parent")[0].values()] == ["data", "cat", "b"]
    assert [*labeled("data/a/cat/1.jpg", "data/b", labels="parent")[0].values()] == ["cat", "b"]
    found, notes = labeled("data.zip", labels="parent")
    assert sorted(found.values(), key=str) == [None, "b", "cat"]
    assert "1 image has no class: its label is -1" in notes


@pytest.mark.parametrize(
    ("layout", "classes"),
    [
        ("one folder that holds all", ["cat", "dog"]),
        ("two folders that hold all", ["cat", "dog"]),
        ("splits", ["cat", "dog", "cat"]),
        ("splits in a folder", ["cat", "cat", "dog"]),
        ("a folder in splits", ["cat", "dog", "dog"]),
        ("splits in splits", ["dog", "cat"]),
        ("one split", ["cat", "dog"]),
        ("a split without classes", [None, "cat", "dog"]),
        ("a split of one plain folder", [None, "cat", "dog"]),
        ("two splits of one plain folder", [None, "cat", "dog", None]),
        ("splits without classes", [None, None]),
    ],
)
def test_folders_that_hold_everything_and_splits_are_passed(layout, classes):
    touch(*(f"data/{name}" for name in LAYOUTS[layout]))
    found, _ = labeled("data")
    assert [*found.values()] == classes


@pytest.mark.parametrize(
    "splits", ["train val test", "TRAIN Val", "training validation testing", "train valid dev"]
)
def test_the_notes_name_the_splits(splits):
    for i, split in enumerate(splits.split()):
        touch(*(f"data/{split}/{name}/{j}.jpg" for name in ("ant", "bee") for j in range(i + 1)))
    found, notes = labeled("data")
    assert set(found.values()) == {"ant", "bee"}
    assert all(f"{split} ({2 * i + 2})" in notes for i, split in enumerate(splits.split()))
    assert "classes are the folders below (use --labels folder to take the splits as classes)" in notes
    assert set(labeled("data", labels="folder")[0].values()) == set(splits.split())


def test_splits_without_class_folders_give_no_labels():
    touch("data/images/train/1.jpg", "data/images/val/2.jpg")
    found, notes = labeled("data")
    assert set(found.values()) == {None}
    assert "found splits train (1), val (1); they have no class folders" in notes


def test_inputs_share_their_classes_and_splits_are_passed_where_these_are_the_inputs():
    touch(*(f"data/{split}/{name}/1.jpg" for split in ("train", "val") for name in ("ant", "bee")))
    inputs = ["data/train/ant", "data/train/bee", "data/val/ant", "data/val/bee"]
    assert [*labeled(*inputs)[0].values()] == ["ant", "bee"] * 2
    assert [*labeled("data/train", "data/val")[0].values()] == ["ant", "bee"] * 2
    touch("day/ant/1.jpg", "day/bee/2.jpg", "night/bee/3.jpg", "night/cow/4.jpg")
    assert [*labeled("day", "night")[0].values()] == ["ant", "bee", "bee", "cow"]


def test_a_stray_image_beside_splits_is_said_with_the_option_that_labels_the_others():
    touch("data/train/ant/1.jpg", "data/val/bee/2.jpg", "data/cover.jpg")
    found, notes = labeled("data")
    assert set(found.values()) == {None}
    assert (
        "no labels: 1 image is outside class folders; --labels parent takes the folder of each image" in notes
    )
    assert labeled("data", labels="parent")[0] == {
        "cover.jpg": "data",
        "train/ant/1.jpg": "ant",
        "val/bee/2.jpg": "bee",
    }


def test_folders_that_img2dataset_numbers_are_no_classes():
    touch("data/00000/1.jpg", "data/00000/1.json", "data/00001/2.jpg")
    touch("data/00000_stats.json", "data/00000.parquet", "data/00001_stats.json")
    assert set(labeled("data")[0].values()) == {None}
    assert [*labeled("data", labels="folder")[0].values()] == ["00000", "00001"]
    Path("data/00001_stats.json").unlink()
    assert [*labeled("data")[0].values()] == ["00000", "00001"]


def test_a_split_among_other_classes_is_a_class_and_said():
    touch("data/train/1.jpg", "data/val/2.jpg", "data/extra/3.jpg")
    found, notes = labeled("data")
    assert [*found.values()] == ["extra", "train", "val"]
    assert "2 classes are named like splits: train, val" in notes


@pytest.mark.parametrize("name", ["trains", "retrain", "value", "tested", "developer", "contest"])
def test_other_names_are_no_splits(name):
    touch(f"data/{name}/a/1.jpg", f"data/{name}/b/2.jpg", "data/test/a/3.jpg")
    found, _ = labeled("data")
    assert set(found.values()) == {name, "test"}
