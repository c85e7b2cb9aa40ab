"""Files of pictures in three formats, the same for the same picture."""

import os
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image

from sppfeat.config.wording import escaped
from sppfeat.errors import ConfigError

matplotlib = pytest.importorskip("matplotlib")

from sppfeat.analysis.show import figure  # noqa: E402
from sppfeat.analysis.show.figure import (  # noqa: E402
    check_picture_path,
    drawing,
    new_figure,
    write_picture,
)


def draw(path: Path) -> tuple[int, int]:
    def drawn():
        page = new_figure(3, 2)
        axes = page.add_subplot(title=escaped("$x$ $ \\alpha \udcff \u732b \x1b[2J {}"))
        axes.imshow([[1, 2], [3, 4]])
        return page

    return write_picture(drawn, path, overwrite=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG"])
def test_files_are_valid_and_the_same_twice_whatever_the_users_style(tmp_path, suffix):
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    width, height = draw(first)
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": None, "savefig.dpi": 10}):
        before = dict(matplotlib.rcParams)
        draw(second)
        assert dict(matplotlib.rcParams) == before
    content = first.read_bytes()
    assert content == second.read_bytes()
    assert sorted(os.listdir(tmp_path)) == sorted([first.name, second.name])
    if suffix.lower() == ".png":
        with Image.open(first) as picture:
            picture.load()
            assert picture.size == pytest.approx((width, height), abs=1)
    elif suffix == ".svg":
        assert ElementTree.fromstring(content).tag.endswith("svg")
    else:
        assert content.startswith(b"%PDF-")
        assert content.rstrip().endswith(b"%%EOF")
    assert not any(word in content for word in (b"CreationDate", b"dc:date", b"tIME"))


def test_further_fonts_are_used_if_installed(monkeypatch):
    monkeypatch.setattr(figure, "_FURTHER_FONTS", ("no such font", "DejaVu Serif"))
    with drawing():
        assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", "DejaVu Serif"]


@pytest.mark.parametrize("name", ["picture", ".png", "a.png.h5"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"must end in \.png, \.svg or \.pdf"):
        check_picture_path(tmp_path / name, overwrite=True)


def test_without_matplotlib_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'sppfeat\[plot\]'"):
        check_picture_path(tmp_path / "a.png", overwrite=False)
