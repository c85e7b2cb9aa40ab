"""Which files of the inputs are taken: system folders, side files of tools, patterns, and quoted globs."""

import os
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from sppfeat.errors import ConfigError
from sppfeat.inputs import list_images

KINDS = ["folder", "zip", "tar", "memory", "file"]
TREE = [
    *("ant/1.jpg", "ant/2.png", "bee/1.jpg", "bee/old/3.jpg"),
    *(
        "ant/@eaDir/1.jpg/THUMB_M.jpg",
        "#recycle/ant/9.jpg",
        "bee/.ipynb_checkpoints/1.jpg",
        "__MACOSX/ant/._1.jpg",
    ),
    *("Thumbs.db", ".DS_Store", "ant/desktop.ini"),
]
IMAGES = ["ant/1.jpg", "ant/2.png", "bee/1.jpg", "bee/old/3.jpg"]


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def touch(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")


def make(kind, names):
    """Make an input of files of these names, as a folder, an archive or an object store; return its name."""
    touch(*(f"data/{name}" for name in names))
    if kind == "zip":
        with zipfile.ZipFile("data.zip", "w") as archive:
            for name in names:
                archive.writestr(name, b"")
    if kind == "tar":
        with tarfile.open("data.tar", "w") as archive:
            for name in names:
                archive.add(f"data/{name}", name)
    if kind == "memory":
        fsspec = pytest.importorskip("fsspec")
        memory = fsspec.filesystem("memory")
        memory.rm("/", recursive=True)
        memory.put(str(Path("data").absolute()), "/data", recursive=True)
    if kind in ("memory", "file"):
        return "memory://data" if kind == "memory" else f"file://{Path('data').absolute()}"
    return "data" if kind == "folder" else f"data.{kind}"


def chosen(*inputs, **options):
    """Return the sorted paths without the name of an archive, and the notes."""
    listing = list_images(inputs, **options)
    paths = (os.fsdecode(path).removeprefix("data.zip/").removeprefix("data.tar/") for path in listing.paths)
    return sorted(paths), " | ".join(listing.notes)


# --- folders that systems make --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_system_folders_are_skipped_and_said(kind):
    name = make(kind, TREE)
    paths, notes = chosen(name)
    assert paths == IMAGES
    assert "skipped 4 system folders (" in notes
    assert all(folder in notes for folder in ("@eaDir", "#recycle", ".ipynb_checkpoints", "__MACOSX"))
    assert "skipped 2 files without an image extension" in notes
    assert {os.fsdecode(name) for name in list_images([name]).classes} == {"ant", "bee"}


def test_a_cached_index_knows_the_skipped_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sppfeat.inputs.archives._FEWEST_IMAGES", 1)
    name = make("zip", TREE)
    os.utime(name, (1, 1))
    monkeypatch.setattr("sppfeat.inputs.archives._SETTLED_NS", -1)
    first = chosen(name)
    assert list((tmp_path / "cache").rglob("*.npz"))
    assert chosen(name) == first


def test_a_system_folder_that_is_an_input_is_read():
    touch(*(f"data/{name}" for name in TREE))
    assert chosen("data/#recycle")[0] == ["ant/9.jpg"]
    assert chosen("data/ant/@eaDir")[0] == ["1.jpg/THUMB_M.jpg"]


def test_a_system_folder_that_cannot_be_read_stops_no_run():
    touch("data/1.jpg", "data/lost+found/2.jpg")
    os.chmod("data/lost+found", 0)
    try:
        assert chosen("data") == (
            ["1.jpg"],
            "skipped 1 system folder (lost+found); give one as an input to read it",
        )
    finally:
        os.chmod("data/lost+found", 0o700)


def test_a_file_with_the_name_of_a_system_folder_is_a_file():
    touch("data/1.jpg", "data/lost+found")
    assert chosen("data") == (["1.jpg"], "skipped 1 file without an image extension (lost+found)")


# --- patterns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("exclude", "include", "expected"),
    [
        (["old"], [], ["ant/1.jpg", "ant/2.png", "bee/1.jpg"]),
        (["*.png", "bee/old/"], [], ["ant/1.jpg", "bee/1.jpg"]),
        (["/ant"], [], ["bee/1.jpg", "bee/old/3.jpg"]),
        ([], ["*.png"], ["ant/2.png"]),
        ([], ["bee", "ant/*.png"], ["ant/2.png", "bee/1.jpg", "bee/old/3.jpg"]),
        (["old"], ["bee"], ["bee/1.jpg"]),
    ],
)
def test_patterns_choose_images(kind, exclude, include, expected):
    paths, notes = chosen(make(kind, IMAGES), exclude=exclude, include=include)
    assert paths == expected
    assert "matches nothing" not in notes


