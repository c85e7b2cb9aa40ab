"""How norms of descriptors and sizes of images or boxes are distributed."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.choices import MOST_NORMS, SIZES_OF
from sppfeat.analysis.described import check_described
from sppfeat.analysis.show.sampling import draw_rows
from sppfeat.config.values import check_choice
from sppfeat.errors import ConfigError
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.schema import Status
from sppfeat.store.selection import Selection

__all__ = ["Norms", "Sizes", "count_labels", "measure_norms", "measure_sizes"]

_BLOCK_NBYTES = 16 << 20  # of descriptors at once; four times that in float64 and temporaries


@dataclass(frozen=True)
class Norms:
    """l2 norms of each layer's part of descriptors, as they are in the file: after its normalisation.

    Attributes:
        layers: names of the layers.
        values: ``(n, L)`` float64, of the rows without NaN and infinities.
        n_zero: ``(L,)``: how many of these rows are zero throughout the layer.
        n_nonfinite: rows with NaN or infinities.
        n_rows: rows that these were drawn from.
        normalize: how the file's descriptors were scaled; reduced ones, after they had been reduced.
    """

    layers: tuple[str, ...]
    values: npt.NDArray[np.float64]
    n_zero: tuple[int, ...]
    n_nonfinite: int
    n_rows: int
    normalize: str


@dataclass(frozen=True)
class Sizes:
    """Sizes in pixels of images as displayed, or of the parts of boxes that lie inside their image.

    Attributes:
        of: ``"images"`` or ``"boxes"``.
        widths, heights: ``(n,)`` float64.
        n_left_out: images that failed or whose size is not known; boxes without descriptor.
    """

    of: str
    widths: npt.NDArray[np.float64]
    heights: npt.NDArray[np.float64]
    n_left_out: int


def measure_norms(selection: Selection, *, most: int = MOST_NORMS, seed: int = 0) -> Norms:
    """Norms of the rows of a selection, layer by layer; reads them block by block.

    Args:
        selection: rows and columns.
        most: of more rows so many are drawn.
        seed: of the draw.

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


def measure_sizes(file: FeatureTable, *, of: str = "images") -> Sizes:
    """Sizes of all images whose size is known and which did not fail, or of all boxes that have a descriptor.

    Raises:
        ConfigError: of neither images nor boxes; or of boxes where the file has none.
    """
    check_choice("of", of, SIZES_OF)
    if of == "images":
        heights_widths = file.image_hw.astype(np.float64)
        known = (file.status != Status.FAILED) & (heights_widths > 0).all(axis=1)
        heights, widths = heights_widths[known].T
        return Sizes(of, widths, heights, int((~known).sum()))
    if not file.has_boxes:
        raise ConfigError(f"sizes are of boxes, but the rows of {str(file.path)!r} are whole images")
    rows = file.rows_with_descriptor()
    hw = file.image_hw[file.image_index[rows]].astype(np.float64)
    x0, y0, x1, y1 = file.boxes[rows].T
    widths = np.clip(x1, 0, hw[:, 1]) - np.clip(x0, 0, hw[:, 1])
    heights = np.clip(y1, 0, hw[:, 0]) - np.clip(y0, 0, hw[:, 0])
    known = (widths > 0) & (heights > 0)
    return Sizes(of, widths[known], heights[known], file.n_rows - int(known.sum()))


def count_labels(selection: Selection) -> list[tuple[str, int]]:
    """How many rows of a selection have each class, most frequent first; of those without one under ``""``.

    Numbers without names are their own names. Classes without rows are listed, too.
    """
    y = selection.y
    if y is None:
        return [("", len(selection))] if len(selection) else []
    names = selection.target_names
    if not names:
        numbers, counts = np.unique(y, return_counts=True)
        counted = [(str(number), n) for number, n in zip(numbers.tolist(), counts.tolist(), strict=True)]
        return sorted(counted, key=lambda pair: -pair[1])
    known = (y >= 0) & (y < len(names))
    counts = np.bincount(y[known], minlength=len(names))
    counted = list(zip(names, counts.tolist(), strict=True))
    n_unknown = int((~known).sum())
    return sorted([*counted, *([("", n_unknown)] if n_unknown else [])], key=lambda pair: -pair[1])


def _normalize(file: FeatureTable) -> str:
    return file.config.descriptor.normalize if file.reduction is None else file.reduction.spec.normalize
