"""Where what is measured writes."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sppfeat.errors import StoreError

__all__ = ["temporary_folder"]


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone afterwards.

    Raises:
        StoreError: there is no place for one.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="sppfeat-bench-")
    except OSError as error:
        raise StoreError(f"no folder for temporary files: {error}") from error
    with folder as name:
        yield Path(name)
