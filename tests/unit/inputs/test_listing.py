"""Inputs: which files become images, in which order, under which names and labels."""

import contextlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.errors import ConfigError
from sppfeat.files.paths import PathIndex, PathTable, natural_key
from sppfeat.inputs import list_images

NAMES = st.binary(min_size=1, max_size=30).map(lambda name: name.replace(b"\0", b"x").replace(b"/", b"y"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, which is the working directory too."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(folder, *names):
    for name in names:
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass


def listed(*inputs, **options):
    return [os.fsdecode(path) for path in list_images(inputs, **options).paths]


def labeled(*inputs, labels="auto"):
    """Return the class of each image, by path, and how many images are said to have none."""
    listing = list_images(inputs, labels=labels)
    names = [os.fsdecode(listing.classes[i]) if i >= 0 else None for i in listing.labels.tolist()]
    return dict(zip(map(os.fsdecode, listing.paths), names, strict=True)), listing.n_unlabeled


# --- folders --------------------------------------------------------------------------------------


def test_a_folder_is_listed_with_its_sub_folders_in_natural_order(folder):
    names = ["a3/x.webp", "a20/x.webp", "b/1.png", "b/2.png", "b/10.png", "IMG1.JPG", "img2.jpg", "img10.jpg"]
    touch(folder, *reversed(names))
    assert listed(".") == names


@given(
    st.lists(st.sampled_from([f"{a}{i}" for a in "aB" for i in range(12)]), min_size=1, unique=True),
    st.data(),
)
def test_a_large_folder_is_put_in_order_in_parts(names, data):
    folders = data.draw(st.sets(st.sampled_from(names)))
    expected = []
    for name in sorted(names, key=lambda name: natural_key(f"{name}.jpg".encode())):
        expected += [f"{name}.jpg/{i}.png" for i in range(3)] if name in folders else [f"{name}.jpg"]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        touch(folder, *expected, "x.txt")
        patch.setattr("sppfeat.files.paths._SORTED_AT_ONCE", data.draw(st.integers(1, 9)))
        assert list(map(os.fsdecode, list_images([str(folder)]).paths)) == expected


def test_hidden_names_and_other_files_are_left_out_unless_named_and_the_latter_counted(folder):
    touch(
        folder, "a.jpg", ".b.jpg", ".hidden/c.jpg", "notes.txt", "sub/README", "sub/d.JPEG", "._a.jpg", "jpg"
    )
    listing = list_images(["."])
    assert list(listing.paths) == [b"a.jpg", b"sub/d.JPEG"]
    assert listing.n_other_files == 3
    assert listing.n_repeated == 0
    named = [".b.jpg", "jpg", ".hidden"]
    Path("list").write_text("\n".join(named))
    assert listed(*named) == listed("@list") == [".b.jpg", "jpg", ".hidden/c.jpg"]


@pytest.mark.parametrize("inputs", [("a", "a"), ("a", "./a/"), ("a", "b/../a"), ("a", "a/1.jpg", "a//2.jpg")])
def test_what_is_named_again_is_taken_once(folder, inputs):
    touch(folder, "a/1.jpg", "a/2.jpg", "b/3.txt")
    listing = list_images(inputs)
    assert list(listing.paths) == [b"1.jpg", b"2.jpg"]
    assert listing.n_repeated == 2


def test_a_folder_that_cannot_be_read_is_an_error():
    with tempfile.TemporaryDirectory() as name:
        locked = Path(name, "sub", "locked")
        touch(locked, "a.jpg")
        Path(name).chmod(0o755)
        locked.chmod(0)
        try:
            with (
                not_root(),
                pytest.raises(ConfigError, match=r"the folder '.*locked' cannot be listed: Permission"),
            ):
                list_images([name])
        finally:
            locked.chmod(0o700)


@contextlib.contextmanager
def not_root():
    """Nobody is refused a folder who is root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# --- links ----------------------------------------------------------------------------------------


def test_links_to_files_and_folders_are_followed_under_their_own_names(folder):
    touch(folder, "store/x1.jpg", "data/b.jpg")
    os.symlink("../store/x1.jpg", "data/a.jpg")
    os.symlink("../store", "data/c")
    assert listed("data") == ["a.jpg", "b.jpg", "c/x1.jpg"]


def test_folders_that_link_to_each_other_are_not_listed_for_ever(folder):
    for i in range(9):
        (folder / f"d{i}").mkdir()
        for j in range(9):
            (folder / f"d{i}" / f"to{j}").symlink_to(f"../d{j}")
    with pytest.raises(ConfigError, match="in more than 100 ways"):
        list_images([str(folder)])


def test_link_cycles_end_where_they_close(folder):
    touch(folder, "a/1.jpg", "b/2.jpg")
    os.symlink(".", "self")
    os.symlink("../b", "a/to_b")
    os.symlink("../a", "b/to_a")
    assert listed(".") == ["a/1.jpg", "a/to_b/2.jpg", "b/2.jpg", "b/to_a/1.jpg"]


def test_a_link_that_leads_nowhere_is_listed_and_stops_no_scan(folder):
    touch(folder, "ok.jpg")
    os.symlink("gone.jpg", "dangling.jpg")
    os.symlink("loop.jpg", "loop.jpg")
    os.symlink("gone", "dangling")
    assert listed(".") == ["dangling.jpg", "loop.jpg", "ok.jpg"]
    assert list_images(["."]).n_other_files == 1
    assert listed("dangling.jpg") == ["dangling.jpg"]


def test_two_dots_behind_a_link_are_what_the_file_system_says(folder):
    touch(folder, "far/away/x.jpg", "far/y.jpg")
    os.symlink("far/away", "link")
    assert listed("link/../y.jpg") == ["y.jpg"]
    listing = list_images(["link/.."])
    assert os.fsdecode(listing.root) == str(folder / "far")
    assert listed("link") == ["x.jpg"]
    assert os.fsdecode(list_images(["link"]).root) == str(folder / "link")


# --- names ----------------------------------------------------------------------------------------

STRANGE = [
    b"new\nline.jpg",
    b"not-utf8-\xff\xfe.jpg",
    "\U0001f4f7 \u00e9.jpg".encode(),
    b" lead.jpg",
    b"back\\slash.jpg",
]


def test_strange_names_survive_as_arguments_and_in_lists(folder):
    touch(folder, *STRANGE)
    assert list(list_images([os.fsdecode(name) for name in STRANGE]).paths) == STRANGE
    Path("list").write_bytes(b"\0".join(STRANGE))
    assert list(list_images(["@list"]).paths) == STRANGE


@given(st.lists(NAMES))
def test_the_natural_order_is_what_it_was_defined_to_be(names):
    def oracle(name):
        parts = re.split(rb"([0-9]+)", name.lower())
        return (
            *(p if i % 2 == 0 else (len(p.lstrip(b"0")), p.lstrip(b"0")) for i, p in enumerate(parts)),
            (-1,),
            name,
        )

    assert sorted(names, key=natural_key) == sorted(names, key=oracle)


@given(st.lists(st.binary(max_size=60)))
def test_a_path_table_is_the_sequence_it_was_made_from(paths):
    table = PathTable(iter(paths))
    assert list(table) == paths
    assert len(table) == len(paths)
    assert [table[i] for i in range(-len(paths), len(paths))] == paths + paths
    assert table[1:5:2] == paths[1:5:2]
    assert table[::-1] == paths[::-1]
    assert table.nbytes == sum(map(len, paths)) + 8 * (len(paths) + 1)
    if paths:
        assert table[np.int64(0)] == paths[0]
    for index in (len(paths), -len(paths) - 1):
        with pytest.raises(IndexError, match="path"):
            table[index]


@given(st.lists(NAMES, max_size=9), st.integers(1, 4), st.data())
def test_parts_of_a_path_table_are_those_of_the_sequence(paths, n_paths, data):
    start = data.draw(st.integers(0, len(paths)))
    stop = data.draw(st.integers(start, len(paths)))
    part = PathTable(paths).part(start, stop)
    assert list(part) == [part[i] for i in range(len(part))] == paths[start:stop]
    assert list(part.blocks(n_paths)) == [
        paths[i : min(i + n_paths, stop)] for i in range(start, stop, n_paths)
    ]
    assert part.has_same(PathTable(paths[start:stop]))
    assert part.has_same(PathTable(paths)) == (paths[start:stop] == paths)


@given(st.lists(NAMES), st.lists(NAMES, unique=True), st.integers(1, 2**63))
def test_paths_are_found_in_a_table(paths, others, n_hashes):
    expected = [others.index(path) if path in others else -1 for path in paths]

    def hashes(paths):
        return np.array([hash(path) % n_hashes for path in paths], dtype=np.int64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sppfeat.files.paths._hashes", hashes)  # many are equal
        assert PathIndex(PathTable(others)).positions(PathTable(paths)).tolist() == expected


# --- lists ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"b.jpg\nsub\na.jpg",
        b"b.jpg\nsub\na.jpg\n",
        b"b.jpg\r\nsub\r\na.jpg\r\n",
        b"\n\nb.jpg\n\nsub\r\na.jpg\n",
        b"b.jpg\0sub\0a.jpg",
        b"b.jpg\0sub\0a.jpg\0",
        b"\xef\xbb\xbfb.jpg\r\nsub\r\na.jpg\r\n",  # with the mark that Windows puts in front
    ],
)
def test_a_list_names_files_and_folders(folder, content):
    touch(folder, "a.jpg", "b.jpg", "sub/1.jpg", "sub/2.jpg", "sub/no.txt")
    (folder / "list.txt").write_bytes(content)
    wanted = ["b.jpg", "sub/1.jpg", "sub/2.jpg", "a.jpg"]
    assert listed("@list.txt") == wanted
    (folder / "list.txt").rename(folder / "sub/list.txt")
    assert listed("@sub/list.txt") == wanted  # relative to the working directory all the same
    assert listed("-", stdin=[content[:3], content[3:]]) == wanted


def test_a_list_on_standard_input(folder, monkeypatch):
    touch(folder, "a.jpg")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.jpg\n")))
    assert listed("-") == ["a.jpg"]


def test_a_missing_file_of_a_list_is_listed(folder):
    touch(folder, "a.jpg")
    Path("list").write_bytes(b"gone.jpg\na.jpg\ngone/too\n")
    assert listed("@list") == ["gone.jpg", "a.jpg", "gone/too"]


def test_lists_in_other_encodings(folder):
    touch(folder, "ä.jpg")
    Path("list").write_text("ä.jpg\n", encoding="utf-16")
    assert listed("@list") == ["ä.jpg"]
    Path("list").write_text("ä.jpg\n", encoding="cp1252")
    assert list(list_images(["@list"], encoding="cp1252").paths) == ["ä.jpg".encode()]


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ((), "no inputs"),
        (("gone",), "no such file or folder: 'gone'"),
        (("a.jpg", ""), "no such file or folder: ''"),
        (("a\0b",), "no such file"),
        (("@gone",), "cannot read the list 'gone': No such file"),
        (("@",), "cannot read the list ''"),
        (("@.",), "cannot read the list '.': Is a directory"),
        (("@a\0b",), "cannot read the list"),
        (("empty",), "no images in 'empty': 1 file there has no image extension"),
        (("@void",), "no images in '@void': empty"),
    ],
)
def test_inputs_that_cannot_be_honoured(folder, inputs, said):
    touch(folder, "a.jpg", "empty/x.txt", "void")
    with pytest.raises(ConfigError, match=re.escape(said)):
        list_images(inputs)


def test_an_unknown_label_mode_is_refused(folder):
    touch(folder, "a.jpg")
    with pytest.raises(ConfigError, match="labels is 'yes'; allowed: auto, folder, parent, none"):
        list_images(["a.jpg"], labels="yes")


# --- labels ---------------------------------------------------------------------------------------


def test_one_folder_per_class(folder):
    touch(folder, "train/cat10/1.jpg", "train/cat9/a/2.jpg", "train/cat9/3.jpg")
    listing = list_images(["train"])
    assert listing.classes == (b"cat9", b"cat10")
    assert listing.labels.tolist() == [0, 0, 1]
    assert listing.labels.dtype == np.int64
    assert list_images(["train"], labels="none").classes == ()


@pytest.mark.parametrize("inputs", [("t/cat", "t/dog"), ("@list",), ("t/dog/2.jpg", "t")])
def test_images_are_labelled_by_the_folder_below_the_common_one(folder, inputs):
    touch(folder, "t/cat/1.jpg", "t/dog/2.jpg", "t/dog/more/3.jpg")
    Path("list").write_bytes(b"t/cat/1.jpg\nt/dog/2.jpg\nt/dog/more/3.jpg\n")
    assert labeled(*inputs) == ({"cat/1.jpg": "cat", "dog/2.jpg": "dog", "dog/more/3.jpg": "dog"}, 0)


def test_a_stray_image_takes_the_labels_away_unless_they_are_asked_for(folder):
    touch(folder, "t/cat/1.jpg", "t/dog/2.jpg", "t/stray.jpg")
    paths = ["cat/1.jpg", "dog/2.jpg", "stray.jpg"]
    assert labeled("t") == (dict.fromkeys(paths), 1)
    assert labeled("t", labels="folder") == (dict(zip(paths, ["cat", "dog", None], strict=True)), 1)
    assert labeled("t", labels="none") == (dict.fromkeys(paths), 0)


def test_a_file_beside_a_folder_of_classes_makes_no_classes_of_the_folders(folder):
    touch(folder, "train/cat/1.jpg", "train/dog/2.jpg", "other/3.jpg")
    found, n_unlabeled = labeled("train", "other/3.jpg")
    assert set(found.values()) == {None}
    assert n_unlabeled == 1
    assert labeled("train", "other/3.jpg", labels="folder")[0]["train/dog/2.jpg"] == "dog"


def test_one_class_folder_is_no_label_unless_asked_for(folder):
    touch(folder, "t/cat/1.jpg", "t/cat/2.jpg")
    assert labeled("t") == ({"cat/1.jpg": None, "cat/2.jpg": None}, 0)
    assert labeled("t", labels="folder") == ({"cat/1.jpg": "cat", "cat/2.jpg": "cat"}, 0)


@pytest.mark.parametrize("labels", ["auto", "none"])
def test_a_flat_folder_has_no_labels(folder, labels):
    touch(folder, "1.jpg", "2.jpg")
    assert labeled(".", labels=labels) == ({"1.jpg": None, "2.jpg": None}, 0)


# --- the common root ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "root", "paths"),
    [
        (("a/b",), "a/b", ["1.jpg", "c/2.jpg"]),
        (("a/b/1.jpg",), "a/b", ["1.jpg"]),
        (("a/b/c", "a/d"), "a", ["b/c/2.jpg", "d/3.jpg"]),
        (("a/b/c", "a/b"), "a/b", ["c/2.jpg", "1.jpg"]),
        (("ab", "a/d"), "", ["ab/4.jpg", "a/d/3.jpg"]),
    ],
)
def test_the_root_is_the_deepest_folder_above_all_inputs(folder, inputs, root, paths):
    touch(folder, "a/b/1.jpg", "a/b/c/2.jpg", "a/d/3.jpg", "ab/4.jpg")
    listing = list_images(inputs)
    assert os.fsdecode(listing.root) == str(folder / root)
    assert [os.fsdecode(path) for path in listing.paths] == paths


def test_a_root_of_the_file_system(folder):
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as elsewhere:
        touch(folder, "a.jpg")
        touch(elsewhere, "b.jpg")
        other = str(Path(elsewhere).resolve())
        listing = list_images([f"/{folder}/a.jpg", f"//{other}"])
        assert all(os.path.exists(os.path.join(listing.root, path)) for path in listing.paths)
        assert [os.fsdecode(os.path.join(listing.root, path)) for path in listing.paths] == [
            str(folder / "a.jpg"),
            f"{other}/b.jpg",
        ]
