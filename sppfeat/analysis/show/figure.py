"""The style of all pictures, and their files.

Figures are drawn without a display and without pyplot, whose list of open figures would keep them in memory. The same
figure gives the same bytes.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sppfeat.config.machine import import_extra
from sppfeat.config.values import StrPath
from sppfeat.config.wording import escaped
from sppfeat.errors import ConfigError
from sppfeat.files.atomic import replace_file
from sppfeat.files.outputs import check_new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLORS",
    "HEAT",
    "PICTURE_SUFFIXES",
    "check_picture_path",
    "drawing",
    "fit_page",
    "new_figure",
    "plain",
    "save_figure",
]

PICTURE_SUFFIXES = (".png", ".svg", ".pdf")

COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2", "#000000")
"""Colors for things to tell apart, by Okabe and Ito, for all kinds of color vision."""

HEAT = "viridis"
"""Color map for amounts, brighter for larger ones, for all kinds of color vision."""

_DPI = 200
_VECTOR_DPI = 130  # for photographs in .svg and .pdf; with 200, a picture with 6 photographs takes 9 MB
_PURPOSE = "a picture"
_PAGE_MARGIN = 0.08  # inches
_FONT = "DejaVu Sans"  # comes with matplotlib
# Used, if installed, for letters that DejaVu Sans lacks; each covers many scripts.
_FURTHER_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Arial Unicode MS",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Emoji",
)
_STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "figure.dpi": _DPI,
    "savefig.dpi": _DPI,
    "pdf.fonttype": 42,  # TrueType, because publishers refuse Type 3 fonts
    "svg.fonttype": "path",  # looks the same without the fonts
    "svg.hashsalt": "sppfeat",  # otherwise element ids are random
}
# No date and no version, so that the same figure gives the same bytes.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def check_picture_path(path: Path, *, inputs: Sequence[StrPath] = (), overwrite: bool) -> None:
    """Refuses an output that cannot be written, so that nothing is computed in vain.

    Raises:
        ConfigError: the suffix is not one of :data:`PICTURE_SUFFIXES`, the output is an input, or matplotlib is not
            installed.
        StoreError: the output exists and ``overwrite`` is False, it is not a file, or its folder does not exist.
    """
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise ConfigError(f"the output is {str(path)!r}; allowed: a name that ends in {_suffixes()}")
    import_extra("matplotlib", extra="plot", purpose=_PURPOSE)
    check_new_file(path, inputs=inputs, overwrite=overwrite)


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Sets our style while a figure is made and saved, in place of the user's matplotlib settings.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    style = import_extra("matplotlib.style", extra="plot", purpose=_PURPOSE)
    fonts = {"font.family": [_FONT, *_installed(_FURTHER_FONTS)]}
    with style.context(["default", _STYLE, fonts]), warnings.catch_warnings():
        # File names may hold letters that no font has; matplotlib warns and draws them as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this width and height in inches; inside :func:`drawing`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white")


def fit_page(figure: "Figure", axes: "Axes", width: float, height: float) -> None:
    """Sets the size of axes in inches, and fits the page to the axes with their title, labels and legend."""
    page_width, page_height = figure.get_size_inches()
    axes.set_position((0, 0, width / page_width, height / page_height))
    around = axes.get_tightbbox()
    if around is None:  # axes that are not visible
        return
    left, bottom, right, top = (edge / figure.dpi for edge in around.extents)
    page_width, page_height = right - left + 2 * _PAGE_MARGIN, top - bottom + 2 * _PAGE_MARGIN
    figure.set_size_inches(page_width, page_height)
    left, bottom = _PAGE_MARGIN - left, _PAGE_MARGIN - bottom
    axes.set_position((left / page_width, bottom / page_height, width / page_width, height / page_height))


def plain(text: str) -> str:
    r"""Escapes a text from a user, such as a file name, so that matplotlib does not read it as a formula.

    Example:
        >>> print(plain("$x$.png"))
        \$x\$.png
    """
    return escaped(text).replace("$", r"\$")


def save_figure(figure: "Figure", path: Path, *, overwrite: bool = True) -> None:
    """Writes a figure in the format that the path's suffix names, whole or not at all; inside :func:`drawing`.

    Raises:
        StoreError: the file cannot be written.
    """
    suffix = path.suffix.lower()
    content = io.BytesIO()
    dpi = _DPI if suffix == ".png" else _VECTOR_DPI
    figure.savefig(content, format=suffix[1:], metadata=_METADATA[suffix], dpi=dpi)
    replace_file(path, content.getbuffer(), overwrite=overwrite)


def _installed(fonts: Sequence[str]) -> list[str]:
    """Filters fonts that matplotlib finds; it would warn of each missing one, for each text."""
    from matplotlib.font_manager import fontManager

    known = {font.name for font in fontManager.ttflist}
    return [font for font in fonts if font in known]


def _suffixes() -> str:
    return f"{', '.join(PICTURE_SUFFIXES[:-1])} or {PICTURE_SUFFIXES[-1]}"
