"""A file or folder of annotations: its bytes, digest and images, and errors that name the file."""

import hashlib
import math
import os
import stat
from collections.abc import Collection, Mapping
from functools import cached_property

from sppfeat.boxes.table import BoxTableBuilder
from sppfeat.config.values import StrPath
from sppfeat.config.wording import counted, reason_of
from sppfeat.errors import BoxError
from sppfeat.files.paths import FolderWalk
from sppfeat.files.tables import TEXT_RULE, encode_text, parse_number, shorten, to_utf8

__all__ = ["FOLDER_SUFFIXES", "AnnotationFile", "AnnotationFiles", "ImageNames", "shape_notes"]

_MOST_BOXES = 200_000
_MOST_BOXES_PER_BYTE = 50

FOLDER_SUFFIXES = (b".xml", b".txt", b".npy", b".json")


class AnnotationFile:
    """A box file, given alone or found in a folder; messages show its ``path``."""

    def __init__(self, path: str, name: bytes, encoding: str | None = None) -> None:
        self.name = name
        self.encoding = encoding
        self.digest = b""  # SHA-256 of the bytes, once they are read
        self._path = path

    @property
    def stem(self) -> bytes:
        """The file's name without its suffix."""
        return os.path.splitext(self.name)[0]

    def error(self, where: str, what: str) -> BoxError:
        """Make an error that names the file, the place in it, and the fault."""
        return BoxError(f"{self._path!r}, {where}: {what}" if where else f"{self._path!r}: {what}")

    def unexpected(self, where: str, found: object, allowed: str) -> BoxError:
        """Make an error that shows the value found."""
        return self.error(where, f"found {shorten(found)}; allowed: {allowed}")

    def number(self, value: object, where: str, *, title: str = "found", or_blank: str = "") -> float:
        """Return a number, or NaN for None if ``or_blank`` describes a missing one.

        Anything else is an error that shows the value after ``title``.
        """
        if value is None and or_blank:
            return math.nan
        number = parse_number(value)
        if number is None:
            point = " with a decimal point" if isinstance(value, str) and "," in value else ""
            raise self.error(where, f"{title} {shorten(value)}; allowed: a number{point}{or_blank}")
        return number

    def encode(self, text: str, where: str) -> bytes:
        """Encode a text of the file; one that breaks ``TEXT_RULE`` is an error."""
        encoded = encode_text(text)
        if encoded is None:
            raise self.unexpected(where, text, TEXT_RULE)
        return encoded

    def check_expansion(self, where: str, n_boxes: int, n_bytes: int) -> None:
        """Limit the number of boxes in a compressed file of ``n_bytes``, in which a box may take almost no space.

        A box takes 150 bytes of memory. Windows on a grid, the most compressible boxes, reach 20 boxes per byte.
        """
        if n_boxes > max(_MOST_BOXES, _MOST_BOXES_PER_BYTE * n_bytes):
            found = f"found {n_boxes} boxes or more in {n_bytes} bytes"
            raise self.error(where, f"{found}; allowed: {_MOST_BOXES}, or {_MOST_BOXES_PER_BYTE} per byte")

    def head(self, n_bytes: int) -> bytes:
        """Read the first bytes of the file."""
        try:
            with open(self._path, "rb", opener=_open_at_once) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise self.error("", "is neither a file nor a folder; allowed: a file")
                return file.read(n_bytes)
        except OSError as error:
            raise self.error("", f"cannot be read: {reason_of(error)}") from error

    def read(self) -> bytes:
        """Read the file, and remember its digest."""
        content = self.head(-1)
        self.digest = hashlib.sha256(content).digest()
        return content

    def read_text(self) -> bytes:
        """Read a text file and return it in UTF-8, without a byte order mark; zero bytes are refused."""
        content = to_utf8(self, self.read(), self.encoding)
        zero = content.find(b"\0")
        if zero >= 0:
            line = content.count(b"\n", 0, zero) + 1
            utf16 = "for UTF-16 without a byte order mark add --encoding utf-16-le"
            raise self.error(f"line {line}", f"found a zero byte '\\x00'; allowed: text in UTF-8; {utf16}")
        return content


