"""The style of all pictures, and the writer of their files.

Figures are drawn without a display and without pyplot, which would keep them in memory. matplotlib's constrained layout
arranges them. Files have a white page, because they are printed and viewed by programs whose background is unknown; the
charts of a report are transparent and read on light and dark pages. On one machine, the same command writes the same
bytes.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sppfeat.config.machine import import_extra
from sppfeat.config.values import StrPath
from sppfeat.config.wording import escaped
from sppfeat.errors import ConfigError
from sppfeat.files.outputs import check_new_file, replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "COLORS",
    "HEAT",
    "Picture",
    "check_picture_path",
    "cut_middle",
    "draw_png",
    "drawing",
    "new_figure",
    "write_picture",
]

COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2", "#000000")
"""Distinct colors by Okabe and Ito, for all kinds of color vision."""

HEAT = "viridis"
"""Color map for amounts; brighter is larger. Suits all kinds of color vision."""

_DPI = 200
_VECTOR_DPI = 130  # for photographs in .svg and .pdf; at 200, a picture with 6 photographs takes 9 MB
_MARGIN = 0.08  # inches around the drawing
_INK = "#7b7b7b"  # readable on white and on near-black pages (contrast 4.2)
_FONT = "DejaVu Sans"  # comes with matplotlib
# Fonts for letters that DejaVu Sans lacks, used if installed; each covers many scripts.
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
    "text.parse_math": False,  # file names may contain $
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
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
    "figure.titlesize": 8,
    "figure.dpi": _DPI,
    "savefig.bbox": "tight",
    "savefig.pad_inches": _MARGIN,
    "pdf.fonttype": 42,  # TrueType, because publishers refuse Type 3 fonts
    "svg.fonttype": "path",  # looks the same without the fonts
    "svg.hashsalt": "sppfeat",  # otherwise element ids are random
}
# No date and no version: the same figure gives the same bytes.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


class Picture(NamedTuple):
    """A picture that was written.

    Attributes:
        path: path of its file.
        summary: the picture in a few words.
        found: the values that it shows.
        details: lines about its parts.
        notes: lines about images that could not be read.
    """

    path: Path
    summary: str
    found: Any
    details: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_picture_path(output: StrPath, *, inputs: Sequence[object] = (), overwrite: bool) -> Path:
    """Checks before any work that an output can be written and is not an input; returns its path."""
    path = Path(output)
    if path.suffix.lower() not in _METADATA:
        raise ConfigError(f"the output is {str(path)!r}; its name must end in .png, .svg or .pdf")
    import_extra("matplotlib", extra="plot", purpose="a picture")
    check_new_file(path, inputs=inputs, overwrite=overwrite)
    return path


@contextlib.contextmanager
def drawing(ink: str = "black") -> Iterator[None]:
    """Replaces the user's matplotlib settings with our style, with lines and letters in ``ink``."""
    style = import_extra("matplotlib.style", extra="plot", purpose="a picture")
    from matplotlib.font_manager import fontManager

    # matplotlib warns of every font that is not installed, for every text.
    known = {font.name for font in fontManager.ttflist}
    fonts = {"font.family": [_FONT, *(font for font in _FURTHER_FONTS if font in known)]}
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with style.context(["default", _STYLE, fonts, dict.fromkeys(inked, ink)]), warnings.catch_warnings():
        # matplotlib warns of letters in file names that no font has, and draws boxes for them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def cut_middle(text: str, longest: int) -> str:
    """Shortens a text in the middle; names of images often differ at the end."""
    shown = escaped(text)
    if len(shown) <= longest:
        return shown
    half = longest // 2
    return f"{shown[:half]}\N{HORIZONTAL ELLIPSIS}{shown[half + 1 - longest :]}"


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of about this width and height in inches; inside :func:`drawing`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def write_picture(draw: Callable[[], "Figure"], path: Path, *, overwrite: bool) -> tuple[int, int]:
    """Writes a figure, completely or not at all; returns its width and height in pixels."""
    suffix = path.suffix.lower()
    content = io.BytesIO()
    with drawing():
        figure = draw()
        dpi = _DPI if suffix == ".png" else _VECTOR_DPI
        figure.savefig(content, format=suffix[1:], metadata=_METADATA[suffix], dpi=dpi)
        page = figure.get_tightbbox().padded(_MARGIN)
    replace_file(path, content.getvalue(), overwrite=overwrite)
    return int(page.width * _DPI), int(page.height * _DPI)


def draw_png(draw: Callable[[], "Figure"]) -> bytes:
    """The bytes of a PNG file of a figure, transparent, for light and dark pages."""
    content = io.BytesIO()
    with drawing(_INK):
        draw().savefig(content, format="png", transparent=True, metadata=_METADATA[".png"])
    return content.getvalue()
