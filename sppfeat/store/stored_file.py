"""A feature file as HDF5 stores it, checked when it is opened: known schema, consistent, each dataset in one piece.

A file crafted to attack the HDF5 library itself is not recognized.
"""

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import row_ranges
from sppfeat.config.values import StrPath
from sppfeat.config.wording import one_line
from sppfeat.errors import StoreError
from sppfeat.files.paths import PathTable
from sppfeat.store.memory_map import map_dataset
from sppfeat.store.schema import (
    FORMAT,
    REDUCED_SCHEMA_VERSION,
    ROW_COLUMNS,
    UNKNOWN,
    VERSION_COLUMNS,
    ColumnBlock,
    check_dimension,
    columns_of,
)
from sppfeat.store.virtual_features import SourceFile, VirtualFeatures

__all__ = ["StoredFile"]

_ATTRIBUTES = ("sppfeat_version", "config", "fingerprint", "weights_sha256", "input_root")
_LAYOUTS = {h5py.h5d.COMPACT: "compact", h5py.h5d.CHUNKED: "chunked", h5py.h5d.VIRTUAL: "virtual"}
# Depending on the damaged byte, h5py raises nearly any type of error.
_RAISED = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError)
_PART_NBYTES = 4 << 20  # of one part of a dataset; of texts, the references count
_File = TypeVar("_File", bound="StoredFile")