class AnnotationFiles:
    """A box file or a folder of them; any other path is a BoxError.

    ``encoding`` applies to text without a byte order mark, None for UTF-8; ``label`` names the column or attribute of
    classes, None for the usual ones. ``names`` takes image names from ``inside`` an annotation or from its ``file``;
    None lets the images of the run decide. ``images`` and ``categories`` are COCO instances that name the ids of
    results.
    """

    def __init__(
        self,
        path: StrPath,
        *,
        encoding: str | None = None,
        label: str | None = None,
        names: str | None = None,
        images: StrPath | None = None,
        categories: StrPath | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.encoding = encoding
        self.label = label
        self.names = names
        self.images, self.categories = (
            None if other is None else AnnotationFile(os.fspath(other), b"", encoding)
            for other in (images, categories)
        )
        self._whole = AnnotationFile(self.path, os.path.basename(os.fsencode(self.path)), encoding)
        self._files: dict[bytes, AnnotationFile] = {}  # those of a folder
        try:
            mode = os.stat(self.path).st_mode
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            reason = getattr(error, "strerror", None) or error
            raise BoxError(f"cannot read the box file {self.path!r}: {reason}") from error
        self.is_folder = stat.S_ISDIR(mode)
        if not self.is_folder and not stat.S_ISREG(mode):
            raise BoxError(f"cannot read boxes from {self.path!r}: it is neither a file nor a folder")

    def error(self, where: str, what: str) -> BoxError:
        """Make an error that names the file or folder, the place in it, and the fault."""
        return self._whole.error(where, what)

    @property
    def single(self) -> AnnotationFile:
        """The file itself; a folder is an error."""
        if self.is_folder:
            raise self.error("", "is a folder; allowed for this format: one file")
        return self._whole

    def files(self, suffix: bytes, *, but: Collection[bytes] = ()) -> list[AnnotationFile]:
        """List the files with a suffix in natural order, without hidden files and files named ``but``.

        A single file is always listed, whatever its name. Two files that differ only by the case of the suffix are
        refused.
        """
        if not self.is_folder:
            return [self._whole]
        files = [self._file(name) for name in self._names if _suffix(name) == suffix]
        stems: dict[bytes, AnnotationFile] = {}
        for file in files:
            other = stems.setdefault(file.stem, file)
            if other is not file:
                same = f"belongs to the same image as {os.fsdecode(other.name)!r}"
                raise file.error("", f"{same}; allowed: one file per image")
        return [file for file in files if os.path.basename(file.name) not in but]

    def files_of_format(
        self, suffix: bytes, *, kind: str = "", but: Collection[bytes] = ()
    ) -> list[AnnotationFile]:
        """List the files as :meth:`files` does, at least one."""
        files = self.files(suffix, but=but)
        if not files:
            raise self.error("", f"found no {suffix.decode()} file{kind} in the folder; allowed: one or more")
        return files

    @property
    def folder(self) -> str:
        """The folder, or the folder of the single file."""
        return self.path if self.is_folder else os.path.dirname(self.path)

    def beside(self, name: bytes) -> AnnotationFile:
        """Return a file by its path relative to the folder; once read, it is part of the digest."""
        return self._file(name)

    def sha256(self) -> str:
        """Return the SHA-256 of the file, or of the sorted names and digests of all files read.

        Options that change the meaning of the content are part of it if given.
        """
        # All digests have the same length and names have no zero byte, so different folders give different bytes.
        files = (self._whole, *self._files.values())
        read = sorted((file.name, file.digest) for file in files if file.digest)
        content = b"".join(name + b"\0" + digest for name, digest in read)
        is_one = not self.is_folder and len(read) == 1
        digest = self._whole.digest if is_one else hashlib.sha256(content).digest()
        others = [None if file is None else file.digest.hex() for file in (self.images, self.categories)]
        options = (self.label, self.names, *others)
        if any(option is not None for option in options):
            digest = hashlib.sha256(digest + repr(options).encode()).digest()
        return digest.hex()

    @cached_property
    def _names(self) -> list[bytes]:
        walk = FolderWalk(
            os.fsencode(self.path),
            lambda name: _suffix(name) in FOLDER_SUFFIXES,
            error=lambda folder, what: self._file(folder).error("", what),
        )
        return list(walk)

    def _file(self, name: bytes) -> AnnotationFile:
        path = os.path.join(self.folder, os.fsdecode(name))
        return self._files.setdefault(name, AnnotationFile(path, name, self.encoding))


def shape_notes(others: Mapping[str, int]) -> list[str]:
    """Describe shapes that are not boxes, counted by kind."""
    n = sum(others.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
    noun = counted(n, "shape is not a box and has", "shapes are not boxes and have")
    return [f"{noun} no row: {kinds}"] if n else []


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # opening a named pipe would wait for its writer


def _suffix(name: bytes) -> bytes:
    return os.path.splitext(name)[1].lower()


class ImageNames:
    """Adds the image of each annotation file to a table, under the right name.

    That is the name inside the file, or the file's own name with ``names="file"`` or without one inside. If the
    two differ and ``names`` does not choose, the table keeps both.
    """

    def __init__(self, source: AnnotationFiles, builder: BoxTableBuilder) -> None:
        self._choice = source.names
        self._builder = builder
        self._files: dict[int, AnnotationFile] = {}  # by image

    def add(self, file: AnnotationFile, inside: bytes, image_hw: tuple[int, int], where: str) -> int:
        """Return the index of the image of a file; ``where`` is the place of the name inside.

        Raises:
            BoxError: another file has an image of the same name.
        """
        is_inside = bool(inside) and self._choice != "file"
        own = b"" if not is_inside or self._choice or _agree(inside, file.stem) else file.stem
        image = self._builder.add_image(inside if is_inside else file.stem, image_hw, own_name=own)
        other = self._files.setdefault(image, file)
        if other is not file:
            found = f"found {shorten(os.fsdecode(inside))}, as in {os.fsdecode(other.name)!r}"
            hint = (
                "; add --box-names file to take the names of the files"
                if own or other.stem != file.stem
                else ""
            )
            raise file.error(where, f"{found}; allowed: one file per image{hint}")
        return image


def _agree(inside: bytes, stem: bytes) -> bool:
    """Return True if the name inside, with or without its suffix, equals the file's name."""
    name, own = (os.path.basename(path.strip().replace(b"\\", b"/")).lower() for path in (inside, stem))
    return own in (name, os.path.splitext(name)[0])