@pytest.mark.parametrize("kind", KINDS)
def test_a_pattern_that_matches_nothing_is_noted(kind):
    paths, notes = chosen(make(kind, IMAGES), exclude=["cat"], include=["ant", "*.tif"])
    assert paths == ["ant/1.jpg", "ant/2.png"]
    assert (
        "--exclude 'cat' matches nothing: patterns are compared with paths below the input, such as 'ant/"
        in notes
    )
    assert "--include '*.tif' matches nothing" in notes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"include": ["*.tif"]}, {"exclude": ["ant", "bee"]}])
def test_patterns_that_leave_nothing_are_an_error(kind, options):
    name = make(kind, IMAGES)
    with pytest.raises(ConfigError, match="leaves out every image of") as error:
        list_images([name], **options)
    assert all(repr(pattern) in str(error.value) for patterns in options.values() for pattern in patterns)


def test_members_of_archives_in_a_folder_have_its_name_before_theirs():
    make("zip", IMAGES)
    make("tar", IMAGES)
    os.renames("data.zip", "packed/a/data.zip")
    os.renames("data.tar", "packed/b/data.tar")
    assert chosen("packed", include=["b"])[0] == IMAGES
    assert chosen("packed", exclude=["a/data.zip/ant", "*.tar"])[0] == IMAGES[2:]


def test_an_excluded_preview_beside_archives_leaves_the_archives():
    make("zip", IMAGES)
    os.renames("data.zip", "packed/data.zip")
    touch("packed/preview.jpg")
    assert chosen("packed", exclude=["preview*"])[0] == IMAGES


def test_an_excluded_folder_is_not_listed():
    touch("data/1.jpg", "data/locked/2.jpg")
    os.chmod("data/locked", 0)
    try:
        assert chosen("data", exclude=["locked"])[0] == ["1.jpg"]
    finally:
        os.chmod("data/locked", 0o700)


def test_patterns_are_compared_with_rows_of_tables_and_named_files():
    touch("data/ant/1.jpg", "data/bee/2.jpg")
    Path("data/t.csv").write_text("path,label,id\nant/1.jpg,x,p\nbee/2.jpg,y,q\ngone/3.jpg,z,\n")
    listing = list_images(["data/t.csv"], exclude=["ant"])
    assert list(listing.paths) == [b"bee/2.jpg", b"gone/3.jpg"]
    assert (listing.classes, listing.labels.tolist()) == ((b"y", b"z"), [0, 1])
    assert list(listing.ids or ()) == [b"q", b""]
    assert chosen("data/ant/1.jpg", "data/bee/2.jpg", exclude=["data/ant"])[0] == ["2.jpg"]


# --- side files of tools --------------------------------------------------------------------------


