"""Parquet files, opened and read with errors that name them."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from sppfeat.config.machine import import_extra
from sppfeat.config.wording import one_line
from sppfeat.errors import SppfeatError

__all__ = ["PURPOSE", "arrow_errors", "open_parquet"]

PURPOSE = "reading a table of images"
# Without, pyarrow reads all of a row group's column at once.
_BUFFER_NBYTES = 1 << 20


@contextlib.contextmanager
def arrow_errors(path: bytes, kind: str, error_class: type[SppfeatError]) -> Iterator[None]:
    """Raise ``error_class`` for what pyarrow, or the system, refuses in a file of a kind."""
    pa = import_extra("pyarrow", extra="parquet", purpose=PURPOSE)
    try:
        yield
    except SppfeatError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        raise error_class(f"{os.fsdecode(path)!r} cannot be read as {kind}: {reason}") from error


def open_parquet(path: bytes) -> Any:
    """Return an open ``pyarrow.parquet.ParquetFile``; whoever calls this closes it, by force.

    Raises:
        ConfigError: pyarrow is not installed.
        OSError, ValueError: the file cannot be read, or is no Parquet.
    """
    parquet = import_extra("pyarrow.parquet", extra="parquet", purpose=PURPOSE)
    # As a file of Python: pyarrow takes no names that are not UTF-8.
    file = open(path, "rb")  # noqa: SIM115
    try:
        return parquet.ParquetFile(file, buffer_size=_BUFFER_NBYTES)
    except BaseException:
        file.close()
        raise
