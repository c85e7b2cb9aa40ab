"""A file that is a table of images: opened, and named in messages."""

import codecs
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from sppfeat.config.wording import one_line
from sppfeat.errors import ConfigError

__all__ = ["TableFile"]


@dataclass(frozen=True)
class TableFile:
    """A table of images.

    Attributes:
        path: of the file, absolute.
    """

    path: bytes

    @property
    def folder(self) -> bytes:
        """The folder that it lies in."""
        return os.path.dirname(self.path)

    def error(self, where: str, what: str) -> ConfigError:
        """Return an error that says in which file, where there, and what is wrong: found and allowed."""
        name = repr(os.fsdecode(self.path))
        return ConfigError(f"{name}, {where}: {what}" if where else f"{name}: {what}")

    @contextlib.contextmanager
    def read_errors(self) -> Iterator[None]:
        """Say of what the system refuses that it was this file.

        Raises:
            ConfigError: instead of OSError.
        """
        try:
            yield
        except OSError as error:
            raise self.error("", f"cannot be read: {one_line(error.strerror or str(error))}") from error

    @contextlib.contextmanager
    def open_text(self) -> Iterator[BinaryIO]:
        """The file, open for reading, without a byte order mark.

        Raises:
            ConfigError: it cannot be read, or is in UTF-16.
        """
        with self.read_errors(), open(self.path, "rb") as file:
            head = file.read(len(codecs.BOM_UTF8))
            if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise self.error("", "is in UTF-16; allowed: UTF-8")
            if head != codecs.BOM_UTF8:
                file.seek(0)
            yield file
