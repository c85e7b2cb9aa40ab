"""Safe access to HDF5 files of unknown origin: each dataset and attribute is checked before it is read.

A dataset must be stored in the file itself, claim no more bytes than the file can hold, and share none with another.
"""

import contextlib
import io
import itertools
import math
import os
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import row_ranges
from sppfeat.config.values import StrPath
from sppfeat.config.wording import one_line
from sppfeat.errors import StoreError
from sppfeat.store.text_heaps import check_texts, read_texts

__all__ = [
    "check_storage",
    "hdf5_errors",
    "is_linked",
    "is_scalar",
    "is_virtual",
    "linked_dataset",
    "new_hdf5",
    "open_dataset",
    "read_dataset",
    "read_in_parts",
    "text_attribute",
    "virtual_shape",
]

_MAX_ATTRIBUTE = 1 << 20  # characters; the longest attribute, config, has about a thousand
_MAX_LINKS = 16  # soft links on the way to a dataset: HDF5's own limit
_MAX_RATIO = 2000  # bytes of content per stored byte; deflate reaches 1032
_PART_NBYTES = 4 << 20  # of one part of a dataset; of texts, the references count
_SMALL_NBYTES = 1 << 20  # content that is allowed whatever its stored size


@contextlib.contextmanager
def hdf5_errors(path: Path, what: str) -> Iterator[None]:
    """Turn any error that h5py raises into a StoreError.

    Depending on the damaged byte, h5py raises nearly any type of error. Use this around reads only, so that it hides
    no bugs.

    Args:
        path: the file, for the message.
        what: the action that failed, for the message.
    """
    try:
        yield
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise StoreError(f"{str(path)!r}: {what}: {one_line(str(error))}") from error


@contextlib.contextmanager
def new_hdf5(path: StrPath, **settings: Any) -> Iterator[h5py.File]:
    """Create an HDF5 file and close it when the context ends; a full disk raises a single OSError.

    After an error, h5py prints a traceback for every object that it cannot close, when the last reference goes away.
    The references are dropped here, where those tracebacks can be discarded.

    Args:
        path: the file; an existing one is replaced.
        **settings: further arguments of :class:`h5py.File`.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        file = h5py.File(path, "w", **settings)
        try:
            yield file
        except BaseException as error:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(OSError, RuntimeError):
                traceback.clear_frames(error.__traceback__)
                file.close()
            raise
        with contextlib.redirect_stderr(io.StringIO()):
            file.close()
    except RuntimeError as error:  # from h5py, when the disk is full on closing
        raise OSError(str(error)) from error


def text_attribute(file: h5py.File, name: str, path: Path) -> str | None:
    """Return a text attribute of the file, decoded by ``os.fsdecode``; None if it is missing or not a text.

    Raises:
        StoreError: the attribute cannot be read, or is too long.
    """
    with hdf5_errors(path, f"cannot read the attribute {name!r}"):
        if name not in file.attrs:
            return None
        attribute = file.attrs.get_id(name)
        # Check the type before reading: all elements of an array of texts may refer to one long text.
        if h5py.check_string_dtype(attribute.dtype) is None or not is_scalar(attribute):
            return None
        value = file.attrs[name]
        text = os.fsdecode(bytes(value)) if isinstance(value, bytes) else str(value)
    if len(text) > _MAX_ATTRIBUTE:
        raise StoreError(
            f"{str(path)!r}: its attribute {name!r} has {len(text)} characters; allowed: {_MAX_ATTRIBUTE}"
        )
    return text


def is_scalar(attribute: h5py.h5a.AttrID) -> bool:
    """Return True if an attribute is a single value."""
    return bool(attribute.get_space().get_simple_extent_type() == h5py.h5s.SCALAR)


def linked_dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """Return a dataset that this file defines; its content may be stored in other files.

    Raises:
        StoreError: the dataset does not exist, or a link leads to another file.
    """
    with hdf5_errors(path, f"cannot open /{name}"):
        dataset = file[name] if is_linked(file, name, path) else None
    if not isinstance(dataset, h5py.Dataset):
        raise StoreError(f"{str(path)!r} has no dataset /{name}")
    return dataset


def is_virtual(dataset: h5py.Dataset) -> bool:
    """Return True if a dataset is composed of datasets of other files."""
    return bool(dataset.id.get_create_plist().get_layout() == h5py.h5d.VIRTUAL)


def virtual_shape(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Return the shape of a virtual dataset without opening its source files; ``dataset.shape`` opens them.

    Raises:
        ValueError: the dataset has no sources.
    """
    properties = dataset.id.get_create_plist()
    if not properties.get_virtual_count():
        raise ValueError("a virtual dataset that is made of nothing")
    return tuple(map(int, properties.get_virtual_vspace(0).get_simple_extent_dims()))


def open_dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """Return a dataset that this file both defines and stores.

    Raises:
        StoreError: the dataset does not exist, or its content is stored in other files.
    """
    dataset = linked_dataset(file, name, path)
    # Check before using its shape: that would open the sources of a virtual dataset.
    properties = dataset.id.get_create_plist()
    if is_virtual(dataset) or properties.get_external_count():
        kind = "virtual" if is_virtual(dataset) else "external"
        raise StoreError(
            f"{str(path)!r}: /{name} is {kind}, its content lies in other files; allowed: datasets of this file"
        )
    return dataset


