"""Charts of a report, drawn so that they can be read on light pages and on dark ones."""

import base64
from typing import NamedTuple

from sppfeat.analysis.report.facts import ReportFacts
from sppfeat.analysis.show.distributions import draw_norms, draw_sizes
from sppfeat.analysis.show.embedding import draw_embedding
from sppfeat.analysis.show.figure import draw_png
from sppfeat.analysis.show.thumbnails import Thumbnail, encode_jpeg

__all__ = ["Chart", "draw_charts", "picture_uri"]

# Inches, small enough for letters of 7 points to be readable on a phone.
_EMBEDDING_SIDE = 4.2
_SIZES_SIDE = 4.0


class Chart(NamedTuple):
    """A chart as the data URI of a PNG file with a transparent background, and its size in pixels."""

    uri: str
    width: int
    height: int


def draw_charts(facts: ReportFacts) -> dict[str, list[Chart]]:
    """Draws the charts of a report under ``"embedding"``, ``"norms"`` (one per layer) and ``"sizes"`` (images, boxes).

    Missing facts give no chart.
    """
    charts: dict[str, list[bytes]] = {"embedding": [], "norms": [], "sizes": []}
    embedding, norms = facts.embedding, facts.norms
    if embedding is not None:
        shown = facts.pictured, facts.thumbnails
        charts["embedding"] = [draw_png(lambda: draw_embedding(embedding, *shown, side=_EMBEDDING_SIDE))]
    if norms is not None and len(norms.values):
        charts["norms"] = [
            draw_png(lambda i=i: draw_norms(norms, [i]))  # type: ignore[misc]
            for i in range(len(norms.layers))
        ]
    charts["sizes"] = [
        draw_png(lambda sizes=sizes: draw_sizes(sizes, side=_SIZES_SIDE))  # type: ignore[misc]
        for sizes in facts.sizes
        if len(sizes.widths)
    ]
    # Bytes 16 to 23 of a PNG file hold its width and height.
    return {
        name: [
            Chart(
                _uri("image/png", png), int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
            )
            for png in pngs
        ]
        for name, pngs in charts.items()
    }


def picture_uri(thumbnail: Thumbnail | None) -> str:
    """Data URI of a thumbnail as a JPEG file; empty if there is no picture."""
    if thumbnail is None or thumbnail.pixels is None:
        return ""
    return _uri("image/jpeg", encode_jpeg(thumbnail.pixels))


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
