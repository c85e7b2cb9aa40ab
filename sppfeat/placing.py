"""The files beside an output that is being made, and how one of them takes its place."""

import contextlib
import os
from pathlib import Path

from sppfeat.errors import StoreError

__all__ = ["extension_of", "layout_of", "put_in_place", "remove_leftovers", "replace_file", "replacement_of"]


def layout_of(output: Path) -> Path:
    """Where a file is laid out before it has its name; what is left there by a killed process is worthless."""
    return Path(f"{output}.sppfeat-layout")


def extension_of(output: Path) -> Path:
    """Where a longer copy of an output is made; what is left there by a killed process is worthless."""
    return Path(f"{output}.sppfeat-longer")


def replacement_of(output: Path) -> Path:
    """Where the file grows that will replace an output; it is continued after an interruption."""
    return Path(f"{output}.partial")


def remove_leftovers(output: Path) -> None:
    """Remove what killed processes left beside an output and nobody can use; the caller holds its lock."""
    longer = extension_of(output)
    for left in (layout_of(output), layout_of(replacement_of(output)), layout_of(longer), longer):
        with contextlib.suppress(OSError):  # it harms nobody but takes space, of which is said when it lacks
            left.unlink(missing_ok=True)


def put_in_place(source: Path, target: Path) -> None:
    """Give a whole file its name, at once and for good; what had that name before is gone.

    Args:
        source: synced already.
        target: in the same folder.

    Raises:
        StoreError: no permission, or the target is a mount of its own.
    """
    try:
        os.replace(source, target)
    except OSError as error:
        raise StoreError(f"cannot rename {str(source)!r} to {str(target)!r}: {error.strerror}") from error
    # Some file systems cannot sync a folder, and some folders cannot be read; the rename has happened.
    with contextlib.suppress(OSError):
        fd = os.open(target.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Write a file under another name, sync it, and give it its own; the old one stays if that fails.

    Raises:
        StoreError: it cannot be written.
    """
    whole = path.with_name(f".{path.name}.part")
    try:
        with open(whole, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(whole, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            whole.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(f"cannot write {str(path)!r}: {error.strerror}") from error
        raise