class StoredFile:
    """The datasets and attributes of an open feature file; ``with`` closes it.

    Attributes:
        path, absolute_path: path of the file, as given and absolute.
        n_rows: number of rows, with and without a descriptor.
        dimension: length of a descriptor.
        dtype: type of the descriptors, float32 or float16.
        is_virtual: True if the descriptors are stored in other files, which ``/sources`` lists.

    Raises:
        StoreError: the file is missing, not HDF5, not a feature file, of a newer schema, or inconsistent. Methods raise
            it, too, where what they read is missing or damaged.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(os.fsdecode(path))
        self.absolute_path = os.path.abspath(self.path)  # even if the process changes its folder later
        self._shown = repr(str(self.path))
        if not os.path.exists(self.path):  # Path.exists raises on a name that is too long
            raise StoreError(_explain_missing(self.path))
        if not self.path.is_file():
            raise StoreError(f"not a file: {self._shown}")
        with self._h5py_errors("cannot be opened as HDF5"):
            if os.access(self.path, os.R_OK) and not h5py.is_hdf5(self.path):
                raise StoreError(
                    f"{self._shown} is not an HDF5 file; allowed: feature files written by 'sppfeat extract'"
                )
            self._file = h5py.File(self.path, "r")
        try:
            self._nbytes_then = self.nbytes
            with self._h5py_errors("damaged feature file"):
                self._check()
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
        if not self._file:
            raise StoreError(f"{self._shown} is closed; open it again")
        return os.fstat(self._file.id.get_vfd_handle())

    def attribute(self, name: str) -> str:
        """Return a text attribute of the file, decoded by ``os.fsdecode``."""
        value = self._text_attribute(name)
        if value is None:
            raise StoreError(f"{self._shown} has no text attribute {name!r}")
        return value

    def find_attributes(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return those of the named text attributes that the file has, as bytes."""
        found = {name: self._text_attribute(name) for name in names}
        return {name: os.fsencode(text) for name, text in found.items() if text is not None}

    @property
    def schema_version(self) -> int:
        """Version of the file format."""
        return int(self._file.attrs["schema_version"])

    @property
    def is_reduced(self) -> bool:
        """True if the descriptors were reduced to fewer dimensions."""
        return "reduction" in self._file.attrs or "reduction" in self._file

    def has(self, name: str) -> bool:
        """Return True if the file has an optional dataset, such as ``images/id``."""
        return name in self._file

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a dataset other than the descriptors."""
        shape: tuple[int, ...] = self._file[name].shape
        return shape

    def place(self, name: str) -> tuple[int, int]:
        """Return the position of a dataset in the file and its size, both in bytes."""
        dataset = self._file[name]
        return dataset.id.get_offset() or 0, dataset.size * dataset.dtype.itemsize

    def read(self, name: str) -> npt.NDArray[Any]:
        """Return the content of a dataset; texts come as bytes."""
        self._check_length(name)
        return self._content(name)

    def read_parts(self, name: str) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """Yield a dataset in parts of a few megabytes: a range of entries, and their values.

        Versions that an older file does not have are unknown.
        """
        if name in VERSION_COLUMNS and not self.has(name):
            (n_images,) = self.shape("images/status")
            yield slice(0, n_images), np.full(n_images, UNKNOWN)
            return
        self._check_length(name)
        dataset = self._file[name]
        row_nbytes = math.prod(dataset.shape[1:]) * dataset.id.get_type().get_size()
        for part in row_ranges(len(dataset), row_nbytes=row_nbytes, nbytes=_PART_NBYTES):
            with self._h5py_errors(f"cannot read /{name}"):
                content = np.asarray(dataset[part])
            yield part, content

    def read_texts(self, name: str) -> PathTable:
        """Return a dataset of texts as a compact table, which spares 100 bytes per text."""
        return PathTable(chain.from_iterable(texts for _, texts in self.read_parts(name)))

    def read_column_blocks(self) -> tuple[ColumnBlock, ...]:
        """Return the blocks of columns that ``/columns`` records."""
        layers = [bytes(layer).decode() for layer in self._content("columns/layer")]
        numbers = (self._content(f"columns/{name}").tolist() for name in ColumnBlock._fields[1:])
        return tuple(ColumnBlock(*block) for block in zip(layers, *numbers, strict=True))

    def map(self, name: str) -> npt.NDArray[Any]:
        """Return a dataset as a read-only memory map, or as an empty array.

        A map shows at once what another process writes; HDF5 may have cached older values.
        """
        self._check_length(name)
        with self._h5py_errors(f"cannot read /{name}"):
            dataset = self._file[name]
            if 0 in dataset.shape:
                return self._content(name)
            # By file descriptor: another file may have been renamed to this path since.
            return map_dataset(
                self.absolute_path,
                self._file.id.get_vfd_handle(),
                dataset.dtype,
                offset=dataset.id.get_offset(),
                shape=dataset.shape,
            )

    def virtual_features(self) -> VirtualFeatures | None:
        """Return the descriptors of a merged file, without opening its sources; None if the file holds them itself."""
        if not self.is_virtual:
            return None
        columns = [self.read(f"sources/{name}").tolist() for name in SourceFile._fields]
        files = tuple(SourceFile(*of_file) for of_file in zip(*columns, strict=True))
        return VirtualFeatures(self.path, files, (self.n_rows, self.dimension), self.dtype)

    @contextlib.contextmanager
    def _h5py_errors(self, what: str) -> Iterator[None]:
        """Turn any error that h5py raises into a StoreError that names the file and what failed.

        Use this around reads only, so that it hides no bugs.
        """
        try:
            yield
        except _RAISED as error:
            raise StoreError(f"{self._shown}: {what}: {one_line(str(error))}") from error

    def _text_attribute(self, name: str) -> str | None:
        """Return a text attribute; None if it is missing or not a text."""
        with self._h5py_errors(f"cannot read the attribute {name!r}"):
            value = self._file.attrs.get(name)
        if isinstance(value, bytes):
            return os.fsdecode(bytes(value))
        return str(value) if isinstance(value, str) else None

    def _content(self, name: str) -> npt.NDArray[Any]:
        with self._h5py_errors(f"cannot read /{name}"):
            return np.asarray(self._file[name][()])

    def _check_length(self, name: str) -> None:
        """Refuse a file that has become shorter since it was opened: HDF5 would read zeros."""
        if self.nbytes < self._nbytes_then:
            raise StoreError(
                f"{self._shown}: cannot read /{name}: the file was cut short since it was opened, "
                f"from {self._nbytes_then} to {self.nbytes} bytes"
            )

    def _check(self) -> None:
        """Check that every dataset has the storage, type and shape that the schema demands, and agrees with the others.

        No other file is opened: for virtual descriptors ``/sources`` is checked, but not the files it names.
        """
        self._check_attributes()
        self._check_features()
        columns = columns_of(
            ids=self.has("images/id"),
            boxes=any(map(self.has, ROW_COLUMNS)),
            versions=any(map(self.has, VERSION_COLUMNS)),
            reduction=self.is_reduced,
            sources=self.is_virtual,
        )
        sizes = {"R": self.n_rows, "D": self.dimension}
        for name, (shape, dtype) in columns.items():
            self._check_column(name, shape, dtype, sizes)
        try:
            check_dimension(self.read_column_blocks(), sizes["D"])
        except StoreError as error:
            raise StoreError(f"{self._shown}: {error}") from error
        self._check_rows(sizes)
        if self.is_virtual:
            self._check_sources(sizes)

    def _check_attributes(self) -> None:
        if self._text_attribute("format") != FORMAT:
            raise StoreError(
                f"{self._shown} is an HDF5 file, but not a feature file: its attribute 'format' is not {FORMAT!r}"
            )
        version = self._file.attrs.get("schema_version")
        if not isinstance(version, np.integer) or version < 1:
            raise StoreError(
                f"{self._shown}: schema_version is {one_line(str(version))}; allowed: a number from 1"
            )
        if version > REDUCED_SCHEMA_VERSION:
            raise StoreError(
                f"{self._shown} has schema {version}; this sppfeat reads up to {REDUCED_SCHEMA_VERSION}: update sppfeat"
            )
        for name in (*_ATTRIBUTES, "reduction") if self.is_reduced else _ATTRIBUTES:
            self.attribute(name)

    def _check_features(self) -> None:
        features = self._dataset("features")
        if features.ndim != 2 or features.dtype not in (np.dtype("<f4"), np.dtype("<f2")):
            found = one_line(str(features.dtype))
            raise StoreError(
                f"{self._shown}: /features is {found} of {features.shape}; allowed: (R, D) f4 or f2"
            )
        self.n_rows: int = features.shape[0]
        self.dimension: int = features.shape[1]
        self.dtype: np.dtype[np.floating[Any]] = features.dtype
        # Only 'sppfeat merge' makes /features virtual, and it records the sources.
        self.is_virtual = bool(features.is_virtual and self.has("sources"))
        if not self.is_virtual:
            self._check_extent("features", features)

    def _dataset(self, name: str) -> h5py.Dataset:
        # A link may lead to another file.
        found = self._file[name] if self.has(name) else None
        if not isinstance(found, h5py.Dataset) or found.file != self._file:
            raise StoreError(f"{self._shown} has no dataset /{name}")
        return found

    def _check_column(
        self, name: str, wanted: tuple[str | int, ...], dtype: str, sizes: dict[str, int]
    ) -> None:
        """Compare one dataset with the schema; ``sizes`` holds the lengths of named dimensions, and is extended."""
        dataset = self._dataset(name)
        shape = dataset.shape or ()
        if dtype == "string":
            right_type = h5py.check_string_dtype(dataset.dtype) is not None
        else:
            right_type = dataset.dtype == np.dtype(dtype)
        right_shape = len(shape) == len(wanted) and all(
            (sizes.setdefault(side, found) if isinstance(side, str) else side) == found
            for side, found in zip(wanted, shape, strict=True)
        )
        if not right_type or not right_shape:
            sides = tuple(sizes.get(side, side) if isinstance(side, str) else side for side in wanted)
            found = one_line(str(dataset.dtype))
            raise StoreError(f"{self._shown}: /{name} is {found} of shape {shape}, not {dtype} of {sides}")
        self._check_extent(name, dataset)

    def _check_extent(self, name: str, dataset: h5py.Dataset) -> None:
        """Check that a dataset is one allocated piece of the file, or empty.

        Reading past the end of the file through a memory map kills the process, and a run that continues the file would
        write there.
        """
        properties = dataset.id.get_create_plist()
        kind = "external" if properties.get_external_count() else _LAYOUTS.get(properties.get_layout())
        if kind is not None:
            raise StoreError(
                f"{self._shown}: /{name} is {kind}; allowed: contiguous, in the file itself; unpack a chunked file "
                "with 'h5repack -l CONTI'"
            )
        if 0 in dataset.shape:
            return
        offset = dataset.id.get_offset()
        if offset is None:
            raise StoreError(f"{self._shown}: /{name} was never written: {dataset.shape}, without storage")
        content = math.prod(dataset.shape) * dataset.dtype.itemsize  # numpy's product would overflow
        if offset + max(content, dataset.id.get_storage_size()) > self.nbytes:
            raise StoreError(
                f"{self._shown} is truncated: /{name} ends beyond the end of the file ({self.nbytes} bytes)"
            )

    def _check_rows(self, sizes: dict[str, int]) -> None:
        rows = self._content("images/rows")
        if not _divides(rows[:, 0], rows[:, 1], sizes["R"]):
            raise StoreError(
                f"{self._shown}: /images/rows does not divide the {sizes['R']} rows among the images"
            )
        image_index = self._content("image_index")
        if ((image_index < 0) | (image_index >= sizes["N"])).any():
            raise StoreError(
                f"{self._shown}: /image_index refers to images that do not exist; the file has {sizes['N']}"
            )
        for name, limit in (
            (("row_source", "X"), ("row_label", "Q"), ("box_row", "R")) if "X" in sizes else ()
        ):
            numbers = self._content(name)
            least = 0 if name == "row_source" else -1
            if ((numbers < least) | (numbers >= sizes[limit])).any():
                raise StoreError(
                    f"{self._shown}: /{name} holds numbers outside {least} to {sizes[limit] - 1}"
                )

    def _check_sources(self, sizes: dict[str, int]) -> None:
        for what, n in (("image", sizes["N"]), ("row", sizes["R"])):
            ranges = self._content(f"sources/first_{what}"), self._content(f"sources/stop_{what}")
            if not _divides(*ranges, n):
                raise StoreError(f"{self._shown}: /sources does not divide the {n} {what}s among the sources")


def _divides(first: Any, stop: Any, n: int) -> bool:
    """Return True if half-open ranges follow one another from 0 to ``n``."""
    starts = np.concatenate(([0], stop))
    return bool((first == starts[:-1]).all() and (first <= stop).all() and starts[-1] == n)


def _explain_missing(path: Path) -> str:
    from sppfeat.files.remote import shown, url_of

    url = url_of(path)
    if url is None:
        return f"no such file: {str(path)!r}"
    return f"feature files are read from local disks only; download {shown(url)} first"
