"""An open feature file as arrays: its descriptors, rows and images, and the settings they were made with."""

import os
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import Shard
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.machine import drop_pages
from sppfeat.config.regions import RowFlag
from sppfeat.config.values import StrPath
from sppfeat.config.wording import counted
from sppfeat.errors import StoreError
from sppfeat.files.paths import PathTable
from sppfeat.store.reduction import Reduction
from sppfeat.store.schema import ColumnBlock, Status
from sppfeat.store.stored_file import StoredFile
from sppfeat.store.virtual_features import VirtualFeatures

__all__ = ["FeatureTable"]

_Table = TypeVar("_Table", bound="FeatureTable")


class FeatureTable:
    """The descriptors of a feature file and everything recorded with them.

    In the shapes below ``R`` is the number of rows, ``D`` the length of a descriptor, ``N`` the number of images, ``L``
    the number of layers, and ``X`` the number of boxes in the box file. :class:`sppfeat.store.reader.FeatureFile` adds
    selections.

    Args:
        path: path of the file.

    Attributes:
        path: path of the file.
        stored: the datasets and attributes as stored.
        sources: the files that hold the rows, if 'sppfeat merge' made this one without copying; else None.

    Raises:
        StoreError: the file is missing, not HDF5, not a feature file, of a newer schema, or inconsistent; or a source
            of a merged file is missing or has changed.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(os.fsdecode(path))
        self.stored = StoredFile(self.path)
        try:
            self._identity = (self.attribute("fingerprint"), self.stored.features.shape)
            self.sources = self.stored.source_files()
            if self.sources is not None:
                self.sources.check()
        except BaseException:
            self.stored.close()
            raise

    def __enter__(self: _Table) -> _Table:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        rows, images = counted(self.n_rows, "row"), counted(self.n_images, "image")
        return f"<{type(self).__name__} {str(self.path)!r}: {rows} x {self.dimension}, {images}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path only: copies and other processes reopen the file."""
        return _reopen, (type(self), os.path.abspath(self.path), self._identity)

    def close(self) -> None:
        """Close the file; arrays already handed out stay valid."""
        self.stored.close()

    @property
    def nbytes(self) -> int:
        """Size of the file in bytes."""
        return self.stored.nbytes

    @property
    def read_paths(self) -> list[Path]:
        """Paths of the file and of the files that hold its rows; no output may replace them."""
        sources = self.sources or ()
        return [self.path, *(Path(self.sources.path_of(i)) for i in range(len(sources)) if self.sources)]

    @property
    def n_rows(self) -> int:
        """Number of rows, with and without a descriptor."""
        return self.stored.features.shape[0]

    @property
    def dimension(self) -> int:
        """Length of a descriptor."""
        return self.stored.features.shape[1]

    @property
    def dtype(self) -> np.dtype[np.floating[Any]]:
        """Type of the descriptors: float32 or float16."""
        return self.stored.features.dtype

    @property
    def n_images(self) -> int:
        """Number of images."""
        return self.stored.shape("images/status")[0]

    @cached_property
    def features(self) -> npt.NDArray[np.floating[Any]] | VirtualFeatures:
        """``(R, D)`` float32 or float16, memory-mapped and read-only, including failed and pending rows.

        If the rows of a merged file are stored in other files, an object that is indexed by rows and columns.
        """
        return self.stored.map("features") if self.sources is None else VirtualFeatures(self.sources)

    def drop_pages(self) -> None:
        """Release the memory pages of the mapped :attr:`features`."""
        if isinstance(self.features, np.memmap):
            drop_pages(self.features._mmap)  # type: ignore[attr-defined]

    @property
    def boxes(self) -> npt.NDArray[np.float64]:
        """``(R, 4)`` float64, ``xyxy`` edges in pixels of the image as displayed, half-open, not clipped."""
        return self.stored.read("boxes")

    @property
    def image_index(self) -> npt.NDArray[np.int64]:
        """``(R,)`` int64: index of each row's image."""
        return self.stored.read("image_index")

    @cached_property
    def paths(self) -> list[str]:
        """``(N,)`` texts: path of each image, relative to :attr:`root`, decoded by ``os.fsdecode``."""
        return [os.fsdecode(path) for path in self.path_table]

    @cached_property
    def path_table(self) -> PathTable:
        """:attr:`paths` as bytes, in a compact table."""
        return self.stored.read_paths("images/path")

    @cached_property
    def image_ids(self) -> list[str] | None:
        """``(N,)`` texts: the name an input table gives each image, empty for no name; None if no image has one."""
        return None if self.image_id_table is None else [os.fsdecode(name) for name in self.image_id_table]

    @cached_property
    def image_id_table(self) -> PathTable | None:
        """:attr:`image_ids` as bytes, in a compact table."""
        return self.stored.read_paths("images/id") if self.stored.has("images/id") else None

    def path_of(self, image: int) -> str:
        """Return the path of one image, relative to :attr:`root`."""
        return os.fsdecode(self.path_table[image])

    @property
    def image_hw(self) -> npt.NDArray[np.int32]:
        """``(N, 2)`` int32: height and width of each image as displayed, in pixels; 0 if unknown."""
        return self.stored.read("images/size")

    @property
    def image_rows(self) -> npt.NDArray[np.int64]:
        """``(N, 2)`` int64: half-open range of each image's rows."""
        return self.stored.read("images/rows")

    @property
    def status(self) -> npt.NDArray[np.uint8]:
        """``(N,)`` uint8: 0 pending, 1 done, 2 failed; reread on every access."""
        # Through a memory map: HDF5 may have cached values that another process has overwritten since.
        return np.array(self.stored.map("images/status"))

    @property
    def errors(self) -> dict[int, str]:
        """Reason for each failed image, by image index."""
        failed = np.flatnonzero(self.status == Status.FAILED)
        texts = self.stored.map("images/error")
        return {int(i): bytes(texts[i]).decode("utf-8", "replace") for i in failed}

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """``(N,)`` int64: class of each image, an index into :attr:`classes`, or -1."""
        return self.stored.read("images/label")

    @cached_property
    def classes(self) -> list[str]:
        """Class names of the images; empty if none are known."""
        return [os.fsdecode(name) for name in self.stored.read("classes")]

    @property
    def has_boxes(self) -> bool:
        """True if rows are boxes; False if they are whole images, which have no ``row_*`` attributes."""
        return self.stored.has("row_source")

    @property
    def row_source(self) -> npt.NDArray[np.int64]:
        """``(R,)`` int64: index of each row's box in the box file."""
        return self.stored.read("row_source")

    @property
    def row_flag(self) -> npt.NDArray[np.uint8]:
        """``(R,)`` uint8: flags of each box, as bits of :class:`sppfeat.config.regions.RowFlag`."""
        return np.array(self.stored.map("row_flag"))

    @property
    def row_scale(self) -> npt.NDArray[np.int32]:
        """``(R,)`` int32: short side of the network input of each row, in pixels; 0: the image's own size; -1: none."""
        return np.array(self.stored.map("row_scale"))

    @property
    def row_mirrored(self) -> npt.NDArray[np.bool_]:
        """``(R,)`` bool: True for rows pooled from the mirrored image."""
        return self.stored.read("row_mirrored").astype(bool)

    @property
    def row_region(self) -> npt.NDArray[np.int32]:
        """``(R, L, 4)`` int32: pooled cells of each layer's map, ``x0, y0, x1, y1``, half-open; zeros if not pooled."""
        return np.array(self.stored.map("row_region"))

    @property
    def row_label(self) -> npt.NDArray[np.int64]:
        """``(R,)`` int64: class of each row's box, an index into :attr:`row_classes`, or -1."""
        return self.stored.read("row_label")

    @property
    def row_score(self) -> npt.NDArray[np.float64]:
        """``(R,)`` float64: score of each box, NaN for none."""
        return self.stored.read("row_score")

    @cached_property
    def row_id(self) -> list[str]:
        """``(R,)`` texts: name of each box in the box file, empty for none."""
        return [os.fsdecode(name) for name in self.stored.read("row_id")]

    @cached_property
    def row_classes(self) -> list[str]:
        """Class names of the boxes; empty if none are known."""
        return [os.fsdecode(name) for name in self.stored.read("row_classes")] if self.has_boxes else []

    @cached_property
    def row_extra(self) -> dict[str, list[str]]:
        """Other columns of the box file, ``(R,)`` texts each, by name."""
        names = [os.fsdecode(name) for name in self.stored.read("row_extra_names")]
        columns = self.stored.read("row_extra").reshape(self.n_rows, len(names)).T
        return {name: [os.fsdecode(t) for t in column] for name, column in zip(names, columns, strict=True)}

    @property
    def box_row(self) -> npt.NDArray[np.int64]:
        """``(X,)`` int64: row of each box in the box file; -1 if its image is not among the inputs."""
        return self.stored.read("box_row")

    @property
    def target_names(self) -> list[str]:
        """Class names that ``y`` indexes: :attr:`row_classes` if boxes have classes, else :attr:`classes`."""
        return self.row_classes or self.classes

    @cached_property
    def columns(self) -> tuple[ColumnBlock, ...]:
        """The blocks of columns of a descriptor: layer, level, channels and range of each."""
        return self.stored.column_blocks()

    @property
    def is_reduced(self) -> bool:
        """True if the descriptors were reduced to fewer dimensions: see :attr:`reduction`."""
        return self.stored.is_reduced

    @cached_property
    def reduction(self) -> Reduction | None:
        """The projection that reduced the descriptors, which can reduce others; None for descriptors as extracted."""
        return self.stored.reduction() if self.is_reduced else None

    @property
    def reduction_fingerprint(self) -> str | None:
        """Fingerprint of the :attr:`reduction`; descriptors with different ones cannot be compared."""
        return None if self.reduction is None else self.reduction.fingerprint

    @property
    def extracted_columns(self) -> tuple[ColumnBlock, ...]:
        """Columns of the descriptors as extracted; :attr:`columns` if they were not reduced."""
        return self.columns if self.reduction is None else self.reduction.record.source_columns

    @cached_property
    def config(self) -> ExtractConfig:
        """Settings of the extraction, before any :attr:`reduction`."""
        return self.stored.config()

    @property
    def norm_factors(self) -> tuple[float, ...] | None:
        """Factor of each layer under ``meannorm``; None without it."""
        return self.stored.norm_factors()

    @property
    def shard(self) -> Shard | None:
        """The shard of a larger extraction that the file holds; None for a whole extraction."""
        return self.stored.shard()

    @property
    def schema_version(self) -> int:
        """Version of the file format."""
        return self.stored.schema_version

    @property
    def root(self) -> str:
        """Folder or URL that :attr:`paths` are relative to."""
        return self.attribute("input_root")

    def attribute(self, name: str) -> str:
        """Return a text attribute of the file.

        Raises:
            StoreError: the file has no such attribute.
        """
        return self.stored.attribute(name)

    def has_descriptor(self) -> npt.NDArray[np.bool_]:
        """Return ``(R,)`` bool, True for rows with a descriptor: the image is done, and a box has an area."""
        has_one = np.asarray(self.status[self.image_index] == Status.DONE)
        if self.has_boxes:
            has_one &= (self.row_flag & RowFlag.DEGENERATE) == 0
        return has_one

    def rows_with_descriptor(self) -> npt.NDArray[np.int64]:
        """Return the ``(n,)`` int64 indices of the rows with a descriptor, ascending."""
        return np.flatnonzero(self.has_descriptor())

    def count_boxes(self) -> dict[str, int]:
        """Count the rows, the rows with a descriptor, and the rows with each box flag."""
        flag = self.row_flag
        return {
            "rows": self.n_rows,
            "with_descriptor": len(self.rows_with_descriptor()),
            "of_failed_or_pending": int((self.status[self.image_index] != Status.DONE).sum()),
            "clipped": int(((flag & RowFlag.CLIPPED) != 0).sum()),
            "degenerate": int(((flag & RowFlag.DEGENERATE) != 0).sum()),
            "sub_cell": int(((flag & RowFlag.SUB_CELL) != 0).sum()),
        }


def _reopen(kind: type[FeatureTable], path: str, identity: tuple[Any, ...]) -> FeatureTable:
    file = kind(path)
    if file._identity != identity:
        file.close()
        raise StoreError(f"{path!r} is another file by now")
    return file
