"""Charts of a report, each drawn twice: for light pages and for dark ones."""

import base64
import contextlib
import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from sppfeat.analysis.report.facts import ReportFacts
from sppfeat.analysis.show.classes import ClassMark
from sppfeat.analysis.show.embedding_picture import draw_embedding
from sppfeat.analysis.show.figure import drawing, fit_page, new_figure
from sppfeat.analysis.show.norms import draw_norms
from sppfeat.analysis.show.sizes import draw_sizes
from sppfeat.analysis.show.thumbnails import Thumbnail, encode_jpeg
from sppfeat.config.machine import import_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Chart", "draw_charts", "picture_uri"]

_INKS = {"light": "#1b1b1b", "dark": "#e6e6e6"}
_DPI = 200
# Inches, small enough for letters of 7 points to be readable on a phone.
_EMBEDDING_SIDE = 3.8
_NORMS_HW = (2.2, 3.4)
_SIZES_SIDE = 4.0


class Chart(NamedTuple):
    """A chart as data URIs of two PNG files with a transparent background.

    Attributes:
        light, dark: the chart for light pages and for dark pages.
        width, height: size in pixels, the same for both.
    """

    light: str
    dark: str
    width: int
    height: int


def draw_charts(facts: ReportFacts, marks: list[ClassMark]) -> dict[str, list[Chart]]:
    """Draws the charts of a report: its embedding, its norms (one per layer) and its sizes (images, boxes).

    Args:
        facts: facts of a report; missing facts give no chart.
        marks: marks of the classes in its embedding.

    Returns:
        Lists of charts under ``"embedding"``, ``"norms"`` and ``"sizes"``.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    charts: dict[str, list[Chart]] = {"embedding": [], "norms": [], "sizes": []}
    embedding = facts.embedding
    if embedding is not None:

        def embedded() -> "Figure":
            figure = new_figure(_EMBEDDING_SIDE, _EMBEDDING_SIDE)
            axes = figure.add_axes((0, 0, 1, 1))
            draw_embedding(axes, embedding, marks, facts.pictured, facts.thumbnails, side=_EMBEDDING_SIDE)
            fit_page(figure, axes, _EMBEDDING_SIDE, _EMBEDDING_SIDE)
            return figure

        charts["embedding"].append(_chart(embedded))
    if facts.norms is not None and len(facts.norms.values):
        norms = facts.norms

        def of_layer(layer: int) -> "Figure":
            figure = new_figure(*_NORMS_HW[::-1])
            axes = figure.add_axes((0, 0, 1, 1))
            draw_norms(axes, norms, layer)
            fit_page(figure, axes, *_NORMS_HW[::-1])
            return figure

        charts["norms"] = [_chart(lambda i=i: of_layer(i)) for i in range(len(norms.layers))]  # type: ignore[misc]
    for sizes in facts.sizes:
        if len(sizes.widths):

            def of_sizes(sizes: Any = sizes) -> "Figure":
                figure = new_figure(_SIZES_SIDE, _SIZES_SIDE)
                draw_sizes(figure, sizes)
                return figure

            charts["sizes"].append(_chart(of_sizes))
    return charts


def picture_uri(thumbnail: Thumbnail | None) -> str:
    """Data URI of a thumbnail as a JPEG file; empty if there is no picture."""
    if thumbnail is None or thumbnail.pixels is None:
        return ""
    return _uri("image/jpeg", encode_jpeg(thumbnail.pixels))


def _chart(draw: Callable[[], "Figure"]) -> Chart:
    encoded = {}
    with drawing():
        for theme in _INKS:
            with _inked(theme):
                encoded[theme] = _png(draw())
    # Bytes 16 to 23 of a PNG file hold its width and height.
    width, height = (int.from_bytes(encoded["light"][i : i + 4], "big") for i in (16, 20))
    return Chart(_uri("image/png", encoded["light"]), _uri("image/png", encoded["dark"]), width, height)


@contextlib.contextmanager
def _inked(theme: str) -> Iterator[None]:
    """Sets the color of lines and letters for light or dark pages."""
    style = import_extra("matplotlib.style", extra="report", purpose="a report")
    ink = _INKS[theme]
    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with style.context({**dict.fromkeys(names, ink), "axes.facecolor": "none", "savefig.facecolor": "none"}):
        yield


def _png(figure: "Figure") -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI, transparent=True, metadata={"Software": None})
    return content.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
