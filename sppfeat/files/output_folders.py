"""Output folders: checks of their paths, and writing them under another name."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.outputs import OutputLock, check_output, put_in_place, sync_path, write_errors

__all__ = ["check_new_folder", "whole_folder"]


def check_new_folder(
    path: Path, *, marks: Sequence[str], inputs: Sequence[object] = (), overwrite: bool
) -> None:
    """Check that a new folder may be written to a path, and that no input is in the folder that it replaces.

    Only a folder of the same format is ever replaced: one that has a file of one of the names ``marks``.

    Raises:
        ConfigError: an input is in the folder.
        StoreError: as :func:`sppfeat.files.outputs.check_output` does; or the path exists, and is not such a folder or
            must not be replaced.
    """
    if not os.path.isdir(path):
        check_output(path)
        if os.path.lexists(path):
            raise StoreError(f"the output {str(path)!r} is a file; this format is a folder: use another name")
        return
    if not any(os.path.isfile(path / mark) for mark in marks):
        raise StoreError(
            f"the output {str(path)!r} is a folder of other files, which is never replaced; use another name"
        )
    real = os.path.realpath(path)
    for given in inputs:
        if isinstance(given, str | os.PathLike):
            read = os.path.realpath(os.fsdecode(given))
            if os.path.commonpath([real, read]) == real:
                raise ConfigError(
                    f"the output {str(path)!r} holds the input {os.fsdecode(given)!r}; use another name"
                )
    if not overwrite:
        raise StoreError(f"{str(path)!r} exists; add --overwrite to replace it")


@contextlib.contextmanager
def whole_folder(path: Path, *, marks: Sequence[str], overwrite: bool) -> Iterator[Path]:
    """Provide an empty folder that takes its name at the end of the context; after an error the old one remains.

    The old folder is renamed, not removed, until the new one has its name. The next writer undoes the work of a process
    that was killed in between.

    Raises:
        StoreError: the folder cannot be written, another process is writing it, or it must not be replaced.
    """
    target = Path(os.path.realpath(path))  # a link stays
    partial, old = target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.old")
    with OutputLock(target), write_errors(str(path)):
        if old.exists() and not target.exists():
            old.rename(target)
        for left in (partial, old):
            if left.exists():
                shutil.rmtree(left)
        partial.mkdir()
        try:
            yield partial
            for folder, _, files in os.walk(partial):
                for name in [*files, "."]:
                    sync_path(os.path.join(folder, name))
            check_new_folder(path, marks=marks, overwrite=overwrite)
            with contextlib.ExitStack() as renamed:  # undone if the new folder cannot take its name
                if target.exists():
                    target.rename(old)
                    renamed.callback(old.rename, target)
                put_in_place(partial, target)
                renamed.pop_all()
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
