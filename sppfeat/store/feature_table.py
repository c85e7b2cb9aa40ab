"""An open feature file as arrays: its descriptors, rows and images."""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import Shard
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.machine import drop_pages, row_ranges
from sppfeat.config.regions import RowFlag
from sppfeat.config.values import StrPath
from sppfeat.config.wording import counted, one_line
from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.paths import PathTable
from sppfeat.store.hdf5 import (
    check_layout,
    hdf5_errors,
    is_reduced,
    read_column_blocks,
    read_dataset,
    text_attribute,
)
from sppfeat.store.reduction import FitRecord, Reduction
from sppfeat.store.schema import ColumnBlock, Status, count_boxes
from sppfeat.store.virtual_features import SourceFile, VirtualFeatures

__all__ = ["FeatureTable", "StoredFile"]


_PART_NBYTES = 4 << 20  # of one part of a dataset; of texts, the references count

_File = TypeVar("_File", bound="StoredFile")


def _dataset(name: str, meaning: str) -> Any:
    """Make a property that reads a dataset of numbers, with what another process has written since."""
    return property(lambda self: np.array(self.map(name)), doc=meaning)


class StoredFile:
    """The datasets, attributes and recorded settings of an open feature file; ``with`` closes it.

    Args:
        path: path of the file.

    Attributes:
        path: path of the file.
        stored_features: shape, type and position of the descriptors.

    Raises:
        StoreError: the file is missing, not HDF5, not a feature file, of a newer schema, or inconsistent. Properties
            raise it, too, where what they read is invalid.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(os.fsdecode(path))
        if not os.path.exists(self.path):  # Path.exists raises on a name that is too long
            raise StoreError(_explain_missing(self.path))
        if not self.path.is_file():
            raise StoreError(f"not a file: {str(self.path)!r}")
        with hdf5_errors(self.path, "cannot be opened as HDF5"):
            if os.access(self.path, os.R_OK) and not h5py.is_hdf5(self.path):
                raise OSError("it is something else; allowed: feature files, which 'sppfeat extract' writes")
            self._file = h5py.File(self.path, "r")
        try:
            self._nbytes_then = self.nbytes
            self.stored_features = check_layout(self._file, self.path)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self: _File) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; arrays already handed out, and memory maps of it, stay valid."""
        self._file.close()

    @property
    def nbytes(self) -> int:
        """Size of the file in bytes."""
        return self.stat().st_size

    def stat(self) -> os.stat_result:
        """Return ``os.stat_result`` of the open file, even if its name now belongs to another file."""
        return os.fstat(self._file.id.get_vfd_handle())

    def attribute(self, name: str) -> str:
        """Return a text attribute of the file.

        Raises:
            StoreError: the file has no such attribute.
        """
        value = text_attribute(self._file, name, self.path)
        if value is None:
            raise StoreError(f"{str(self.path)!r} has no text attribute {name!r}")
        return value

    def find_attributes(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return those of the named text attributes that the file has, as bytes."""
        found = {name: text_attribute(self._file, name, self.path) for name in names}
        return {name: os.fsencode(text) for name, text in found.items() if text is not None}

    def has(self, name: str) -> bool:
        """Return True if the file has an optional dataset, such as ``images/id``."""
        return name in self._file

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a dataset other than the descriptors."""
        shape: tuple[int, ...] = self._file[name].shape
        return shape

    def read(self, name: str) -> npt.NDArray[Any]:
        """Return the content of a dataset; texts come as bytes.

        Raises:
            StoreError: the dataset cannot be read, or the file was truncated.
        """
        self._check_length(name)
        return read_dataset(self._file, name, self.path)

    def read_parts(self, name: str) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """Yield a dataset in parts of a few megabytes: a range of entries, and their values."""
        self._check_length(name)
        dataset = self._file[name]
        row_nbytes = math.prod(dataset.shape[1:]) * dataset.id.get_type().get_size()
        for part in row_ranges(len(dataset), row_nbytes=row_nbytes, nbytes=_PART_NBYTES):
            with hdf5_errors(self.path, f"cannot read /{name}"):
                content = np.asarray(dataset[part])
            yield part, content

    def read_texts(self, name: str) -> PathTable:
        """Return a dataset of texts as a compact table, which spares 100 bytes per text."""
        return PathTable(chain.from_iterable(texts for _, texts in self.read_parts(name)))

    def map(self, name: str) -> npt.NDArray[Any]:
        """Return a dataset as a read-only memory map, or as an empty array.

        A map shows at once what another process writes; HDF5 may have cached older values.
        """
        self._check_length(name)
        with hdf5_errors(self.path, f"cannot read /{name}"):
            dataset = self._file[name]
            if 0 in dataset.shape:
                return read_dataset(self._file, name, self.path)
            # By file descriptor: another file may have been renamed to this path since.
            with os.fdopen(os.dup(self._file.id.get_vfd_handle()), "rb") as raw:
                return np.memmap(
                    raw, dtype=dataset.dtype, mode="r", offset=dataset.id.get_offset(), shape=dataset.shape
                )

    @property
    def schema_version(self) -> int:
        """Version of the file format."""
        return int(self._file.attrs["schema_version"])

    @cached_property
    def columns(self) -> tuple[ColumnBlock, ...]:
        """The blocks of columns of a descriptor: layer, level, channels and range of each."""
        return read_column_blocks(self._file, self.path)

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
        text = text_attribute(self._file, "norm_factors", self.path)
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

    @property
    def is_reduced(self) -> bool:
        """True if the descriptors were reduced to fewer dimensions: see :attr:`reduction`."""
        return is_reduced(self._file)

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
    def shard(self) -> Shard | None:
        """The shard of a larger extraction that the file holds; None for a whole extraction."""
        text = text_attribute(self._file, "shard", self.path)
        try:
            return None if text is None else Shard.from_json(text)
        except ConfigError as error:
            raise StoreError(f"{str(self.path)!r}: its attribute 'shard': {one_line(str(error))}") from error

    def virtual_features(self) -> VirtualFeatures | None:
        """Return the descriptors that other files hold, which are not opened; None if this file holds them itself."""
        if not self.stored_features.is_virtual:
            return None
        columns = [self.read(f"sources/{name}").tolist() for name in SourceFile._fields]
        files = tuple(SourceFile(*of_file) for of_file in zip(*columns, strict=True))
        return VirtualFeatures(self.path, files, self.stored_features.shape, self.stored_features.dtype)

    def _check_length(self, name: str) -> None:
        """Refuse a file that has become shorter since it was opened: HDF5 would read zeros."""
        if self.nbytes < self._nbytes_then:
            raise StoreError(
                f"{str(self.path)!r}: cannot read /{name}: the file was cut short since it was opened, "
                f"from {self._nbytes_then} to {self.nbytes} bytes"
            )


class FeatureTable(StoredFile):
    """The descriptors of a feature file and everything recorded with them.

    In the shapes below ``R`` is the number of rows, ``D`` the length of a descriptor, ``N`` the number of images, ``L``
    the number of layers, and ``X`` the number of boxes in the box file. :class:`sppfeat.store.reader.FeatureFile` adds
    selections. Files whose rows are whole images have no ``row_*`` attributes.

    Args:
        path: path of the file.

    Attributes:
        n_rows: number of rows, with and without a descriptor.
        dimension: length of a descriptor.
        n_images: number of images.
        dtype: type of the descriptors, float32 or float16.
        sources: the files that hold the rows, if 'sppfeat merge' made this one without copying; else None.

    Raises:
        StoreError: see :class:`~sppfeat.store.feature_table.StoredFile`; or a source of a merged file is missing or has
            changed.
    """

    def __init__(self, path: StrPath) -> None:
        super().__init__(path)
        try:
            self.n_rows, self.dimension = self.stored_features.shape
            self.n_images = self.shape("images/status")[0]
            self.dtype = self.stored_features.dtype
            self._identity = (self.attribute("fingerprint"), self.stored_features.shape)
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
        return _reopen, (type(self), os.path.abspath(self.path), self._identity)

    @property
    def read_paths(self) -> list[Path]:
        """Paths of the file and of the files that hold its rows; no output may replace them."""
        return [self.path, *map(Path, () if self.sources is None else self.sources.paths)]

    @cached_property
    def features(self) -> npt.NDArray[np.floating[Any]] | VirtualFeatures:
        """``(R, D)`` float32 or float16, memory-mapped and read-only, including failed and pending rows.

        If the rows of a merged file are stored in other files, an object that is indexed by rows and columns.
        """
        return self.map("features") if self.sources is None else self.sources

    def drop_pages(self) -> None:
        """Release the memory pages of the mapped :attr:`features`."""
        if isinstance(self.features, np.memmap):
            drop_pages(self.features._mmap)  # type: ignore[attr-defined]

    boxes: npt.NDArray[np.float64] = _dataset(
        "boxes",
        "``(R, 4)`` float64, ``xyxy`` edges in pixels of the image as displayed, half-open, not clipped.",
    )
    image_index: npt.NDArray[np.int64] = _dataset("image_index", "``(R,)`` int64: index of each row's image.")
    image_hw: npt.NDArray[np.int32] = _dataset(
        "images/size",
        "``(N, 2)`` int32: height and width of each image as displayed, in pixels; 0 if unknown.",
    )
    image_rows: npt.NDArray[np.int64] = _dataset(
        "images/rows", "``(N, 2)`` int64: half-open range of each image's rows."
    )
    status: npt.NDArray[np.uint8] = _dataset(
        "images/status", "``(N,)`` uint8: 0 pending, 1 done, 2 failed; reread on every access."
    )
    labels: npt.NDArray[np.int64] = _dataset(
        "images/label", "``(N,)`` int64: class of each image, an index into :attr:`classes`, or -1."
    )
    row_source: npt.NDArray[np.int64] = _dataset(
        "row_source", "``(R,)`` int64: index of each row's box in the box file."
    )
    row_flag: npt.NDArray[np.uint8] = _dataset(
        "row_flag",
        "``(R,)`` uint8: flags of each box, as bits of :class:`sppfeat.config.regions.RowFlag`.",
    )
    row_scale: npt.NDArray[np.int32] = _dataset(
        "row_scale",
        "``(R,)`` int32: short side of the network input of each row, in pixels; 0: the image's own size; -1: none.",
    )
    row_region: npt.NDArray[np.int32] = _dataset(
        "row_region",
        "``(R, L, 4)`` int32: pooled cells of each layer's map, ``x0, y0, x1, y1``, half-open; zeros if not pooled.",
    )
    row_label: npt.NDArray[np.int64] = _dataset(
        "row_label", "``(R,)`` int64: class of each row's box, an index into :attr:`row_classes`, or -1."
    )
    row_score: npt.NDArray[np.float64] = _dataset(
        "row_score", "``(R,)`` float64: score of each box, NaN for none."
    )
    box_row: npt.NDArray[np.int64] = _dataset(
        "box_row", "``(X,)`` int64: row of each box in the box file; -1 if its image is not among the inputs."
    )

    @property
    def row_mirrored(self) -> npt.NDArray[np.bool_]:
        """``(R,)`` bool: True for rows pooled from the mirrored image."""
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
        return list(map(os.fsdecode, self.read("classes")))

    @property
    def has_boxes(self) -> bool:
        """True if rows are boxes; False if they are whole images."""
        return self.has("row_source")

    @cached_property
    def row_id(self) -> list[str]:
        """``(R,)`` texts: name of each box in the box file, empty for none."""
        return list(map(os.fsdecode, self.read("row_id")))

    @cached_property
    def row_classes(self) -> list[str]:
        """Class names of the boxes; empty if none are known."""
        return list(map(os.fsdecode, self.read("row_classes"))) if self.has_boxes else []

    @cached_property
    def row_extra(self) -> dict[str, list[str]]:
        """Other columns of the box file, ``(R,)`` texts each, by name."""
        names = list(map(os.fsdecode, self.read("row_extra_names")))
        columns = self.read("row_extra").reshape(self.n_rows, len(names)).T
        return {name: list(map(os.fsdecode, column)) for name, column in zip(names, columns, strict=True)}

    @property
    def target_names(self) -> list[str]:
        """Class names that ``y`` indexes: :attr:`row_classes` if boxes have classes, else :attr:`classes`."""
        return self.row_classes or self.classes

    @property
    def reduction_fingerprint(self) -> str | None:
        """Fingerprint of the :attr:`reduction`; descriptors with different ones cannot be compared."""
        return None if self.reduction is None else self.reduction.fingerprint

    @property
    def extracted_columns(self) -> tuple[ColumnBlock, ...]:
        """Columns of the descriptors as extracted; :attr:`columns` if they were not reduced."""
        return self.columns if self.reduction is None else self.reduction.record.source_columns

    @property
    def root(self) -> str:
        """Folder or URL that :attr:`paths` are relative to."""
        return self.attribute("input_root")

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
        return count_boxes(self.row_flag, np.asarray(self.status[self.image_index] == Status.DONE))


def _reopen(kind: type[FeatureTable], path: str, identity: tuple[Any, ...]) -> FeatureTable:
    file = kind(path)
    if file._identity != identity:
        file.close()
        raise StoreError(f"{path!r} is another file by now")
    return file


def _explain_missing(path: Path) -> str:
    from sppfeat.files.remote import shown, url_of

    url = url_of(path)
    if url is None:
        return f"no such file: {str(path)!r}"
    return f"{shown(url)} is read from this machine only: fetch it first"
