"""Settings for boxes: their source, the convention of their numbers, and their projection to regions."""

import dataclasses
import math
import re
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, NamedTuple

from sppfeat.config.values import CHOICES, check_choice, check_fields, set_fields
from sppfeat.errors import ConfigError

__all__ = [
    "BOX_FORMATS",
    "BOX_ORIGINS",
    "BOX_STYLES",
    "DEFAULT_CONVENTIONS",
    "MULTIVIEW_SCALES",
    "BoxConvention",
    "GridSpec",
    "RegionSpec",
    "RowFlag",
    "parse_grid",
]

BOX_ORIGINS = (0, 1)
MULTIVIEW_SCALES = (224, 256, 300, 360, 448, 560)  # of the paper, section 3.1.5

_NUMBER_NAMES = {
    "xyxy": ("x0", "y0", "x1", "y1"),
    "xywh": ("x", "y", "w", "h"),
    "cxcywh": ("center x", "center y", "w", "h"),
}
_GRID = re.compile(r"grid:([1-9][0-9]{0,4})x([1-9][0-9]{0,4})(px)?(?::([0-9.]+))?")


class RowFlag(IntFlag):
    """Flags of a row's box; a box may be both clipped and smaller than a cell."""

    OK = 0
    CLIPPED = 1
    DEGENERATE = 2
    SUB_CELL = 4


@dataclass(frozen=True, kw_only=True)
class BoxConvention:
    """The meaning of the four numbers of a box.

    Attributes:
        coords: ``xyxy`` (two corners), ``xywh`` (first corner, width, height) or ``cxcywh`` (center, width, height).
        units: ``absolute`` (pixels), or ``normalized`` or ``percent`` (fractions or percent of width and height).
        origin: coordinate of the first pixel, or of its edge with ``ends="edges"``: 0 or 1.
        ends: ``edges`` if x1 is the right edge of the last pixel, ``inclusive`` if x1 is the last pixel itself.
        order: ``xy``, or ``yx`` where each pair of numbers has y first.
    """

    coords: str = "xyxy"
    units: str = "absolute"
    origin: int = 0
    ends: str = "edges"
    order: str = "xy"

    def __post_init__(self) -> None:
        for name in ("coords", "units", "ends", "order"):
            check_choice(f"box-{name}", getattr(self, name), CHOICES[f"box_{name}"])
        if self.origin not in BOX_ORIGINS:
            raise ConfigError(f"box-origin is {self.origin!r}; allowed: 0, 1")
        if self.ends == "inclusive" and self.coords != "xyxy":
            raise ConfigError(
                f"box-ends inclusive needs corners, but box-coords {self.coords} has a width: use --box-ends edges or "
                "--box-coords xyxy"
            )
        if self.is_relative and (self.origin, self.ends) != (0, "edges"):
            raise ConfigError(
                f"box-units {self.units} needs box-origin 0 and box-ends edges, not {self.origin} and {self.ends}"
            )

    @property
    def is_relative(self) -> bool:
        """True if the numbers are fractions or percent of the image, which count no pixels."""
        return self.units != "absolute"

    def replace(self, **changes: Any) -> "BoxConvention":
        """Return a copy with the given fields changed; None leaves a field as it is.

        Without pixels to count, origin and ends become 0 and edges, unless they are given.
        """
        if changes.get("units") not in (None, "absolute"):
            changes = {"origin": 0, "ends": "edges"} | {k: v for k, v in changes.items() if v is not None}
        return dataclasses.replace(self, **{k: v for k, v in changes.items() if v is not None})

    def __str__(self) -> str:
        x, y, w, h = _NUMBER_NAMES[self.coords]
        numbers = (y, x, h, w) if self.order == "yx" else (x, y, w, h)
        if self.is_relative:
            unit = "fractions" if self.units == "normalized" else "percent"
            return f"{','.join(numbers)} in {unit} of the image"
        ends = ", x1 and y1 inclusive" if self.ends == "inclusive" else ""
        return f"{','.join(numbers)} in pixels, {self.origin}-based{ends}"


DEFAULT_CONVENTIONS = {
    "csv": BoxConvention(),  # the column names decide coords, in tsv and jsonl as well
    "tsv": BoxConvention(),
    "jsonl": BoxConvention(),
    "coco": BoxConvention(coords="xywh"),
    "voc": BoxConvention(origin=1, ends="inclusive"),
    "yolo": BoxConvention(coords="cxcywh", units="normalized"),
    "cvat": BoxConvention(),
    "labelme": BoxConvention(),
    "via": BoxConvention(coords="xywh"),
    "parquet": BoxConvention(),  # the column names decide coords
    "numpy": BoxConvention(),
    "mat": BoxConvention(ends="inclusive"),
}
"""The convention of each format of box files, unless options override it."""

