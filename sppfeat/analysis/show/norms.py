"""Norms of descriptors and their histograms."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.choices import MOST_NORMS
from sppfeat.analysis.row_checks import check_described
from sppfeat.analysis.show.classes import draw_rows
from sppfeat.analysis.show.figure import (
    COLORS,
    Picture,
    check_picture_path,
    new_figure,
    widened,
    write_picture,
)
from sppfeat.analysis.wording import nonfinite_text, rounded, sample_text
from sppfeat.config.values import StrPath
from sppfeat.config.wording import counted, one_line
from sppfeat.store.reader import FeatureFile
from sppfeat.store.selection import Selection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Norms", "draw_norms", "measure_norms", "norms_text", "show_norms"]

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


def show_norms(
    file: StrPath,
    output: StrPath,
    *,
    most: int = MOST_NORMS,
    seed: int = 0,
    overwrite: bool = False,
    **selection: Any,
) -> Picture:
    """Draws histograms of the l2 norms of descriptors, one per layer.

    Args:
        file: the feature file.
        output: the picture to write: .png, .svg or .pdf.
        most: maximum number of rows; if there are more, this many are drawn at random.
        seed: seed of the draw.
        overwrite: replace the output if it exists.
        **selection: rows, layers and levels; see :meth:`sppfeat.store.reader.FeatureFile.select`.

    Returns:
        The picture's path, a line of text per layer, and the :class:`Norms`.

    Raises:
        ConfigError: the output is no picture or an input, the file lacks such rows or columns, a row has no descriptor,
            or matplotlib is not installed.
        StoreError: the file cannot be read, or the output exists or cannot be written.
    """
    path = Path(output)
    check_picture_path(path, inputs=[file], overwrite=overwrite)
    with FeatureFile(file) as features:
        norms = measure_norms(features.select(**selection), most=most, seed=seed)
    numbers = range(len(norms.layers))
    write_picture(lambda: draw_norms(norms, numbers, has_titles=True), path, overwrite=overwrite)
    return Picture(path, tuple(norms_text(norms, i) for i in numbers), norms)


def measure_norms(selection: Selection, *, most: int = MOST_NORMS, seed: int = 0) -> Norms:
    """Measures the norms of at most ``most`` rows of a selection, layer by layer, in blocks."""
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
    file = selection.file
    return Norms(
        layers=tuple(ranges),
        values=kept,
        n_zero=tuple((kept == 0).sum(axis=0).tolist()),
        n_nonfinite=int((~finite).sum()),
        n_rows=len(selection),
        normalize=(file.config.descriptor if file.reduction is None else file.reduction.spec).normalize,
    )


def draw_norms(norms: Norms, layers: Sequence[int], *, has_titles: bool = False) -> "Figure":
    """Draws one histogram for each of the numbered layers, one below the other; inside ``drawing``."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5.5 if has_titles else 3.8, 2.5 * len(layers))
    for axes, layer in zip(figure.subplots(len(layers), 1, squeeze=False)[:, 0], layers, strict=True):
        values = norms.values[:, layer]
        if len(values):
            limits = widened(float(values.min()), float(values.max()), 0.5)
            # Few values get few bins, so that most bins are not empty.
            n_bins = min(max(2 * int(len(values) ** 0.5) + 1, _FEWEST_BINS), _MOST_BINS)
            axes.hist(values, bins=n_bins, range=limits, color=COLORS[6])
        how = "" if norms.normalize == "none" else f", after --normalize {norms.normalize}"
        axes.set(xlabel=f"l2 norm{how}", ylabel="rows")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        if has_titles:
            axes.set_title(norms_text(norms, layer), wrap=True)
    return figure


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
