"""The self-contained HTML page of a report, with charts for light and dark pages."""

import base64
import json
import re
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sppfeat._version import __version__
from sppfeat.analysis.report.facts import ReportFacts
from sppfeat.analysis.rows import classes_of
from sppfeat.analysis.show.distributions import Norms, Sizes, draw_norms, draw_sizes, norms_text, sizes_text
from sppfeat.analysis.show.embedding import ClassMark, Embedding, caption, draw_embedding, mark_classes
from sppfeat.analysis.show.figure import draw_png
from sppfeat.analysis.show.thumbnails import Thumbnail, encode_jpeg
from sppfeat.analysis.wording import network_text, rounded
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.machine import import_extra
from sppfeat.config.wording import counted, escaped
from sppfeat.errors import ConfigError
from sppfeat.files.outputs import check_new_file

__all__ = ["check_page_path", "render_page"]

_LONGEST = 1000  # letters of a text from the file that are shown
_BETWEEN_PARTS = re.compile(r"(?<=[_./-])(?=[^_./-])")
_CHART_SIDE = 3.2  # inches, small enough for letters of 7 points to be readable on a phone


class _Chart(NamedTuple):
    """A chart with a transparent background."""

    caption: str
    text: str  # description for readers who cannot see it
    uri: str  # data URI of a PNG file
    width: int  # pixels, as the height
    height: int
    table: Sequence[tuple[str, Sequence[str]]]  # names and formatted values of its axes


def check_page_path(path: Path, *, inputs: Sequence[object], overwrite: bool) -> None:
    """Refuses an output that cannot be written and reports a missing package, before anything is computed."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"the output is {str(path)!r}; use a name that ends in .html")
    for package in ("jinja2", "matplotlib", "sklearn"):
        import_extra(package, extra="report", purpose="a report")
    check_new_file(path, inputs=inputs, overwrite=overwrite)


def render_page(facts: ReportFacts) -> str:
    """Renders the page as text, to be encoded in UTF-8; all texts from the file are escaped."""
    jinja2 = import_extra("jinja2", extra="report", purpose="a report")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
    )
    markupsafe = import_extra("markupsafe", extra="report", purpose="a report")

    def breakable(text: str) -> Any:
        """A name in which lines may break after dots, dashes, slashes and underscores."""
        return markupsafe.Markup("<wbr>").join(_BETWEEN_PARTS.split(_printable(text)))

    environment.filters |= {
        "number": "{:,}".format,
        "percent": lambda value: f"{100 * value:.1f} %",
        "breakable": breakable,
        "counted": partial(counted, thousands=","),
        "rounded": rounded,
    }
    page: str = environment.get_template("page.html").render(
        facts=facts,
        configuration=_configuration(facts.config),
        charts=_draw_charts(facts),
        marks=_mark_classes(facts.embedding),
        pictures={row: _picture_uri(thumbnail) for row, thumbnail in facts.thumbnails.items()},
        version=__version__,
        network_text=network_text,
        uniform_norms=_uniform_norms(facts.norms),
    )
    return page


def _mark_classes(embedding: Embedding | None) -> dict[str, ClassMark]:
    """The mark of each class in the embedding; ``""`` is for rows without a class."""
    if embedding is None:
        return {}
    classes = classes_of(embedding.selection)
    return {classes[i]: mark for mark in mark_classes(embedding.selection) for i in mark.positions.tolist()}


def _printable(value: Any) -> Any:
    """Escapes control characters and unpaired surrogates in a text and cuts a very long one; keeps other values."""
    if type(value) is not str:  # safe markup has its own type
        return value
    shown = escaped(value)
    return shown if len(shown) <= _LONGEST or value.startswith("data:image/") else f"{shown[:_LONGEST]}..."


def _configuration(config: ExtractConfig) -> list[tuple[str, str]]:
    """Names and values of all settings."""
    values = {name: value for name, value in config.to_dict().items() if value is not None}
    return [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in values.items()]


def _draw_charts(facts: ReportFacts) -> dict[str, list[_Chart]]:
    """Draws the charts of a report; skips missing facts, and layers whose norms are all equal."""
    charts: dict[str, list[_Chart]] = {"embedding": [], "norms": [], "sizes": []}
    if (embedding := facts.embedding) is not None:
        draw = partial(draw_embedding, embedding, facts.pictured, facts.thumbnails, side=_CHART_SIDE)
        charts["embedding"].append(_chart(caption(embedding), "{}, as points of a plane", draw))
    if (norms := facts.norms) is not None:
        charts["norms"] = [
            _chart(f"Norms of layer {norms_text(norms, i)}", "Histogram: {}", partial(draw_norms, norms, [i]))
            for i in range(len(norms.layers))
            if not norms.is_uniform(i)
        ]
    for sizes in facts.sizes:
        if len(sizes.widths):
            draw = partial(draw_sizes, sizes, side=_CHART_SIDE)
            charts["sizes"].append(
                _chart(sizes_text(sizes), "Width by height of {}", draw, _size_table(sizes))
            )
    return charts


def _size_table(sizes: Sizes) -> list[tuple[str, list[str]]]:
    """Smallest and largest width, height and aspect ratio."""
    ratios = sizes.widths / sizes.heights
    return [
        ("width (pixels)", [f"{sizes.widths.min():,.0f}", f"{sizes.widths.max():,.0f}"]),
        ("height (pixels)", [f"{sizes.heights.min():,.0f}", f"{sizes.heights.max():,.0f}"]),
        ("width / height", [f"{ratios.min():.2f}", f"{ratios.max():.2f}"]),
    ]


def _uniform_norms(norms: Norms | None) -> list[str]:
    """Descriptions of the layers in which all norms are equal."""
    return [norms_text(norms, i) for i in range(len(norms.layers)) if norms.is_uniform(i)] if norms else []


def _chart(
    caption: str, text: str, draw: Callable[[], Any], table: Sequence[tuple[str, Sequence[str]]] = ()
) -> _Chart:
    png = draw_png(draw)
    width, height = struct.unpack(">II", png[16:24])  # where a PNG file has its size
    return _Chart(caption, text.format(caption), _uri("image/png", png), width, height, table)


def _picture_uri(thumbnail: Thumbnail | None) -> str:
    """Data URI of a thumbnail as a JPEG file; empty if the image could not be read."""
    if thumbnail is None or thumbnail.pixels is None:
        return ""
    return _uri("image/jpeg", encode_jpeg(thumbnail.pixels))


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
