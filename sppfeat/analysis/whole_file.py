"""Output files that are there when they are whole, and not before."""

import contextlib
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from sppfeat.errors import ConfigError, StoreError
from sppfeat.locking import check_output
from sppfeat.placing import put_in_place

__all__ = ["check_new_file", "whole_file"]


def check_new_file(path: Path, *, inputs: Sequence[Path], overwrite: bool) -> None:
    """Refuse an output that is an input, that exists, or that no file can be.

    Raises:
        ConfigError: it is one of the inputs.
        StoreError: it exists and may not be replaced, or is no file, or its folder is not there.
    """
    check_output(path)
    if not os.path.exists(path):
        return
    if any(os.path.exists(source) and os.path.samefile(path, source) for source in inputs):
        raise ConfigError(f"the output {str(path)!r} is what is read; allowed: another file")
    if not overwrite:
        raise StoreError(f"{str(path)!r} exists; --overwrite replaces it")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its name when all went well; otherwise nothing stays.

    Raises:
        StoreError: it cannot be written.
    """
    target = Path(os.path.realpath(path))  # a link stays
    partial = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.part")
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        put_in_place(partial, target)
    except OSError as error:
        raise StoreError(f"cannot write {str(path)!r}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
