"""A file or folder of annotations: its bytes, their digest, and errors that name it."""

import codecs
import hashlib
import math
import os
import stat
from collections.abc import Collection
from functools import cached_property

from sppfeat.config.values import StrPath
from sppfeat.config.wording import reason_of
from sppfeat.errors import BoxError
from sppfeat.files.paths import MOST_WAYS, FolderWalk
from sppfeat.files.tables import NUMBER_RULE, has_utf16_mark, parse_number, shorten

__all__ = ["FOLDER_SUFFIXES", "AnnotationFiles"]

FOLDER_SUFFIXES = (b".xml", b".txt", b".npy")


class AnnotationFiles:
    """A box file or a folder of them, which remembers the digest of every file read.

    Args:
        path: path of the file or folder.

    Attributes:
        path: the path as text.
        is_folder: True for a folder.
        name: name of the file in its folder; empty for a folder.

    Raises:
        BoxError: the path does not exist, or is neither a file nor a folder.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = os.fspath(path)
        self._digests: dict[bytes, bytes] = {}
        try:
            raw = os.fsencode(self.path)
            mode = os.stat(raw).st_mode
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            raise BoxError(
                f"cannot read the box file {self.path!r}: {getattr(error, 'strerror', None) or error}"
            ) from error
        self.is_folder = stat.S_ISDIR(mode)
        if not self.is_folder and not stat.S_ISREG(mode):
            raise BoxError(f"cannot read boxes from {self.path!r}: it is neither a file nor a folder")
        self._folder, self.name = (raw, b"") if self.is_folder else os.path.split(raw)

    @property
    def stem(self) -> bytes:
        """The file's name without its suffix."""
        return os.path.splitext(self.name)[0]

    def error(self, where: str, what: str, name: bytes | None = None) -> BoxError:
        """Make an error that names the file, or the file ``name`` of the folder, the place in it, and the fault."""
        path = self.path if name is None or not self.is_folder else os.fsdecode(self._full(name))
        return BoxError(f"{path!r}, {where}: {what}" if where else f"{path!r}: {what}")

    def unexpected(self, where: str, found: object, allowed: str, name: bytes | None = None) -> BoxError:
        """Make an error that shows the value found; see :meth:`error`."""
        return self.error(where, f"found {shorten(found)}; allowed: {allowed}", name)

    def number(
        self,
        value: object,
        where: str,
        *,
        title: str = "found",
        or_blank: str = "",
        name: bytes | None = None,
    ) -> float:
        """Return a number, or NaN for None if ``or_blank`` says how a missing one is written.

        Anything else is an error that shows the value after ``title``.
        """
        if value is None and or_blank:
            return math.nan
        number = parse_number(value)
        if number is None:
            raise self.error(where, f"{title} {shorten(value)}; allowed: {NUMBER_RULE}{or_blank}", name)
        return number

    def head(self, n_bytes: int) -> bytes:
        """Read the first bytes of the file."""
        return self._read(self.name, n_bytes)

    def read(self, name: bytes | None = None) -> bytes:
        """Read the file, or the file ``name`` of the folder, and remember its digest."""
        if name is None and self.is_folder:
            raise self.error("", "is a folder; allowed for this format: one file")
        name = self.name if name is None else name
        content = self._read(name, -1)
        self._digests[name] = hashlib.sha256(content).digest()
        return content

    def read_text(self, name: bytes | None = None) -> bytes:
        """Read a text file and return its bytes without a byte order mark; UTF-16 and zero bytes are refused."""
        content = self.read(name)
        if has_utf16_mark(content):
            raise self.error("line 1", "the text is in UTF-16; allowed: UTF-8", name)
        zero = content.find(b"\0")
        if zero >= 0:
            line = content.count(b"\n", 0, zero) + 1
            raise self.error(f"line {line}", "found a zero byte '\\x00'; allowed: text in UTF-8", name)
        return content.removeprefix(codecs.BOM_UTF8)

    def files(self, suffix: bytes) -> list[bytes]:
        """List the files with a suffix, relative to the folder, in natural order, without hidden files.

        A single file is always listed, whatever its suffix. Two files that differ only by its case are refused.
        """
        if not self.is_folder:
            return [self.name]
        names = [name for name in self._names if _suffix(name) == suffix]
        stems: dict[bytes, bytes] = {}
        for name in names:
            other = stems.setdefault(os.path.splitext(name)[0], name)
            if other is not name:
                raise self.error(
                    "", f"is of the same image as {os.fsdecode(other)!r}; allowed: one file an image", name
                )
        return names

    @cached_property
    def _names(self) -> list[bytes]:
        walk = FolderWalk(
            self._folder,
            lambda name: _suffix(name) in FOLDER_SUFFIXES,
            unlistable=lambda name, error: self.error("", f"cannot be listed: {reason_of(error)}", name),
            found_often=lambda name: self.error(
                "", f"is found in more than {MOST_WAYS} ways, by links; allowed: {MOST_WAYS}", name
            ),
        )
        return list(walk)

    def files_of_format(self, suffix: bytes, kind: str, *, but: Collection[bytes] = ()) -> list[bytes]:
        """List the files with a suffix as :meth:`files` does, except those named ``but`` in a folder; at least one."""
        names = [name for name in self.files(suffix) if not (self.is_folder and name in but)]
        if not names:
            what = f"{suffix.decode()} file{kind}"
            raise self.error("", f"found no {what} in the folder; allowed: one or more")
        return names

    def has_file(self, name: bytes) -> bool:
        """Return True if this is a folder that contains the name, even as a dangling link."""
        return self.is_folder and os.path.lexists(self._full(name))

    def sha256(self) -> str:
        """Return the SHA-256 of the file; for a folder, that of the sorted names and digests of all files read."""
        if not self.is_folder:
            return self._digests[self.name].hex()
        # All digests have the same length and no name holds a zero byte, so no two folders give the same bytes.
        whole = b"".join(name + b"\0" + digest for name, digest in sorted(self._digests.items()))
        return hashlib.sha256(whole).hexdigest()

    def _full(self, name: bytes) -> bytes:
        return os.path.join(self._folder, name)

    def _read(self, name: bytes, n_bytes: int) -> bytes:
        try:
            with open(os.fsdecode(self._full(name)), "rb", opener=_open_at_once) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise self.error("", "is neither a file nor a folder; allowed: a file", name)
                return file.read(n_bytes)
        except OSError as error:
            raise self.error("", f"cannot be read: {reason_of(error)}", name) from error


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe would wait for its writer


def _suffix(name: bytes) -> bytes:
    return os.path.splitext(name)[1].lower()
