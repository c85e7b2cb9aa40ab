import csv
import errno
import os

import numpy as np
import pytest
import torch
from feature_files import listing_of

from sppfeat.errors import StoreError
from sppfeat.files.paths import PathTable
from sppfeat.training.checkpoints import TrainFolder
from sppfeat.training.examples import Examples, ImageSets


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return TrainFolder(tmp_path / "run")


@pytest.mark.parametrize(("call", "number"), [("fsync", errno.ENOSPC), ("replace", errno.EACCES)])
def test_a_failed_write_keeps_the_previous_file(folder, monkeypatch, call, number):
    folder.write_checkpoint({"epoch": 1})
    folder.write_log([{"epoch": 1}])

    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(os, call, fail)
        with pytest.raises(StoreError, match=rf"checkpoint.pth'.*: {os.strerror(number)}"):
            folder.write_checkpoint({"epoch": 2})
        with pytest.raises(StoreError, match=r"log.jsonl"):
            folder.write_log([])
    assert folder.read_checkpoint()["epoch"] == 1
    assert folder.log.read_text() == '{"epoch": 1}\n'
    assert sorted(os.listdir(folder.folder)) == ["checkpoint.pth", "log.jsonl"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "is not a checkpoint of a training"),
        ([1], "is not a checkpoint of a training"),
        ({"format": "sppfeat-training", "version": 99}, "has version 99; this sppfeat reads 1"),
    ],
)
def test_other_files_are_not_checkpoints(folder, content, message):
    torch.save(content, folder.checkpoint)
    with pytest.raises(StoreError, match=message):
        folder.read_checkpoint()


def test_a_folder_is_locked_and_removed_if_new_and_empty(folder, tmp_path):
    with folder.hold(), pytest.raises(StoreError, match="another process is writing"), folder.hold():
        pass
    assert folder.folder.is_dir()  # it existed before
    new = TrainFolder(tmp_path / "new")
    with new.hold():
        assert new.folder.is_dir()
    assert not new.folder.exists()
    with new.hold():
        new.write_checkpoint({})
    assert new.checkpoint.exists()
    with (
        pytest.raises(StoreError, match=r"cannot make the folder '.*a/b'"),
        TrainFolder(tmp_path / "a/b").hold(),
    ):
        pass


def test_names_that_are_not_utf_8_are_listed_as_bytes(folder):
    listing = listing_of(b"/t", PathTable([b"a/\xff\r1.png", b"b/2.png"]), np.array([0, -1]), (b"a",))
    examples = Examples(listing, np.ones((2, 2), np.int32), np.arange(2), listing.labels, ("a",))
    folder.write_images(ImageSets(examples.only(np.array([0])), examples.only(np.array([1])), {}, []))
    with open(folder.images, newline="", errors="surrogateescape") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["set", "class", "path"],
        ["train", "a", "/t/a/\udcff\r1.png"],
        ["validation", "", "/t/b/2.png"],
    ]
