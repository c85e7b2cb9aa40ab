"""Everything but the vectors, as a table; and rows as torch's data sets have them."""

import copy
import pickle

import h5py
import numpy as np
import pytest
import torch
from conftest import write_image
from extraction_runs import extract
from feature_files import BLOCKS, config, descriptors, fill, new_file, plan_of
from packages import need_packages
from torch.utils.data import DataLoader

import sppfeat
from sppfeat.config.request import BoxChoice
from sppfeat.errors import StoreError
from sppfeat.store.layout import create_file

need_packages("pandas")

CSV = """path,x0,y0,x1,y1,label,score,id,note,row
a/1.png,0,0,20,20,cat,0.5,first,"with, comma",9
a/2.png,5,5,5,9,dog,,second,,
a/1.png,1,2,300,40,dog,0.25,,third,
"""


@pytest.fixture(scope="module")
def boxes_file(tmp_path_factory):
    """Two pictures: of the first two boxes, of which one is clipped, of the second one without area."""
    folder = tmp_path_factory.mktemp("table")
    for i in (1, 2):
        write_image(folder / "a" / f"{i}.png", 48, 64, seed=i)
    (folder / "boxes.csv").write_text(CSV)
    extract([folder / "a"], folder / "f.h5", boxes=BoxChoice(boxes=str(folder / "boxes.csv")))
    return folder / "f.h5"


def whole_images(path, paths=(b"a.jpg", b"\xff.jpg", b"c.jpg")):
    """Three images, of which the last failed."""
    plan = plan_of(paths, sizes=[(4, 6), (5, 7), (6, 8)], labels=[1, -1, 0], classes=[b"cat", b"\xfe"])
    create_file(path, plan, config(), BLOCKS)
    return fill(path, descriptors(3), failed=[2], reason="no such file")


def test_a_table_of_whole_images(tmp_path):
    with sppfeat.open(whole_images(tmp_path / "f.h5")) as file:
        table = file.to_pandas()
        x, y = file.to_sklearn()
        assert len(table) == len(x)
        assert table.index.tolist() == [0, 1]
        assert table.index.name == "row"
        assert table["path"].tolist() == ["a.jpg", "\udcff.jpg"]
        assert table["label"].cat.codes.tolist() == y.tolist() == [1, -1]
        assert table["label"].cat.categories.tolist() == ["cat", "\udcfe"]
        assert table[["width", "height", "x0", "y0", "x1", "y1"]].to_numpy().tolist() == [
            [6, 4, 0, 0, 6, 4],
            [7, 5, 0, 0, 7, 5],
        ]
        every = file.to_pandas(rows="status=any")
        assert every["status"].tolist() == ["done", "done", "failed"]
        assert every["error"].tolist() == ["", "", "no such file"]
        assert "score" not in every
        assert file.to_pandas(labels=[0.5, 1.5, 2.5])["label"].tolist() == [0.5, 1.5]
        assert file.to_pandas(rows=[]).shape == (0, len(table.columns))


def test_a_label_that_no_class_has_is_none(tmp_path):
    path = whole_images(tmp_path / "f.h5")
    with h5py.File(path, "r+") as file:
        file["images/label"][:] = [1, 2, -7]
    with sppfeat.open(path) as file:
        assert file.to_pandas(rows="status=any")["label"].cat.codes.tolist() == [1, -1, -1]


def test_a_table_of_boxes(boxes_file):
    with sppfeat.open(boxes_file) as file:
        table = file.to_pandas()
        assert table.index.tolist() == [0, 1]
        assert table["path"].tolist() == ["1.png", "1.png"]
        assert table["label"].tolist() == ["cat", "dog"]
        assert table["score"].tolist() == [0.5, 0.25]
        assert table["id"].tolist() == ["first", ""]
        assert table["extra:note"].tolist() == ["with, comma", "third"]
        assert table["extra:row"].tolist() == ["9", ""]
        assert table["flag"].tolist() == [0, 1]
        assert table["source"].tolist() == [0, 2]
        assert table[["x0", "y0", "x1", "y1"]].to_numpy().tolist() == [[0, 0, 20, 20], [1, 2, 300, 40]]
        every = file.to_pandas(rows="status=any")
        assert every["extra:note"].tolist() == ["with, comma", "third", ""]
        assert every["score"].isna().tolist() == [False, False, True]
        assert file.groups.tolist() == [0, 0]


def test_boxes_by_what_was_found_of_them(boxes_file):
    with sppfeat.open(boxes_file) as file:
        assert file.select(rows="flag=clipped").rows.tolist() == [1]
        assert file.select(rows="flag=ok").rows.tolist() == [0]
        assert file.select(rows=["flag=degenerate", "status=any"]).rows.tolist() == [2]
        assert file.select(rows="label=dog").y.tolist() == [1]
        assert file.select(labels="image").y is None


# --- data sets ------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path):
    with sppfeat.open(whole_images(tmp_path / "f.h5")) as file:
        return file.to_torch_dataset(levels=2)  # and the file is closed


def expected():
    return descriptors(3)[:2, [*range(2, 10), *range(11, 15)]]


def test_a_dataset_holds_vectors_and_classes(dataset):
    assert len(dataset) == 2
    assert dataset.target_names == ["cat", "\udcfe"]
    vector, label = dataset[1]
    assert vector.dtype == torch.float32
    assert np.array_equal(vector, expected()[1])
    assert label.item() == -1
    assert [label.item() for _, label in dataset] == [1, -1]
    assert np.array_equal(dataset[-1][0], vector)
    with pytest.raises(IndexError):
        dataset[2]
    vector[:] = 0  # a copy
    assert np.array_equal(dataset[1][0], expected()[1])


def test_a_loader_with_processes_reads_it(dataset):
    copied = pickle.loads(pickle.dumps(dataset))  # what a spawned process gets
    loader = DataLoader(copied, batch_size=2, num_workers=1, multiprocessing_context="fork")
    ((vectors, labels),) = loader
    assert np.array_equal(vectors, expected())
    assert labels.tolist() == [1, -1]


def test_without_classes_all_are_minus_one(tmp_path):
    with sppfeat.open(fill(new_file(tmp_path / "f.h5", n=2), descriptors(2))) as file:
        assert file.to_pandas()["label"].tolist() == ["", ""]
        assert [label.item() for _, label in file.to_torch_dataset()] == [-1, -1]
        assert len(file.to_torch_dataset(rows=[])) == 0


def test_a_pickle_is_the_file_and_not_its_content(tmp_path):
    path = whole_images(tmp_path / "f.h5")
    with sppfeat.open(path) as file:
        selection = file.select()
        assert np.array_equal(selection.X, descriptors(3)[:2])
        assert len(pickle.dumps(selection)) < 5000
        with copy.deepcopy(file) as again:
            assert again.paths == file.paths
        pickled = pickle.dumps(selection)
    new_file(path, n=4)
    with pytest.raises(StoreError, match="was replaced by another file"):
        pickle.loads(pickled)
