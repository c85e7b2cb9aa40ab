"""Patterns of --exclude and --include, and system folders."""

import pytest

from sppfeat.errors import ConfigError
from sppfeat.files.globs import PathFilter, find_system_folder


@pytest.mark.parametrize(
    ("pattern", "matched", "others"),
    [
        ("thumbs", ["thumbs/a.jpg", "x/thumbs/y/a.jpg", "x/thumbs"], ["thumbs2/a.jpg", "my_thumbs/a.jpg"]),
        ("*.png", ["a.png", "x/y/a.png", "old.png/a.jpg"], ["a.PNG", "a.png.jpg"]),
        ("thumbs/", ["thumbs/a.jpg", "x/thumbs/a.jpg"], ["thumbs", "x/thumbs"]),
        ("/thumbs", ["thumbs/a.jpg", "thumbs"], ["x/thumbs/a.jpg"]),
        ("./thumbs", ["thumbs", "thumbs/a.jpg"], ["y.jpg"]),
        ("cat/old", ["cat/old/1.jpg", "cat/old"], ["x/cat/old/1.jpg", "cat/older/1.jpg"]),
        ("cat/*.jpg", ["cat/1.jpg"], ["cat/sub/1.jpg", "x/cat/1.jpg"]),
        ("cat/**", ["cat/1.jpg", "cat/sub/1.jpg"], ["cat", "cats/1.jpg"]),
        ("**/old", ["old/1.jpg", "a/b/old/1.jpg", "old"], ["older/1.jpg"]),
        ("cat/**/*.jpg", ["cat/1.jpg", "cat/a/b/1.jpg"], ["1.jpg", "cat/1.png"]),
        ("img?.jpg", ["img1.jpg", "x/img\u00e9.jpg"], ["img10.jpg", "img/.jpg"]),
        ("img[0-3].jpg", ["img0.jpg", "img3.jpg"], ["img4.jpg"]),
        ("img[!0-3].jpg", ["img4.jpg"], ["img0.jpg", "img/.jpg"]),
        (r"a\*.jpg", ["a*.jpg"], ["ab.jpg"]),
        ("a[b.jpg", ["a[b.jpg"], ["ab.jpg"]),
        ("a(b)+.jpg", ["a(b)+.jpg"], ["abb.jpg"]),
        ("caf\u00e9", ["cafe\u0301/1.jpg", "caf\u00e9/1.jpg"], ["cafe/1.jpg"]),
        ("new\nline.*", ["new\nline.jpg"], ["new.jpg"]),
    ],
)
def test_patterns_match_as_in_gitignore(pattern, matched, others):
    exclude, include = PathFilter([pattern]), PathFilter((), [pattern])
    assert [exclude.excludes(path.encode()) for path in matched + others] == [
        *[True] * len(matched),
        *[False] * len(others),
    ]
    assert [include.takes(path.encode()) for path in matched] == [True] * len(matched)
    assert not any(include.takes(path.encode()) for path in others)


def test_names_that_are_not_utf8_are_compared():
    assert PathFilter(["*\udcff*"]).excludes(b"a/\xff.jpg")
    assert not PathFilter(["*\udcff*"]).excludes(b"a/\xfe.jpg")


def test_without_patterns_all_files_are_taken():
    assert not PathFilter()
    assert PathFilter().takes(b"a.jpg")


def test_unused_patterns_are_listed():
    paths = PathFilter(["*.png", "gone"], ["cat", "dog"])
    assert [paths.takes(path) for path in (b"cat/1.png", b"cat/1.jpg")] == [False, True]
    assert paths.unused() == ["--exclude 'gone'", "--include 'dog'"]


@pytest.mark.parametrize("pattern", ["", "/", "./", "a\0b", "[z-a]"])
def test_invalid_patterns_are_refused(pattern):
    with pytest.raises(ConfigError, match="--include is "):
        PathFilter((), [pattern])


@pytest.mark.parametrize(
    "name",
    [
        *("@eaDir", "#recycle", "@Recycle", "#snapshot", "@Recently-Snapshot", ".@__thumb", "$RECYCLE.BIN"),
        *("$Recycle.Bin", "System Volume Information", "lost+found", "LOST+FOUND", ".Trash", ".Trash-1000"),
        *("__MACOSX", ".ipynb_checkpoints", ".Trashes", ".Spotlight-V100", ".snapshot", "FOUND.000"),
    ],
)
def test_system_folders_are_found_at_any_depth(name):
    assert find_system_folder(f"{name}/1.jpg".encode()) == name.encode()
    assert find_system_folder(f"a/b/{name}/c/{name}/1.jpg".encode()) == f"a/b/{name}".encode()
    assert find_system_folder(f"a/{name}".encode()) is None  # a file of that name
    assert find_system_folder(f"a/my {name}/1.jpg".encode()) is None
    assert find_system_folder(f"a/{name}s/1.jpg".encode()) in (None, f"a/{name}s".encode())
