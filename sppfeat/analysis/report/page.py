"""The HTML page of a report, which needs no other file."""

import functools
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from sppfeat._version import __version__
from sppfeat.analysis.report.charts import draw_charts, picture_uri
from sppfeat.analysis.report.facts import ReportFacts
from sppfeat.analysis.show.contact_sheet import SheetLine
from sppfeat.analysis.show.distributions import norms_text, sizes_text
from sppfeat.analysis.show.embedding import caption, mark_classes, mark_text
from sppfeat.analysis.wording import network_text, rounded
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.machine import import_extra
from sppfeat.config.wording import counted, escaped
from sppfeat.errors import ConfigError
from sppfeat.files.outputs import check_new_file

__all__ = ["check_page_path", "render_page"]

_MOST_CLASSES = 30  # to list
_MOST_REASONS = 20  # of failures
_MOST_PAIRS = 10  # of confused classes
_LONGEST = 1000  # maximum number of letters to show of a text from the file
_BETWEEN_PARTS = re.compile(r"(?<=[_./-])(?=[^_./-])")


def check_page_path(path: Path, *, inputs: Sequence[object] = (), overwrite: bool) -> None:
    """Refuses an output that cannot be written, and a missing package, so that nothing is computed in vain."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"the output is {str(path)!r}; allowed: a name that ends in .html")
    for package in ("jinja2", "matplotlib", "sklearn"):
        import_extra(package, extra="report", purpose="a report")
    check_new_file(path, inputs=inputs, overwrite=overwrite)


def render_page(facts: ReportFacts) -> str:
    """Renders the page as text, to be encoded in UTF-8; all texts from the file are escaped."""
    jinja2 = import_extra("jinja2", extra="report", purpose="a report")
    folder = resources.files("sppfeat.analysis.report")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
    )
    markupsafe = import_extra("markupsafe", extra="report", purpose="a report")

    def breakable(text: str) -> Any:
        """A name in which lines may break after dots, dashes, slashes and underscores."""
        return markupsafe.Markup("<wbr>").join(_BETWEEN_PARTS.split(_shown(text)))

    environment.filters |= {
        "number": "{:,}".format,
        "percent": lambda value: f"{100 * value:.1f} %",
        "bytes": _bytes,
        "breakable": breakable,
        "counted": functools.partial(counted, thousands=","),
        "rounded": rounded,
    }
    embedding = facts.embedding
    marks = mark_classes(embedding.selection) if embedding else []
    page: str = environment.get_template("page.html").render(
        facts=facts,
        configuration=_configuration(facts.config),
        most_classes=_MOST_CLASSES,
        most_reasons=_MOST_REASONS,
        most_pairs=_MOST_PAIRS,
        css=markupsafe.Markup(folder.joinpath("page.css").read_text("utf-8")),
        charts=draw_charts(facts),
        legend=[(mark, mark_text(mark)) for mark in marks]
        if embedding and embedding.selection.y is not None
        else [],
        pictures={row: picture_uri(thumbnail) for row, thumbnail in facts.thumbnails.items()},
        verdict=_verdict,
        version=__version__,
        embedding_text=caption(embedding) if embedding else "",
        network_text=network_text,
        norms_text=norms_text,
        sizes_text=sizes_text,
    )
    return page


def _shown(value: Any) -> Any:
    """A text that a page can hold: without control characters and unpaired surrogates, and cut if it is very long."""
    if type(value) is not str:  # safe markup has its own type
        return value
    shown = escaped(value)
    return shown if len(shown) <= _LONGEST or value.startswith("data:image/") else f"{shown[:_LONGEST]}..."


def _configuration(config: ExtractConfig) -> list[tuple[str, str]]:
    """Names and values of all settings."""
    values = {name: value for name, value in config.to_dict().items() if value is not None}
    return [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in values.items()]


def _verdict(line: SheetLine, i: int) -> str:
    """Class of a neighbor compared with its query's: ``same``, ``other`` or ``unknown``."""
    is_same = line.neighbors[i].is_same
    return "unknown" if is_same is None else "same" if is_same else "other"


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
