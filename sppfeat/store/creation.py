"""Creates an HDF5 file of a given layout under a temporary name, which is renamed when it is complete.

HDF5 allocates every dataset of :mod:`~sppfeat.store.schema` in one piece, in its oldest file format, and fills in what
is known. The file is then closed, its disk space is reserved, and it is synced and renamed. From then on
:mod:`sppfeat.store.writer` fills it without HDF5.
"""

import contextlib
import datetime
import errno
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sppfeat._version import __version__
from sppfeat.config.wording import reason_of
from sppfeat.errors import StoreError
from sppfeat.files.outputs import layout_of, written_aside
from sppfeat.store.schema import FORMAT, REDUCED_SCHEMA_VERSION, SCHEMA_VERSION, columns_of
from sppfeat.store.stored_file import StoredFile
from sppfeat.store.virtual_features import SourceFile

__all__ = ["FILE_DTYPES", "Entries", "FileLayout", "create_layout"]

FILE_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
_STRING: np.dtype[Any] = h5py.string_dtype("utf-8")
# Attributes of a file that those made of it take over.
_COPIED = (
    "config",
    "fingerprint",
    "weights_sha256",
    "weights_path",
    "input_root",
    "boxes_path",
    "norm_factors",
)
# Values for a dataset of a new file: its name, the entries to write, and one value for each.
Entries = tuple[str, Any, Any]


@dataclass(frozen=True, kw_only=True)
class FileLayout:
    """The structure of a new feature file.

    Attributes:
        columns: rows of the schema: the datasets besides ``/features``.
        sizes: length of each dimension that the schema names by a letter.
        dtype: type of the descriptors, ``float32`` or ``float16``.
        attributes: text attributes besides those of every file.
        sources: files that hold the descriptors, if ``/features`` is to be virtual; else empty.
    """

    columns: Mapping[str, tuple[tuple[str | int, ...], str]]
    sizes: Mapping[str, int]
    dtype: str
    attributes: Mapping[str, str | bytes]
    sources: Sequence[SourceFile] = ()

    @classmethod
    def like(cls, file: StoredFile, **added: bool) -> "FileLayout":
        """Return the layout of an open file; ``added`` are arguments of :func:`columns_of` for further datasets."""
        own = columns_of(ids=file.has("images/id"), boxes=file.has("row_source"))
        sizes = dict(zip("RD", file.stored_features.shape, strict=True))
        for name, (dims, _) in own.items():
            sizes |= {d: n for d, n in zip(dims, file.shape(name), strict=True) if isinstance(d, str)}
        return cls(
            columns={**own, **columns_of(ids=False, boxes=False, **added)},
            sizes=sizes,
            dtype=file.stored_features.dtype.name,
            attributes=file.find_attributes(_COPIED),
        )

    def shape(self, dims: Iterable[str | int]) -> tuple[int, ...]:
        """Return the lengths of dimensions of the schema."""
        return tuple(self.sizes[side] if isinstance(side, str) else side for side in dims)


@contextlib.contextmanager
def create_layout(path: Path, layout: FileLayout, entries: Iterable[Entries]) -> Iterator[Path]:
    """Create a file as :func:`create_file` does, with ``entries`` filled in and everything else reading as zeros.

    Yields:
        The temporary path. Code that writes to the file must sync it.
    """
    real = Path(os.path.realpath(path))
    with contextlib.ExitStack() as stack:
        try:
            part = stack.enter_context(written_aside(real, layout_of(real)))
            with _new_hdf5(part) as file:
                _write_attributes(file, layout)
                if layout.sources:
                    _create_virtual(file, layout)
                else:
                    _allocate(file, "features", layout.shape("RD"), FILE_DTYPES[layout.dtype])
                for name, (dims, dtype) in layout.columns.items():
                    _allocate(file, name, layout.shape(dims), _stored_dtype(dtype))
                needed, free = file.id.get_filesize(), shutil.disk_usage(real.parent).free
                if needed > free:
                    raise StoreError(
                        f"{str(path)!r} needs {needed / 1e9:.2f} GB and {str(real.parent)!r} has {free / 1e9:.2f} GB "
                        "free; fewer levels, --dtype float16 or another folder would do"
                    )
                for name, where, values in entries:
                    if len(values) and file[name].size:
                        file[name][where] = values
            _reserve_and_sync(part)
        except OSError as error:
            raise StoreError(f"cannot create {str(path)!r}: {reason_of(error)}") from error
        yield part


@contextlib.contextmanager
def _new_hdf5(path: Path) -> Iterator[h5py.File]:
    """Create an HDF5 file; on a full disk raise OSError, and drop what h5py prints for every object it cannot close."""
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            with h5py.File(path, "w", libver="earliest") as file:
                yield file
        except RuntimeError as error:  # from h5py, when the disk is full
            raise OSError(str(error)) from error


def _write_attributes(file: h5py.File, layout: FileLayout) -> None:
    always = {
        "format": FORMAT,
        "sppfeat_version": __version__,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    for name, value in {**always, **layout.attributes}.items():
        file.attrs.create(name, value, dtype=_STRING)
    version = REDUCED_SCHEMA_VERSION if "reduction" in layout.attributes else SCHEMA_VERSION
    file.attrs.create("schema_version", version, dtype="<i8")


def _stored_dtype(dtype: str) -> np.dtype[Any]:
    """Return the type in which HDF5 stores a type of the schema."""
    if dtype == "string":
        return _STRING
    plain = np.dtype(dtype)
    return np.dtype(h5py.string_dtype("utf-8", plain.itemsize)) if plain.kind == "S" else plain


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Create a contiguous dataset; numbers get their place at once and read as zeros, texts when they are written."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    if dtype.kind != "O":
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    h5_type = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(file.id, name.encode(), h5_type, h5py.h5s.create_simple(shape), layout, links)


def _create_virtual(file: h5py.File, layout: FileLayout) -> None:
    """Create ``/features`` as a virtual dataset, in which other programs read NaN where a source is missing."""
    shape = layout.shape("RD")
    features = h5py.VirtualLayout(shape, FILE_DTYPES[layout.dtype])
    for source in layout.sources:
        if source.n_rows:
            name = os.fsdecode(source.path.replace(b"%", b"%%"))  # HDF5 replaces %b by a number
            features[source.first_row : source.stop_row] = h5py.VirtualSource(
                name, "features", (source.n_rows, shape[1])
            )
    file.create_virtual_dataset("features", features, fillvalue=np.nan)


def _reserve_and_sync(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(fd, 0, os.fstat(fd).st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
        os.fsync(fd)
    finally:
        os.close(fd)
