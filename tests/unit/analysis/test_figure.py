"""What all pictures share: files of three formats, the same for the same picture."""

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image

from sppfeat.errors import ConfigError, StoreError

matplotlib = pytest.importorskip("matplotlib")

from sppfeat.analysis.show import figure  # noqa: E402
from sppfeat.analysis.show.figure import (  # noqa: E402
    PICTURE_SUFFIXES,
    check_picture_path,
    drawing,
    fit_page,
    new_figure,
    plain,
    save_figure,
)


def draw(path: Path, title: str = "title") -> None:
    with drawing():
        page = new_figure(3, 2)
        axes = page.add_axes((0.2, 0.2, 0.7, 0.6))
        axes.plot([1, 3, 2])
        axes.imshow([[1, 2], [3, 4]])
        axes.set_title(plain(title))
        save_figure(page, path)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [*PICTURE_SUFFIXES, ".PNG"])
def test_files_are_valid_and_the_same_twice_whatever_the_users_style(tmp_path, monkeypatch, suffix):
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    draw(first)
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": None, "savefig.dpi": 10}):
        before = dict(matplotlib.rcParams)
        draw(second)
        assert dict(matplotlib.rcParams) == before
    assert first.read_bytes() == second.read_bytes()
    assert sorted(os.listdir(tmp_path)) == sorted([first.name, second.name])
    check_format(first)


def check_format(path: Path) -> None:
    content = path.read_bytes()
    if path.suffix.lower() == ".png":
        with Image.open(path) as picture:
            picture.load()
            assert picture.size == (600, 400)
    elif path.suffix == ".svg":
        assert ElementTree.fromstring(content).tag.endswith("svg")
    else:
        assert content.startswith(b"%PDF-")
        assert content.rstrip().endswith(b"%%EOF")
    assert not any(word in content for word in (b"CreationDate", b"dc:date", b"tIME"))


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", PICTURE_SUFFIXES)
def test_names_may_hold_anything(tmp_path, suffix):
    draw(tmp_path / f"a{suffix}", "$x$ $ \\alpha \udcff \u732b \x1b[2J \n {}")
    check_format(tmp_path / f"a{suffix}")


def test_letters_are_looked_for_in_further_fonts_where_these_are_installed(monkeypatch):
    monkeypatch.setattr(figure, "_FURTHER_FONTS", ("no such font", "DejaVu Serif"))
    with drawing():
        assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", "DejaVu Serif"]


def test_a_page_is_as_large_as_what_is_on_it():
    with drawing():
        page = new_figure(1, 1)
        axes = page.add_axes((0, 0, 1, 1))
        axes.set_ylim(-1e6, 1e6)
        axes.set_ylabel("a label")
        axes.plot([], [], label="a long name in a legend")
        axes.legend(bbox_to_anchor=(1.01, 1), loc="upper left")
        fit_page(page, axes, 3, 2)
        around = axes.get_tightbbox()
        assert (page.bbox.x0 < around.x0, page.bbox.y0 < around.y0) == (True, True)
        assert (around.x1 < page.bbox.x1, around.y1 < page.bbox.y1) == (True, True)
        assert tuple(axes.bbox.size / page.dpi) == pytest.approx((3, 2))
        assert page.bbox.width - around.width < 0.2 * page.dpi


def test_plain_text_is_no_formula():
    assert plain("a$b$") == r"a\$b\$"
    assert plain("\udcff\n") == r"\udcff\n"


@pytest.mark.parametrize("name", ["picture", "picture.jpg", ".png", "png", "a.png.h5"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"ends in \.png, \.svg or \.pdf"):
        check_picture_path(tmp_path / name, overwrite=True)


def test_outputs_that_cannot_be_are_refused_before_anything_is_computed(tmp_path):
    path = tmp_path / "a.png"
    check_picture_path(path, overwrite=False)
    path.write_text("mine")
    with pytest.raises(StoreError, match="exists; --overwrite"):
        check_picture_path(path, overwrite=False)
    check_picture_path(path, overwrite=True)
    with pytest.raises(StoreError, match="the folder of the output does not exist"):
        check_picture_path(tmp_path / "gone" / "a.png", overwrite=False)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(StoreError, match="is a folder"):
        check_picture_path(tmp_path / "folder.png", overwrite=True)


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_text("mine")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="No space left"):
        draw(path)
    assert path.read_text() == "mine"
    assert os.listdir(tmp_path) == ["a.png"]


def test_without_matplotlib_it_says_how_to_install_it(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(ConfigError, match=r"pip install 'sppfeat\[plot\]'"):
        check_picture_path(tmp_path / "a.png", overwrite=False)
    with pytest.raises(ConfigError, match=r"pip install 'sppfeat\[plot\]'"), drawing():
        pass
