"""An open feature file as values: its settings, descriptors, rows and images."""

import contextlib
import json
import math
import os
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import Shard
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.machine import drop_pages
from sppfeat.config.regions import RowFlag
from sppfeat.config.values import DEFAULT_MAX_DECODE_PIXELS, StrPath
from sppfeat.config.wording import counted, one_line
from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.paths import PathTable
from sppfeat.store.reduction import FitRecord, Reduction
from sppfeat.store.schema import UNKNOWN, VERSION_COLUMNS, ColumnBlock, Status, count_boxes
from sppfeat.store.stored_file import StoredFile
from sppfeat.store.virtual_features import VirtualFeatures

__all__ = ["FeatureTable"]

_Uint8s: TypeAlias = npt.NDArray[np.uint8]
_Int32s: TypeAlias = npt.NDArray[np.int32]
_Int64s: TypeAlias = npt.NDArray[np.int64]
_Float64s: TypeAlias = npt.NDArray[np.float64]


def _dataset(name: str, meaning: str) -> Any:
    """Make a property that reads a dataset of numbers, including values that another process has just written."""
    return property(lambda self: np.array(self.map(name)), doc=meaning)


class FeatureTable(StoredFile):
    """The descriptors of a feature file and everything recorded with them.

    In the shapes below ``R`` is the number of rows, ``D`` the length of a descriptor, ``N`` the number of images, ``L``
    the number of layers, and ``X`` the number of boxes in the box file. :class:`sppfeat.store.reader.FeatureFile` adds
    selections. Files whose rows are whole images have no ``row_*`` attributes.

    Attributes:
        n_images: number of images.
        sources: the files that hold the rows, if 'sppfeat merge' made this one without copying; else None.

    Raises:
        StoreError: see :class:`~sppfeat.store.stored_file.StoredFile`; or a source of a merged file is missing or has
            changed. Properties raise it, too, where what they read is invalid.
    """

    def __init__(self, path: StrPath) -> None:
        super().__init__(path)
        try:
            self.n_images = self.shape("images/status")[0]
            self._identity = (
                *self.find_attributes(["fingerprint", "created"]).values(),
                self.n_rows,
                self.dimension,
            )
            self.sources = self.virtual_features()
            if self.sources is not None:
                self.sources.check()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        rows, images = counted(self.n_rows, "row"), counted(self.n_images, "image")
        return f"<{type(self).__name__} {str(self.path)!r}: {rows} x {self.dimension}, {images}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path only: copies and other processes reopen the file."""
        return _reopen, (type(self), self.absolute_path, self._identity)

    @property
    def read_paths(self) -> list[Path]:
        """Paths of the file and of the files that hold its rows; no output may replace them."""
        return [self.path, *map(Path, () if self.sources is None else self.sources.paths)]

    @cached_property
    def features(self) -> npt.NDArray[np.floating[Any]] | VirtualFeatures:
        """``(R, D)`` float32 or float16, memory-mapped and read-only, including failed and pending rows.

        For a merged file whose rows are in other files, an object to index by rows and columns.
        """
        return self.map("features") if self.sources is None else self.sources

    @property
    def max_decode_pixels(self) -> int:
        """Pixel limit for images reread for this file: the default, or the size of its largest image."""
        pixels = self.image_hw.prod(axis=1, dtype=np.int64)
        return int(pixels.max(initial=DEFAULT_MAX_DECODE_PIXELS))

    def drop_pages(self) -> None:
        """Release the memory pages of the mapped :attr:`features`."""
        if isinstance(self.features, np.memmap):
            drop_pages(self.features._mmap)  # type: ignore[attr-defined]

    boxes: _Float64s = _dataset(
        "boxes", "``(R, 4)``: ``xyxy`` edges in pixels of the image as displayed, half-open, not clipped."
    )
    image_index: _Int64s = _dataset("image_index", "``(R,)``: index of each row's image.")
    image_hw: _Int32s = _dataset(
        "images/size", "``(N, 2)``: height and width of each image as displayed, in pixels; 0 if unknown."
    )
    image_rows: _Int64s = _dataset("images/rows", "``(N, 2)``: half-open range of each image's rows.")
    status: _Uint8s = _dataset(
        "images/status", "``(N,)``: 0 pending, 1 done, 2 failed; reread on every access."
    )
    labels: _Int64s = _dataset(
        "images/label", "``(N,)``: class of each image, an index into :attr:`classes`, or -1."
    )
    row_source: _Int64s = _dataset("row_source", "``(R,)``: index of each row's box in the box file.")
    row_flag: _Uint8s = _dataset(
        "row_flag", "``(R,)``: flags of each box, as bits of :class:`sppfeat.config.regions.RowFlag`."
    )
    row_scale: _Int32s = _dataset(
        "row_scale",
        "``(R,)``: short side of each row's network input, in pixels; 0: the image's own size; -1: none.",
    )
    row_region: _Int32s = _dataset(
        "row_region",
        "``(R, L, 4)``: pooled cells of each layer's map, ``x0, y0, x1, y1``, half-open; zeros if not pooled.",
    )
    row_label: _Int64s = _dataset(
        "row_label", "``(R,)``: class of each row's box, an index into :attr:`row_classes`, or -1."
    )
    row_score: _Float64s = _dataset("row_score", "``(R,)``: score of each box, NaN for none.")
    box_row: _Int64s = _dataset(
        "box_row", "``(X,)``: row of each box in the box file; -1 if its image is not among the inputs."
    )

    @property
    def image_versions(self) -> _Int64s:
        """``(N, 2)``: bytes, and modification time in ns since 1970, of each image's file when it was measured.

        -1 if unknown; always -1 in files that older versions made.
        """
        unknown = np.full(self.n_images, UNKNOWN)
        columns = [self.map(name) if self.has(name) else unknown for name in VERSION_COLUMNS]
        return np.stack(columns, axis=1).astype(np.int64)

    @property
    def row_mirrored(self) -> npt.NDArray[np.bool_]:
        """``(R,)``: True for rows pooled from the mirrored image."""
        return self.read("row_mirrored").astype(bool)

    @cached_property
    def path_table(self) -> PathTable:
        """:attr:`paths` as bytes, in a compact table."""
        return self.read_texts("images/path")

    @cached_property
    def paths(self) -> list[str]:
        """``(N,)`` texts: path of each image, relative to :attr:`root`, decoded by ``os.fsdecode``."""
        return list(map(os.fsdecode, self.path_table))

    def path_of(self, image: int) -> str:
        """Return the path of one image, relative to :attr:`root`."""
        return os.fsdecode(self.path_table[image])

    @cached_property
    def image_id_table(self) -> PathTable | None:
        """:attr:`image_ids` as bytes, in a compact table."""
        return self.read_texts("images/id") if self.has("images/id") else None

    @cached_property
    def image_ids(self) -> list[str] | None:
        """``(N,)`` texts: the name an input table gives each image, empty for no name; None if no image has one."""
        return None if self.image_id_table is None else list(map(os.fsdecode, self.image_id_table))

    @property
    def errors(self) -> dict[int, str]:
        """Reason for each failed image, by image index."""
        failed = np.flatnonzero(self.status == Status.FAILED)
        texts = self.map("images/error")
        return {int(i): bytes(texts[i]).decode("utf-8", "replace") for i in failed}

    @cached_property
    def classes(self) -> list[str]:
        """Class names of the images; empty if none are known."""
        return self._names("classes")

    @property
    def has_boxes(self) -> bool:
        """True if rows are boxes; False if they are whole images."""
        return self.has("row_source")

    @cached_property
    def row_id(self) -> list[str]:
        """``(R,)`` texts: name of each box in the box file, empty for none."""
        return self._names("row_id")

    @cached_property
    def row_classes(self) -> list[str]:
        """Class names of the boxes; empty if none are known."""
        return self._names("row_classes") if self.has_boxes else []

    @cached_property
    def row_extra(self) -> dict[str, list[str]]:
        """Other columns of the box file, ``(R,)`` texts each, by name."""
        names, texts = self._names("row_extra_names"), self.read("row_extra")
        return {name: list(map(os.fsdecode, texts[:, i])) for i, name in enumerate(names)}

    @property
    def target_names(self) -> list[str]:
        """Class names that ``y`` indexes: :attr:`row_classes` if boxes have classes, else :attr:`classes`."""
        return self.row_classes or self.classes

    @cached_property
    def columns(self) -> tuple[ColumnBlock, ...]:
        """The blocks of columns of a descriptor: layer, level, channels and range of each."""
        return self.read_column_blocks()

    @property
    def extracted_columns(self) -> tuple[ColumnBlock, ...]:
        """Columns of the descriptors as extracted; :attr:`columns` if they were not reduced."""
        return self.columns if self.reduction is None else self.reduction.record.source_columns

    @property
    def root(self) -> str:
        """Folder or URL that :attr:`paths` are relative to."""
        return self.attribute("input_root")

    @cached_property
    def config(self) -> ExtractConfig:
        """Settings of the extraction, before any :attr:`reduction`."""
        where = f"{str(self.path)!r}: its attribute 'config'"
        try:
            return ExtractConfig.from_dict(json.loads(self.attribute("config")))
        except json.JSONDecodeError as error:
            raise StoreError(f"{where} is not JSON: {error}") from error
        # Nested too deeply, endless digits, or a value of an unexpected type.
        except (ConfigError, RecursionError, ValueError, TypeError, ArithmeticError, LookupError) as error:
            raise StoreError(f"{where}: {one_line(str(error))}") from error

    @property
    def norm_factors(self) -> tuple[float, ...] | None:
        """Factor of each layer under ``meannorm``, above 0; None without it."""
        text = self._text_attribute("norm_factors")
        if text is None:
            return None
        with contextlib.suppress(RecursionError, ValueError, OverflowError, TypeError):
            values = json.loads(text)
            if values and all(type(value) in (int, float) and 0 < value < math.inf for value in values):
                return tuple(map(float, values))
        raise StoreError(
            f"{str(self.path)!r}: its attribute 'norm_factors' is {one_line(repr(text))}; "
            "allowed: a list of numbers above 0"
        )

    @cached_property
    def reduction(self) -> Reduction | None:
        """The projection that reduced the descriptors, which can reduce others; None for descriptors as extracted."""
        if not self.is_reduced:
            return None
        try:
            return Reduction(
                record=FitRecord.from_json(self.attribute("reduction")),
                mean=self.read("reduction/mean"),
                components=self.read("reduction/components"),
                scale=self.read("reduction/scale"),
            )
        except ConfigError as error:
            raise StoreError(f"{str(self.path)!r}: its reduction: {one_line(str(error))}") from error

    @property
    def reduction_fingerprint(self) -> str | None:
        """Fingerprint of the :attr:`reduction`; descriptors with different ones cannot be compared."""
        return None if self.reduction is None else self.reduction.fingerprint

    @property
    def shard(self) -> Shard | None:
        """The shard of a larger extraction that the file holds; None for a whole extraction."""
        text = self._text_attribute("shard")
        try:
            return None if text is None else Shard.from_json(text)
        except ConfigError as error:
            raise StoreError(f"{str(self.path)!r}: its attribute 'shard': {one_line(str(error))}") from error

    def has_descriptor(self) -> npt.NDArray[np.bool_]:
        """Return ``(R,)`` bool, True for rows with a descriptor: the image is done, and a box has an area."""
        has_one = np.asarray(self.status[self.image_index] == Status.DONE)
        if self.has_boxes:
            has_one &= (self.row_flag & RowFlag.DEGENERATE) == 0
        return has_one

    def rows_with_descriptor(self) -> _Int64s:
        """Return the ``(n,)`` indices of the rows with a descriptor, ascending."""
        return np.flatnonzero(self.has_descriptor())

    def count_boxes(self) -> dict[str, int]:
        """Count the rows, the rows with a descriptor, and the rows with each box flag."""
        return count_boxes(self.row_flag, np.asarray(self.status[self.image_index] == Status.DONE))

    def _names(self, dataset: str) -> list[str]:
        return list(map(os.fsdecode, self.read(dataset)))


def _reopen(kind: type[FeatureTable], path: str, identity: tuple[Any, ...]) -> FeatureTable:
    file = kind(path)
    if file._identity != identity:
        file.close()
        raise StoreError(f"{path!r} was replaced by another file; open it again")
    return file
