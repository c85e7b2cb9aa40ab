"""The schema of feature files, versions 1 and 2: the name, type and shape of every dataset."""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from sppfeat.config.regions import RowFlag
from sppfeat.config.specs import InputSpec
from sppfeat.errors import StoreError

__all__ = [
    "COLUMNS",
    "ERROR_NBYTES",
    "FORMAT",
    "NATIVE_SCALE",
    "NO_SCALE",
    "OPTIONAL_COLUMNS",
    "REDUCED_SCHEMA_VERSION",
    "REDUCTION_COLUMNS",
    "ROW_COLUMNS",
    "SCHEMA_VERSION",
    "SOURCE_COLUMNS",
    "UNKNOWN",
    "VERSION_COLUMNS",
    "BoxCounts",
    "ColumnBlock",
    "RowRegions",
    "Status",
    "check_dimension",
    "column_blocks",
    "columns_of",
    "count_boxes",
    "cut_error",
    "scale_indices",
    "scale_sides",
    "whole_image_boxes",
]

FORMAT = "sppfeat"
SCHEMA_VERSION = 1
# For files with reduced descriptors, so that a program that does not know /reduction refuses them instead of taking
# them for the descriptors that the settings describe.
REDUCED_SCHEMA_VERSION = 2
ERROR_NBYTES = 200

# The datasets of a file besides /features: shape and type. In shapes, R are rows, N images, K classes, B blocks of
# columns, D columns.
_Columns = dict[str, tuple[tuple[str | int, ...], str]]
COLUMNS: _Columns = {  # of every file
    "boxes": (("R", 4), "<f8"),
    "image_index": (("R",), "<i8"),
    "images/path": (("N",), "string"),
    "images/size": (("N", 2), "<i4"),
    "images/rows": (("N", 2), "<i8"),
    "images/status": (("N",), "|u1"),
    "images/error": (("N",), f"|S{ERROR_NBYTES}"),
    "images/label": (("N",), "<i8"),
    "classes": (("K",), "string"),
    "columns/layer": (("B",), "string"),
    "columns/level": (("B",), "<i8"),
    "columns/channels": (("B",), "<i8"),
    "columns/start": (("B",), "<i8"),
    "columns/stop": (("B",), "<i8"),
}
# Files with images from an input table have the name that the table gives each image: any text, not necessarily
# unique, empty for images of other inputs.
OPTIONAL_COLUMNS: _Columns = {"images/id": (("N",), "string")}
# Size and modification time of the file of each image when its header was read, -1 if unknown. Files made before these
# were recorded lack them.
VERSION_COLUMNS: _Columns = {
    "images/nbytes": (("N",), "<i8"),
    "images/mtime_ns": (("N",), "<i8"),  # nanoseconds since 1970
}
UNKNOWN = -1  # in /images/nbytes and /images/mtime_ns
# Files with boxes: L layers, X boxes in the box file, Q classes of boxes, E other columns.
ROW_COLUMNS: _Columns = {
    "row_source": (("R",), "<i8"),
    "row_flag": (("R",), "|u1"),
    "row_scale": (("R",), "<i4"),
    "row_mirrored": (("R",), "|u1"),
    "row_region": (("R", "L", 4), "<i4"),
    "row_label": (("R",), "<i8"),
    "row_score": (("R",), "<f8"),
    "row_id": (("R",), "string"),
    "row_classes": (("Q",), "string"),
    "row_extra": (("R", "E"), "string"),
    "row_extra_names": (("E",), "string"),
    "box_row": (("X",), "<i8"),
}
# Files with reduced descriptors: S columns before the projection, D dimensions after it.
REDUCTION_COLUMNS: _Columns = {
    "reduction/mean": (("S",), "<f4"),
    "reduction/components": (("D", "S"), "<f4"),
    "reduction/scale": (("D",), "<f4"),
}
# Files with virtual /features: S source files that hold the rows.
SOURCE_COLUMNS: _Columns = {
    "sources/path": (("S",), "string"),
    "sources/first_image": (("S",), "<i8"),
    "sources/stop_image": (("S",), "<i8"),
    "sources/first_row": (("S",), "<i8"),
    "sources/stop_row": (("S",), "<i8"),
    "sources/nbytes": (("S",), "<i8"),
    "sources/mtime_ns": (("S",), "<i8"),
    "sources/offset": (("S",), "<i8"),
    "sources/created": (("S",), "string"),
}
NATIVE_SCALE = 0  # in /row_scale: the image's own size
NO_SCALE = -1  # in /row_scale: not pooled at any scale


class Status(IntEnum):
    """The status of an image in the file."""

    PENDING = 0
    DONE = 1
    FAILED = 2


class RowRegions(NamedTuple):
    """Flags and regions of some rows, recorded beside their descriptors."""

    flag: npt.NDArray[np.uint8]  # ``(K,)``, bits of :class:`sppfeat.config.regions.RowFlag`
    region: npt.NDArray[np.int32]  # ``(K, L, 4)``: ``x0, y0, x1, y1`` in cells of each layer's map, half-open


