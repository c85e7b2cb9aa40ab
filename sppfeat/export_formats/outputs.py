"""The files of an export: grown under other names, and in their places only when all of them are whole."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from sppfeat.errors import StoreError
from sppfeat.locking import OutputLock, check_new_file
from sppfeat.paths import StrPath
from sppfeat.placing import put_in_place

__all__ = ["OutputFiles"]


class OutputFiles:
    """New files that appear together, or none of them; ``with`` removes what was not placed.

    A link stays, and what it leads to is replaced. What a killed process left is written over by the next one.

    Args:
        paths: the outputs.
        inputs: what is read, which none of them may be.
        overwrite: whether they may replace files.

    Raises:
        ConfigError: an output is an input.
        StoreError: an output exists, is a folder, is being written by another process, or cannot be.
    """

    def __init__(self, paths: Sequence[str], *, inputs: Sequence[StrPath], overwrite: bool) -> None:
        self._targets = [Path(os.path.realpath(path)) for path in paths]
        for path in paths:
            check_new_file(Path(path), inputs=inputs, overwrite=overwrite)
        self._existed = [target.exists() for target in self._targets]
        self._stack = contextlib.ExitStack()
        self.files: list[BinaryIO] = []

    def __enter__(self) -> "OutputFiles":
        with contextlib.ExitStack() as opening:
            for target in self._targets:
                opening.enter_context(OutputLock(target))
                partial = _partial_of(target)
                opening.callback(_remove, partial)
                try:
                    self.files.append(opening.enter_context(open(partial, "w+b")))
                except OSError as error:
                    raise StoreError(f"cannot write {str(partial)!r}: {error.strerror}") from error
            self._stack = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What could not be written is still in the buffers of files: it cannot be written on closing, either.
        for file in self.files:
            with contextlib.suppress(OSError):
                file.close()
        self._stack.close()

    def place(self) -> int:
        """Give the files their names, the first one last: it is there only if the others are.

        Returns:
            Their bytes.

        Raises:
            OSError: they cannot be written out.
            StoreError: they cannot be renamed.
        """
        nbytes = 0
        for file in self.files:
            file.flush()
            os.fsync(file.fileno())
            nbytes += os.fstat(file.fileno()).st_size
            file.close()
        placed: list[Path] = []
        try:
            for target, existed in reversed(list(zip(self._targets, self._existed, strict=True))):
                put_in_place(_partial_of(target), target)
                if not existed:
                    placed.append(target)
        except BaseException:
            for target in placed:
                _remove(target)
            raise
        return nbytes


def _partial_of(target: Path) -> Path:
    return Path(f"{target}.sppfeat-export")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
