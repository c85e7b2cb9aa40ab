"""Norms of descriptors and their histograms."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.choices import MOST_NORMS
from sppfeat.analysis.row_checks import check_described
from sppfeat.analysis.show.figure import COLORS, new_figure, plain
from sppfeat.analysis.show.sampling import draw_rows
from sppfeat.analysis.wording import nonfinite_text, rounded, sample_text
from sppfeat.config.wording import counted, one_line
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.selection import Selection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Norms", "draw_norms", "measure_norms", "norms_figure", "norms_text"]

_BLOCK_NBYTES = 16 << 20  # size of a block of descriptors; float64 copies take four times as much

# Odd numbers, so that a single norm stands in the middle.
_FEWEST_BINS, _MOST_BINS = 9, 41
_NARROW = 1e-4  # norms with a smaller relative spread count as equal


@dataclass(frozen=True)
class Norms:
    """l2 norms of each layer's part of the stored (normalized) descriptors.

    Attributes:
        layers: names of the ``L`` layers.
        values: ``(n, L)`` float64 norms of the rows without NaN and infinities.
        n_zero: number of these rows that are zero throughout, for each layer.
        n_nonfinite: number of rows with NaN or infinities.
        n_rows: number of rows that they were drawn from.
        normalize: normalization of the file's descriptors; if they are reduced, the one after the reduction.
    """

    layers: tuple[str, ...]
    values: npt.NDArray[np.float64]
    n_zero: tuple[int, ...]
    n_nonfinite: int
    n_rows: int
    normalize: str


def measure_norms(selection: Selection, *, most: int = MOST_NORMS, seed: int = 0) -> Norms:
    """Measures the norms of the rows of a selection, layer by layer, in blocks.

    Args:
        selection: rows and columns of an open file.
        most: maximum number of rows; if there are more, this many are drawn at random.
        seed: seed of the draw.

    Raises:
        ConfigError: a row has no descriptor.
    """
    check_described(selection)
    drawn = draw_rows(selection, most, seed=seed)
    ranges = selection.columns.layer_ranges()
    values = np.empty((len(drawn), len(ranges)))
    for part, rows in drawn.blocks(nbytes=_BLOCK_NBYTES):
        block = rows.astype(np.float64)
        for i, columns in enumerate(ranges.values()):
            values[part, i] = np.linalg.norm(block[:, columns], axis=1)
    finite = np.isfinite(values).all(axis=1)
    kept = values[finite]
    return Norms(
        layers=tuple(ranges),
        values=kept,
        n_zero=tuple((kept == 0).sum(axis=0).tolist()),
        n_nonfinite=int((~finite).sum()),
        n_rows=len(selection),
        normalize=_normalize(selection.file),
    )


def _normalize(file: FeatureTable) -> str:
    return file.config.descriptor.normalize if file.reduction is None else file.reduction.spec.normalize


def norms_figure(norms: Norms) -> "Figure":
    """Draws one histogram per layer, one below the other; inside :func:`~sppfeat.analysis.show.figure.drawing`."""
    n_layers = len(norms.layers)
    figure = new_figure(5.5, 0.5 + 2.3 * n_layers)
    all_axes = figure.subplots(n_layers, 1, squeeze=False)[:, 0]
    for i, axes in enumerate(all_axes):
        draw_norms(axes, norms, i)
        axes.set_title(plain(norms_text(norms, i)), loc="left")
    figure.tight_layout()
    return figure


def draw_norms(axes: "Axes", norms: Norms, layer: int) -> None:
    """Draws the histogram of one layer into axes."""
    from matplotlib.ticker import MaxNLocator

    values = norms.values[:, layer]
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    if len(values) and high - low <= _NARROW * high:
        middle = (low + high) / 2
        low, high = middle - 0.5 * (middle or 1), middle + 0.5 * (middle or 1)
    if len(values):
        axes.hist(values, bins=_n_bins(len(values)), range=(low, high), color=COLORS[6])
    axes.set_xlabel(
        "l2 norm" if norms.normalize == "none" else f"l2 norm, after --normalize {norms.normalize}"
    )
    axes.set_ylabel("rows")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _n_bins(n_values: int) -> int:
    """Number of bins; few values get few bins, so that most bins are not empty."""
    return min(max(2 * int(n_values**0.5) + 1, _FEWEST_BINS), _MOST_BINS)


def norms_text(norms: Norms, layer: int) -> str:
    """Describes the norms of one layer in one line."""
    values = norms.values[:, layer]
    rows = sample_text(len(values), n_nonfinite=norms.n_nonfinite, n_rows=norms.n_rows)
    text = f"{one_line(norms.layers[layer], longest=60)}: {rows}"
    if len(values):
        low, median, high = np.quantile(values, (0, 0.5, 1)).tolist()
        text += (
            f", all {rounded(median)}"
            if high - low <= _NARROW * high
            else f", {rounded(low)} to {rounded(high)}, median {rounded(median)}"
        )
    if norms.n_zero[layer]:
        text += "; " + counted(norms.n_zero[layer], "is", "are", thousands=",") + " zero"
    return text + nonfinite_text(norms.n_nonfinite)