class ColumnBlock(NamedTuple):
    """Columns of one level of one layer, ordered by channel, bin row, bin column.

    Attributes:
        layer: name of the layer.
        level: pyramid level n, of n x n bins.
        channels: channels of the layer.
        start: first column.
        stop: end of the columns (exclusive).
    """

    layer: str
    level: int
    channels: int
    start: int
    stop: int


def column_blocks(
    layers: Sequence[str], channels: Sequence[int], levels: Sequence[int]
) -> tuple[ColumnBlock, ...]:
    """Return the blocks of columns of a descriptor, ordered by layer, then by level.

    Example:
        >>> [block[3:] for block in column_blocks(["relu"], [64], [1, 2])]
        [(0, 64), (64, 320)]
    """
    blocks: list[ColumnBlock] = []
    start = 0
    for layer, n_channels in zip(layers, channels, strict=True):
        for level in levels:
            stop = start + n_channels * level * level
            blocks.append(ColumnBlock(layer, level, n_channels, start, stop))
            start = stop
    return tuple(blocks)


def cut_error(reason: str) -> bytes:
    """Return a reason as one line of at most 200 bytes of UTF-8, cut between characters."""
    line = " ".join(reason.replace("\0", "\\0").split())
    encoded = line.encode("utf-8", "backslashreplace")[:ERROR_NBYTES]
    return encoded.decode("utf-8", "ignore").encode("utf-8")


def scale_sides(scale: npt.NDArray[np.int16], spec: InputSpec) -> npt.NDArray[np.int32]:
    """Return ``/row_scale``, short sides in pixels, for ``(K,)`` scale indices; index -1 means none."""
    return np.array([*_recorded_sides(spec), NO_SCALE], dtype="<i4")[scale]


def scale_indices(sides: npt.NDArray[np.int32], spec: InputSpec) -> npt.NDArray[np.int16]:
    """Return ``(K,)`` scale indices for values of ``/row_scale``: the inverse of :func:`scale_sides`."""
    index = {side: i for i, side in enumerate(_recorded_sides(spec))}
    return np.array([index.get(side, -1) for side in sides.tolist()], dtype=np.int16)


def _recorded_sides(spec: InputSpec) -> list[int]:
    return [NATIVE_SCALE if side is None else side for side in spec.short_sides]


def columns_of(
    *, ids: bool, boxes: bool, versions: bool = True, reduction: bool = False, sources: bool = False
) -> _Columns:
    """Return the datasets of a file besides ``/features``; see the optional ones above."""
    columns = dict(COLUMNS)
    if versions:
        columns |= VERSION_COLUMNS
    if ids:
        columns |= OPTIONAL_COLUMNS
    if boxes:
        columns |= ROW_COLUMNS
    if reduction:
        columns |= REDUCTION_COLUMNS
    if sources:
        columns |= SOURCE_COLUMNS
    return columns


def check_dimension(blocks: Sequence[ColumnBlock], dimension: int) -> None:
    """Raise StoreError unless there are blocks, and they tile ``dimension`` columns."""
    starts = [0, *(block.stop for block in blocks)]
    ok = starts[-1] == dimension and all(
        block.start == start
        and block.stop - start == block.channels * block.level**2
        and block.level > 0
        and block.channels > 0
        for block, start in zip(blocks, starts[:-1], strict=True)
    )
    if not blocks or not ok:
        raise StoreError(f"/columns does not describe the {dimension} columns of /features")


class BoxCounts(TypedDict):
    """The keys of :func:`count_boxes`.

    Attributes:
        rows: number of rows.
        with_descriptor: number of rows with a descriptor.
        of_failed_or_pending: number of rows of images that failed or are pending.
        clipped: number of boxes that extend beyond their image.
        degenerate: number of boxes without area inside their image; their rows are NaN.
        sub_cell: number of boxes smaller than a cell of the feature map.
    """

    rows: int
    with_descriptor: int
    of_failed_or_pending: int
    clipped: int
    degenerate: int
    sub_cell: int


def count_boxes(flag: npt.NDArray[np.uint8], is_done: npt.NDArray[np.bool_]) -> dict[str, int]:
    """Count rows ``(R,)``: all, those with a descriptor, and those with each box flag."""
    flags = {"clipped": RowFlag.CLIPPED, "degenerate": RowFlag.DEGENERATE, "sub_cell": RowFlag.SUB_CELL}
    has = {name: (flag & bit) != 0 for name, bit in flags.items()}
    return {
        "rows": len(flag),
        "with_descriptor": int((is_done & ~has["degenerate"]).sum()),
        "of_failed_or_pending": int((~is_done).sum()),
        **{name: int(own.sum()) for name, own in has.items()},
    }


def whole_image_boxes(image_hw: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Return ``(N, 4)`` float64 boxes ``[0, 0, width, height]`` in pixels; NaN for images of unknown size."""
    boxes = np.zeros((len(image_hw), 4), dtype="<f8")
    boxes[:, 2:] = image_hw[:, ::-1]
    boxes[(image_hw == 0).any(axis=1)] = np.nan
    return boxes