def is_linked(file: h5py.File, name: str, path: Path) -> bool:
    """Return True if a name exists in the file. Links to other files are refused, never followed.

    Raises:
        StoreError: the name leads through another file, or through too many links.
    """
    group, rest, n_links = file, name.encode().split(b"/"), 0
    while rest:
        step = rest.pop(0)
        if step in (b"", b"."):
            continue
        if not isinstance(group, h5py.Group) or not group.id.links.exists(step):
            return False
        kind = group.id.links.get_info(step).type
        if kind == h5py.h5l.TYPE_SOFT:
            target = group.id.links.get_val(step)
            n_links += 1
            if n_links > _MAX_LINKS:
                raise StoreError(f"{str(path)!r}: /{name} is behind more than {_MAX_LINKS} soft links")
            group, rest = file if target.startswith(b"/") else group, target.split(b"/") + rest
        elif kind != h5py.h5l.TYPE_HARD:
            raise StoreError(
                f"{str(path)!r}: /{name} is a link to another file; allowed: datasets of this file"
            )
        elif rest:
            group = group[step]
    return True


def read_dataset(file: h5py.File, name: str, path: Path) -> npt.NDArray[Any]:
    """Return the content of a dataset of a checked file; texts come as bytes.

    Raises:
        StoreError: the dataset cannot be read, or its texts claim more bytes than the file has.
    """
    with hdf5_errors(path, f"cannot read /{name}"):
        dataset = file[name]
        text = h5py.check_string_dtype(dataset.dtype)
        if text is not None and text.length is None and dataset.size:
            return read_texts(file, dataset, path)
        return np.asarray(dataset[()])


def read_in_parts(file: h5py.File, name: str, path: Path) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """Yield a dataset of a checked file in parts: a range of entries, and their values.

    Raises:
        StoreError: see :func:`read_dataset`.
    """
    dataset = file[name]
    if h5py.check_string_dtype(dataset.dtype) is not None and dataset.dtype.kind == "O" and dataset.size:
        with hdf5_errors(path, f"cannot read /{name}"):
            # Chunked texts cannot be checked before they are read.
            source = dataset if check_texts(file, dataset, path) else read_texts(file, dataset, path)
    else:
        source = dataset
    row_nbytes = 16 * math.prod(dataset.shape[1:]) if source.dtype.kind == "O" else source[:1].nbytes
    for part in row_ranges(len(dataset), row_nbytes=row_nbytes, nbytes=_PART_NBYTES):
        with hdf5_errors(path, f"cannot read /{name}"):
            content = np.asarray(source[part])
        yield part, content


def check_storage(file: h5py.File, datasets: Mapping[str, h5py.Dataset], path: Path) -> None:
    """Refuse datasets that claim more bytes than the file has, or bytes of another dataset.

    A dataset that was never allocated takes no storage, but fills memory when it is read. Reading past the end of the
    file through a memory map kills the process, and a run that continues the file would write there.

    Args:
        file: the open file.
        datasets: all datasets that are read or written, by name.
        path: the file, for messages.

    Raises:
        StoreError: a dataset is not allocated, truncated, too large for its storage, or overlaps another one.
    """
    file_nbytes = os.fstat(file.id.get_vfd_handle()).st_size
    extents = []
    for name, dataset in datasets.items():
        if 0 in dataset.shape:
            continue
        stored = dataset.id.get_storage_size()
        content = math.prod(dataset.shape) * dataset.dtype.itemsize  # numpy's product would overflow
        if dataset.chunks is not None:
            _check_chunks(name, dataset, content, min(stored, file_nbytes), path)
        elif dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS:
            offset = dataset.id.get_offset()
            if offset is None:
                raise StoreError(
                    f"{str(path)!r}: /{name} was never written: {dataset.shape}, without storage"
                )
            end = offset + max(content, stored)
            if end > file_nbytes:
                raise StoreError(
                    f"{str(path)!r} is truncated: /{name} ends behind the end of the file ({file_nbytes} bytes)"
                )
            extents.append((offset, end, name))
    extents.sort()
    for (_, end, name), (start, _, other) in itertools.pairwise(extents):
        if start < end:
            raise StoreError(f"{str(path)!r}: /{name} and /{other} share bytes of the file; each has its own")


def _check_chunks(name: str, dataset: h5py.Dataset, content: int, stored: int, path: Path) -> None:
    n_chunks = math.prod(-(-side // part) for side, part in zip(dataset.shape, dataset.chunks, strict=True))
    found = dataset.id.get_num_chunks()
    if found < n_chunks:
        raise StoreError(
            f"{str(path)!r}: /{name} was not written: {found} of its {n_chunks} chunks are there"
        )
    content = max(content, math.prod(dataset.chunks) * dataset.dtype.itemsize)
    if content > _MAX_RATIO * stored + _SMALL_NBYTES:
        raise StoreError(
            f"{str(path)!r}: /{name} claims {content} bytes of content in {stored} bytes of the file; "
            f"allowed: {_MAX_RATIO} times as much"
        )
