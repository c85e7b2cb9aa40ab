"""The source files of a merged file, and checks that they have not changed since the merge."""

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from sppfeat.config.wording import one_line
from sppfeat.errors import StoreError
from sppfeat.files.versions import FileVersion
from sppfeat.store.check import StoredFeatures, check_features
from sppfeat.store.hdf5 import hdf5_errors, read_dataset, text_attribute

__all__ = ["SourceFile", "SourceFiles", "read_source_files", "recorded_path"]


class SourceFile(NamedTuple):
    """A file that holds rows of a merged file, as ``/sources/*`` records it at the merge.

    Attributes:
        path: path in the form of :func:`recorded_path`.
        first_image, stop_image: half-open range of its images in the merged file.
        first_row, stop_row: half-open range of its rows in the merged file.
        nbytes: size of the file.
        mtime_ns: modification time, in nanoseconds since 1970.
        offset: position of the first byte of its ``/features``.
        created: value of its attribute ``created``.
    """

    path: bytes
    first_image: int
    stop_image: int
    first_row: int
    stop_row: int
    nbytes: int
    mtime_ns: int
    offset: int
    created: bytes

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.stop_row - self.first_row


@dataclass(frozen=True)
class SourceFiles(Sequence[SourceFile]):
    """The source files of a merged file, in the order of its rows.

    Attributes:
        merged: path of the merged file, for messages.
        folder: folder of the merged file; relative paths start here.
        files: the sources.
        dimension: length of a descriptor.
        dtype: type of the descriptors, float32 or float16.
    """

    merged: Path
    folder: str
    files: tuple[SourceFile, ...]
    dimension: int
    dtype: np.dtype[np.floating[Any]]
    _known: dict[int, FileVersion] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: Any) -> Any:
        return self.files[i]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the record of checked files: another process checks them again."""
        return SourceFiles, (self.merged, self.folder, self.files, self.dimension, self.dtype)

    def path_of(self, i: int) -> str:
        """Return the path of source ``i``."""
        return os.path.normpath(os.path.join(self.folder, os.fsdecode(self.files[i].path)))

    def check(self) -> None:
        """Check that every source still has the size and modification time that it had at the merge.

        Raises:
            StoreError: a source is missing or has changed.
        """
        for i in range(len(self.files)):
            with self._naming_source(i):
                self._check_stat(i, os.stat(self.path_of(i)))

    def map(self, i: int) -> npt.NDArray[np.floating[Any]]:
        """Return the rows of source ``i``, ``(n, D)``, memory-mapped and read-only.

        Raises:
            StoreError: the source is missing or has changed since the merge.
        """
        source, path = self.files[i], self.path_of(i)
        with self._naming_source(i):
            # O_NONBLOCK: if a pipe has taken its place, opening it would block until somebody writes.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(fd, "rb") as raw:
                found = os.fstat(fd)
                self._check_stat(i, found)
                known = self._known.get(i)
                if known is None or not known.is_file_of(FileVersion.of(found)):
                    self._check_content(i)
                    self._known[i] = FileVersion.of(found)
                shape = (source.n_rows, self.dimension)
                return np.memmap(raw, dtype=self.dtype, mode="r", offset=source.offset, shape=shape)

    def _check_stat(self, i: int, found: os.stat_result) -> None:
        source, now = self.files[i], FileVersion.of(found)
        if not stat.S_ISREG(found.st_mode):
            raise self._changed(i, "it is not a regular file any more")
        if now.nbytes != source.nbytes:
            raise self._changed(i, f"it has {now.nbytes} bytes, and had {source.nbytes}")
        if now.mtime_ns != source.mtime_ns:
            then = [f"{np.datetime64(ns, 'ns')} UTC" for ns in (now.mtime_ns, source.mtime_ns)]
            raise self._changed(i, f"it was written at {then[0]}, and was of {then[1]}")

    def _check_content(self, i: int) -> None:
        """Refuse a file that has the right size and time, but its descriptors elsewhere or another ``created``."""
        source, path = self.files[i], Path(self.path_of(i))
        try:
            with hdf5_errors(path, "cannot be opened as HDF5"), h5py.File(path, "r") as file:
                found = check_features(file, path)
                created = text_attribute(file, "created", path) or ""
        except StoreError as error:
            raise self._changed(i, str(error)) from error
        expected = StoredFeatures((source.n_rows, self.dimension), self.dtype, source.offset, False)
        if found != expected:
            raise self._changed(i, f"its /features are {found.text()}, and were {expected.text()}")
        if os.fsencode(created) != source.created:
            raise self._changed(
                i, f"it was created {one_line(created)}, and was of {one_line(os.fsdecode(source.created))}"
            )

    def _changed(self, i: int, reason: str) -> StoreError:
        return StoreError(
            f"{str(self.merged)!r}: its source {self.path_of(i)!r} is not what was merged: {reason}; "
            "'sppfeat merge --overwrite' takes the sources as they are now"
        )

    @contextlib.contextmanager
    def _naming_source(self, i: int) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # a path with a NUL
            reason = error.strerror if isinstance(error, OSError) else error
            raise StoreError(
                f"{str(self.merged)!r}: its source {self.path_of(i)!r} cannot be read: {reason}; 'sppfeat merge "
                "--overwrite' merges files that lie elsewhere now"
            ) from error


def recorded_path(source: str, output: str) -> bytes:
    """Return a source's path in the form that a merged file records.

    Args:
        source, output: absolute paths without links.

    Returns:
        A path relative to the output's folder if the source is anywhere below that folder or its parent, so that both
        can be moved together; else the absolute path.
    """
    folder = os.path.dirname(output)
    beside = os.path.dirname(folder)
    near = folder if beside == os.path.dirname(beside) else beside  # the parent / does not count as near
    is_near = source.startswith(os.path.join(near, ""))
    return os.fsencode(os.path.relpath(source, folder) if is_near else source)


def read_source_files(file: h5py.File, path: Path, stored: StoredFeatures) -> SourceFiles:
    """Return the sources that a checked merged file records, without opening them."""
    columns = [read_dataset(file, f"sources/{name}", path).tolist() for name in SourceFile._fields]
    files = tuple(SourceFile(*of_file) for of_file in zip(*columns, strict=True))
    folder = os.path.dirname(os.path.realpath(path))
    return SourceFiles(path, folder, files, stored.shape[1], stored.dtype)
