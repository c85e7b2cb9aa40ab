"""Checks of output paths, and the names of the temporary files next to an output."""

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from sppfeat.errors import ConfigError, StoreError

__all__ = [
    "check_new_file",
    "check_output",
    "extension_of",
    "layout_of",
    "refuse_input",
    "remove_leftovers",
    "replacement_of",
]


def check_output(path: Path) -> None:
    """Check that a path can hold an output file.

    Raises:
        StoreError: the path is a folder or anything else but a regular file, its folder is missing, or its name is
            too long.
    """
    real = Path(os.path.realpath(path))
    # os.path, because the methods of Path raise on a name that is too long or a folder that we may not enter.
    if os.path.isdir(real):
        example = str(path / "features.h5")
        raise StoreError(f"the output {str(path)!r} is a folder; give a file name such as {example!r}")
    if os.path.exists(real) and not os.path.isfile(real):
        raise StoreError(f"the output {str(path)!r} is not a regular file")
    if not os.path.isdir(real.parent):
        raise StoreError(f"the folder of the output does not exist: {str(real.parent)!r}")
    try:
        os.lstat(real)
    except OSError as error:  # such as that there is none
        if error.errno == errno.ENAMETOOLONG:
            raise StoreError(f"the output cannot be {str(path)!r}: {error.strerror}") from error


def check_new_file(path: Path, *, inputs: Sequence[object] = (), overwrite: bool) -> None:
    """Check that a new file may be written to a path; an existing one is replaced only with ``overwrite``.

    Only those inputs that are paths count.

    Raises:
        ConfigError: the output is one of the inputs.
        StoreError: as :func:`check_output` does, and if the output exists and may not be replaced.
    """
    check_output(path)
    refuse_input(path, inputs)
    if os.path.exists(path) and not overwrite:
        raise StoreError(f"{str(path)!r} exists; --overwrite replaces it")


def refuse_input(path: Path, inputs: Sequence[object]) -> None:
    """Raise ConfigError if an output is the same file as one of the inputs, even under another name."""
    paths = [given for given in inputs if isinstance(given, str | os.PathLike) and os.path.exists(given)]
    if os.path.exists(path) and any(os.path.samefile(path, given) for given in paths):
        raise ConfigError(f"the output {str(path)!r} is what is read; allowed: another file")


def layout_of(output: Path) -> Path:
    """Path under which a file is laid out before it takes its name; leftovers there are useless."""
    return Path(f"{output}.sppfeat-layout")


def extension_of(output: Path) -> Path:
    """Path of the longer copy that extends an output; leftovers there are useless."""
    return Path(f"{output}.sppfeat-longer")


def replacement_of(output: Path) -> Path:
    """Path of the file that will replace an output; the next run continues it after an interruption."""
    return Path(f"{output}.partial")


def remove_leftovers(output: Path) -> None:
    """Remove the useless remains of killed processes next to an output; the caller holds its lock."""
    longer = extension_of(output)
    for left in (layout_of(output), layout_of(replacement_of(output)), layout_of(longer), longer):
        # A file that cannot be removed only takes up space, and a full disk is reported by whatever needs the space.
        with contextlib.suppress(OSError):
            left.unlink(missing_ok=True)