@pytest.fixture
def shards():
    """Shards as img2dataset writes them, with metadata in Parquet files."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    Path("shards").mkdir()
    for i in range(2):
        with tarfile.open(f"shards/{i:05d}.tar", "w") as archive:
            for name in ("1.jpg", "1.txt"):
                archive.addfile(tarfile.TarInfo(f"{i:05d}{name}"))
        table = pa.table({"url": [f"https://host/{i}.jpg"], "key": [f"{i:05d}1"], "status": ["success"]})
        parquet.write_table(table, f"shards/{i:05d}.parquet")
        Path(f"shards/{i:05d}_stats.json").write_text("{}")
    return pa, parquet


def test_metadata_beside_shards_is_skipped_and_said(shards):
    paths, notes = chosen("shards")
    assert paths == ["00000.tar/000001.jpg", "00001.tar/000011.jpg"]
    assert (
        "skipped 2 tables beside archives (00000.parquet, 00001.parquet); give one as an input to read it"
        in notes
    )


def test_only_tables_without_images_are_metadata(shards):
    pa, parquet = shards
    for name in ("meta", "other"):
        parquet.write_table(pa.table({"n": [1]}), f"shards/{name}.parquet")
    parquet.write_table(pa.table({"image": [b"bytes"]}), "shards/images.parquet")
    paths, notes = chosen("shards")
    assert paths == ["00000.tar/000001.jpg", "00001.tar/000011.jpg", "images.parquet/00000000"]
    assert "skipped 4 tables beside archives" in notes


def test_tables_in_a_folder_of_their_own_are_read():
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    touch("data/x.txt")
    parquet.write_table(pa.table({"n": [1]}), "data/n.parquet")
    with pytest.raises(ConfigError, match="no column holds the paths"):
        list_images(["data"])


def test_metadata_beside_shards_of_an_object_store_is_skipped(shards):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.rm("/", recursive=True)
    memory.put(str(Path("shards").absolute()), "/shards", recursive=True)
    listing = list_images(["memory://shards"])
    assert list(listing.paths) == [b"00000.tar/000001.jpg", b"00001.tar/000011.jpg"]
    assert "skipped 2 tables beside archives" in " | ".join(listing.notes)


# --- quoted globs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("photos/*.jpg", ["img2.jpg", "img10.jpg"]),
        ("photos/img?.jpg", ["img2.jpg"]),
        ("photos/**/*.jpg", ["img2.jpg", "img10.jpg", "sub/3.jpg"]),
        ("photos/img[0-9].*", ["img2.jpg", "img2.png"]),
        ("phot*", ["img2.jpg", "img2.png", "img10.jpg", "sub/3.jpg"]),
        ("photos/*", ["img2.jpg", "img2.png", "img10.jpg", "sub/3.jpg"]),
        ("photos/**", ["img2.jpg", "img2.png", "img10.jpg", "sub/3.jpg"]),
        ("photos/*.txt", ["notes.txt"]),
    ],
)
def test_a_quoted_pattern_is_expanded_in_natural_order(pattern, expected):
    touch("photos/img10.jpg", "photos/img2.jpg", "photos/img2.png", "photos/sub/3.jpg", "photos/notes.txt")
    touch("photos/@eaDir/img2.jpg/THUMB.jpg", "photos/.hidden.jpg")
    for text in (pattern, os.path.abspath(pattern)):
        listing = list_images([text])
        assert sorted(map(os.fsdecode, listing.paths)) == sorted(expected)
        assert listing.n_repeated == 0
    if "sub/3.jpg" not in expected:
        assert [*map(os.fsdecode, listing.paths)] == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("d/{8..11}.jpg", ["8.jpg", "9.jpg", "10.jpg", "11.jpg"]),
        ("d/{11..10}.jpg", ["11.jpg", "10.jpg"]),
        ("d/0{08..10}.jpg", ["008.jpg", "009.jpg", "010.jpg"]),
        ("d/{b,a}{1..2}.jpg", ["b1.jpg", "b2.jpg", "a1.jpg", "a2.jpg"]),
        ("d/{a,b}*.jpg", ["a1.jpg", "a2.jpg", "b1.jpg", "b2.jpg"]),
    ],
)
def test_quoted_braces_are_expanded_in_their_order(pattern, expected):
    touch(*(f"d/{name}" for name in expected))
    assert [*map(os.fsdecode, list_images([pattern]).paths)] == expected


def test_quoted_braces_in_urls_are_expanded():
    pytest.importorskip("fsspec")
    listing = list_images(["https://host/{08..10}.jpg"])
    assert list(listing.paths) == [b"08.jpg", b"09.jpg", b"10.jpg"]


@pytest.mark.parametrize("pattern", ["d/{1..3}.jpg", "d/{1,x}.jpg"])
def test_each_name_that_braces_stand_for_has_to_exist(pattern):
    touch("d/1.jpg", "d/2.jpg")
    with pytest.raises(ConfigError, match=r"no file or folder matches 'd/(3|x)\.jpg'"):
        list_images([pattern])


def test_a_pattern_of_a_system_folder_matches_something():
    touch("data/1.jpg", "data/@eaDir/1.jpg/THUMB.jpg")
    assert "matches nothing" not in chosen("data", exclude=["@eaDir"])[1]


def test_some_of_many_skipped_files_are_named():
    touch("data/1.jpg", *(f"data/{i}.txt" for i in range(9)))
    _, note = chosen("data")
    assert re.fullmatch(r"skipped 9 files without an image extension \((\d\.txt, ){3}\.\.\.\)", note)


def test_a_quoted_pattern_tells_what_it_skips():
    touch("photos/1.jpg", "photos/notes.txt", "photos/@eaDir/1.jpg/THUMB.jpg")
    notes = list_images(["photos/*"]).notes
    assert notes == (
        "skipped 1 file without an image extension (notes.txt)",
        "skipped 1 system folder (@eaDir); give one as an input to read it",
    )


def test_a_name_with_the_marks_of_a_pattern_is_a_name():
    touch("a[1]*.jpg", "a1.jpg", "[x]/b.jpg")
    assert chosen("a[1]*.jpg")[0] == ["a[1]*.jpg"]
    assert chosen("[x]")[0] == ["b.jpg"]


def test_folders_of_classes_are_expanded():
    touch("train/ant/1.jpg", "train/bee/2.jpg")
    assert list_images(["train/*"]).classes == (b"ant", b"bee")


@pytest.mark.parametrize("pattern", ["photos/*.gif", "gone/*", "*.tif"])
def test_a_pattern_that_matches_no_file_is_an_error(pattern):
    touch("photos/1.jpg")
    with pytest.raises(ConfigError, match="no file or folder matches"):
        list_images([pattern])


def test_a_pattern_in_a_url_is_explained():
    pytest.importorskip("fsspec")
    with pytest.raises(
        ConfigError, match=r"is a pattern; give the URL of the folder, and --include '\*\.jpg'"
    ):
        list_images(["memory://data/*.jpg"])
