"""A feature file as stored: its datasets, attributes and settings, checked when it is opened."""

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
from sppfeat.config.machine import row_ranges
from sppfeat.config.values import StrPath
from sppfeat.config.wording import one_line
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
from sppfeat.store.schema import ColumnBlock
from sppfeat.store.virtual_features import SourceFile, VirtualFeatures

__all__ = ["StoredFile"]

_PART_NBYTES = 4 << 20  # of one part of a dataset; of texts, the references count
_File = TypeVar("_File", bound="StoredFile")


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


def _explain_missing(path: Path) -> str:
    from sppfeat.files.remote import shown, url_of

    url = url_of(path)
    if url is None:
        return f"no such file: {str(path)!r}"
    return f"{shown(url)} is read from this machine only: fetch it first"
