"""Files that a table names in another spelling, or by the paths of another machine."""

import os

import pytest

from sppfeat.errors import ConfigError
from sppfeat.files.paths import PathTable
from sppfeat.files.tables import TableFile
from sppfeat.inputs.listing import list_images
from sppfeat.inputs.tables.located import locate_files

NFC, NFD = "caf\u00e9", "cafe\u0301"


def located(folder, files, rows):
    """Paths below the folder that rows of a table in it stand for, and the notes without the table's name."""
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    table = TableFile(os.fsencode(folder / "t.csv"))
    paths, notes = locate_files(table, PathTable(os.fsencode(os.path.join(folder, row)) for row in rows))
    assert all(note.startswith("'t.csv': ") for note in notes)
    shown = [os.path.relpath(path, os.fsencode(folder)).decode() for path in paths]
    return shown, [note.removeprefix("'t.csv': ") for note in notes]


def test_files_that_are_there_stay_as_they_are(tmp_path):
    names = [f"{NFC}/1.jpg", f"{NFD}/1.jpg", "a\\1.jpg", "/etc/passwd"]
    rows = [str(tmp_path / name) for name in names]
    assert located(tmp_path, names[:3], rows)[0][:3] == names[:3]
    assert located(tmp_path, [], rows)[1] == []


@pytest.mark.parametrize(
    ("files", "row", "wanted", "note"),
    [
        (
            [f"{NFD}/{NFC}.jpg"],
            f"{NFC}/{NFD}.jpg",
            f"{NFD}/{NFC}.jpg",
            "1 name matched only after Unicode normalization",
        ),
        (["a/1.jpg"], "a\\1.jpg", "a/1.jpg", r"1 name matched with \ read as /"),
        ([f"{NFD}/1.jpg"], f".\\{NFC}\\1.jpg", f"{NFD}/1.jpg", r"1 name matched with \ read as /"),
        (
            ["a/1.jpg", "b/1.jpg"],
            "/home/alice/a/1.jpg",
            "a/1.jpg",
            "1 name matched only by the end of the path",
        ),
        (["x/a/1.jpg"], "D:\\data\\a\\1.jpg", "x/a/1.jpg", "1 name matched only by the end of the path"),
        (["x/1.jpg"], r"\\nas\share\1.jpg", "x/1.jpg", "1 name matched only by the file name"),
        (["train/1.jpg"], "data/train/1.jpg", "train/1.jpg", "1 name matched only by the end of the path"),
    ],
)
def test_files_in_another_spelling_or_of_another_machine(tmp_path, files, row, wanted, note):
    files = [*files, "other.jpg"]
    paths, notes = located(tmp_path, files, [row, "other.jpg"])
    assert paths == [wanted, "other.jpg"]
    assert [text.startswith(note) for text in notes] == [True]


@pytest.mark.parametrize(
    ("files", "rows", "note"),
    [
        # Deleted since: its folder is there.
        (["val/1.jpg", "train/2.jpg"], ["train/1.jpg", "train/2.jpg"], None),
        (["val/1.jpg", "2.jpg"], ["1.jpg", "2.jpg"], None),
        (["a/1.jpg", "b/1.jpg", "2.jpg"], ["/home/al/1.jpg", "2.jpg"], "1 name fits several images"),
        # The file of that name is another row.
        (["b/1.jpg"], ["/home/al/a/1.jpg", "b/1.jpg"], "1 name is left out, because another name fits"),
        ([], ["1.jpg"], "none of its files exists (1)"),
    ],
)
def test_files_that_are_not_there_are_never_guessed(tmp_path, files, rows, note):
    paths, notes = located(tmp_path, files, rows)
    assert os.path.join(tmp_path, paths[0]) != str(tmp_path / "val/1.jpg")
    assert not os.path.exists(tmp_path / paths[0])
    assert paths[1:] == rows[1:]
    assert [text.startswith(note) for text in notes] == [True] if note else not notes


def test_a_table_of_file_names_alone(tmp_path):
    paths, notes = located(tmp_path, ["a/1.jpg", "b/2.jpg"], ["1.jpg", "2.jpg"])
    assert (paths, notes) == (["a/1.jpg", "b/2.jpg"], [])
    with pytest.raises(ConfigError, match=r"t\.csv'.*'1\.jpg' could mean 'a/1\.jpg' or 'b/1\.jpg'"):
        located(tmp_path, ["b/1.jpg"], ["1.jpg", "2.jpg"])


def test_the_listing_has_the_notes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").touch()
    (tmp_path / "t.csv").write_text("path,label\na\\1.jpg,x\n")
    listing = list_images([str(tmp_path / "t.csv")])
    assert os.path.join(listing.root, listing.paths[0]) == os.fsencode(tmp_path / "a/1.jpg")
    assert any("read as /" in note for note in listing.notes)