BOX_FORMATS = tuple(DEFAULT_CONVENTIONS)

BOX_STYLES = {
    "coco": BoxConvention(coords="xywh"),
    "pascal_voc": BoxConvention(origin=1, ends="inclusive"),  # of the dataset; Albumentations counts from 0
    "yolo": BoxConvention(coords="cxcywh", units="normalized"),
    "albumentations": BoxConvention(units="normalized"),
    "torchvision": BoxConvention(),
    "tensorflow": BoxConvention(units="normalized", order="yx"),
    "label_studio": BoxConvention(coords="xywh", units="percent"),
    "selective_search": BoxConvention(origin=1, ends="inclusive", order="yx"),  # MATLAB files for R-CNN
}
"""Conventions by the name of the program or dataset that uses them."""


class GridSpec(NamedTuple):
    """A grid of windows over an image.

    Attributes:
        rows, columns: number of windows; with ``in_pixels``, height and width of each window in pixels.
        in_pixels: True for windows of a fixed size in pixels, as many as cover the image.
        overlap: fraction of a window that the next one shares, from 0 to below 1.
    """

    rows: int
    columns: int
    in_pixels: bool
    overlap: float


def parse_grid(text: str) -> GridSpec:
    """Parse a grid such as ``grid:3x3``, ``grid:3x4:0.5`` or ``grid:224x224px:0.5``.

    Example:
        >>> parse_grid("grid:3x4:0.5")
        GridSpec(rows=3, columns=4, in_pixels=False, overlap=0.5)
    """
    match = _GRID.fullmatch(text)
    try:
        overlap = float(match[4] or 0) if match else math.nan
    except ValueError:
        overlap = math.nan
    if match is None or not 0 <= overlap < 1:
        raise ConfigError(
            f"boxes are {text!r}; allowed: grid:ROWSxCOLUMNS, such as grid:3x3, or grid:HEIGHTxWIDTHpx, such as "
            "grid:224x224px, each with :OVERLAP from 0 to below 1, such as grid:3x3:0.5"
        )
    return GridSpec(int(match[1]), int(match[2]), match[3] is not None, overlap)


@dataclass(frozen=True, kw_only=True)
class RegionSpec:
    """The regions to pool from each image, in place of the whole image.

    Attributes:
        boxes: ``file``, ``grid:...`` or ``multiview``.
        boxes_sha256, box_format, box_label, convention: of the box file; empty or None without a file. The label is
            the column or attribute that names the class, None for the usual ones.
        projection: rule that turns boxes into cells, see :func:`sppfeat.geometry.project_boxes`.
        margin: network-input pixels by which each box is tightened on each side.
        drop_duplicates: write a single row for all boxes of an image that project to the same region.
    """

    boxes: str
    boxes_sha256: str = ""
    box_format: str | None = None
    box_label: str | None = None
    convention: BoxConvention | None = None
    projection: str = "sppnet"
    margin: float = 0.0
    drop_duplicates: bool = False

    def __post_init__(self) -> None:
        if self.boxes not in ("file", "multiview"):
            parse_grid(self.boxes)
        if (self.boxes == "file") != (self.convention is not None):
            raise ConfigError(f"boxes are {self.boxes!r}, and their convention is {self.convention}")
        check_fields(self, "projection")
        set_fields(self, margin=float(self.margin))
        if not math.isfinite(self.margin):
            raise ConfigError(f"margin is {self.margin}; allowed: a number of network-input pixels")
        if self.margin and self.projection != "sppnet":
            raise ConfigError(f"--margin needs --projection sppnet, not {self.projection}")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a flat dict, under the names of their options."""
        flat = {name: value for name, value in vars(self).items() if name != "convention"}
        convention = vars(self.convention) if self.convention else dict.fromkeys(_CONVENTION)
        return {**flat, **{f"box_{name}": value for name, value in convention.items()}}

    @classmethod
    def take_from(cls, flat: dict[str, Any]) -> "RegionSpec | None":
        """Remove the settings of :meth:`to_dict` from a flat dict and return them; None for whole images.

        A missing setting is a KeyError, an invalid one a ConfigError.
        """
        if "boxes" not in flat:
            flat.pop("box_label", None)
            return None
        convention = {name: flat.pop(f"box_{name}") for name in _CONVENTION}
        fields = {field.name for field in dataclasses.fields(cls)} - {"convention"}
        return cls(
            **{name: flat.pop(name) for name in fields},
            convention=None if None in convention.values() else BoxConvention(**convention),
        )


_CONVENTION = tuple(field.name for field in dataclasses.fields(BoxConvention))
