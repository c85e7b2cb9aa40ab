"""Images in an Arrow file, which are where they are: parts of the file."""

import contextlib
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.errors import StoreError
from sppfeat.files.byte_ranges import Place
from sppfeat.files.versions import FileVersion

__all__ = ["NULL", "ArrowStorage"]

NULL = -1


@dataclass(frozen=True)
class ArrowStorage:
    """Images in an Arrow file of this machine.

    Attributes:
        path: of the file, absolute.
        version: of the file when it was listed.
        offset: ``(n,)`` int64, of the first byte of each image.
        sizes: ``(n,)`` int64, bytes of each, or ``NULL``.
    """

    path: bytes
    version: FileVersion
    offset: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    is_local = True

    @property
    def nbytes(self) -> int:
        """Bytes of memory that this holds."""
        return self.offset.nbytes + self.sizes.nbytes

    def fetch(
        self,
        images: npt.NDArray[np.int64],
        scratch: Path,  # noqa: ARG002
    ) -> AbstractContextManager[Sequence[Place | str]]:
        """Parts of the file.

        Raises:
            StoreError: it is not there any more, or was changed.
        """
        try:
            version = FileVersion.of(self.path)
        except OSError as error:
            raise StoreError(f"{os.fsdecode(self.path)!r} cannot be read: {error.strerror}") from error
        if not version.has_content_of(self.version):
            raise StoreError(f"{os.fsdecode(self.path)!r} has changed since it was listed")
        found = zip(self.offset[images].tolist(), self.sizes[images].tolist(), strict=True)
        return contextlib.nullcontext([self._place(offset, nbytes) for offset, nbytes in found])

    def _place(self, offset: int, nbytes: int) -> Place | str:
        if nbytes == NULL:
            return "null in its table"
        return Place(self.path, offset, nbytes) if nbytes else "empty: no bytes in its table"
